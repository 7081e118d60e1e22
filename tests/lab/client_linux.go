package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Client is one VPN client: a namespace with a strongSwan of its own.
type Client struct {
	Name   string
	Spec   ConnSpec
	Addr   netip.Addr // its own interface
	Public netip.Addr // as gateways see it
	// Gateway is where it connects to, the VIP of its family unless changed before
	// Start.
	Gateway netip.Addr
	lab     *Lab
	ns      *Netns
	nat     *NAT
	charon  *charon
	cap     *capture
}

// clientOptions retransmit after 1, 1.4, 2 ... s, so that a lost message costs a
// test little.
const clientOptions = `retransmit_timeout = 1.0
  retransmit_base = 1.4
  retransmit_tries = 6
  keep_alive = 10s
  interfaces_use = ` + devClient

func (c *Client) gateway() netip.Addr {
	if c.Gateway.IsValid() {
		return c.Gateway
	}
	if c.Public.Is6() {
		return VIP6
	}
	return VIP
}

// Start starts the capture and charon and loads the connection.
func (c *Client) Start(ctx context.Context) error {
	if c.cap == nil {
		var err error
		if c.cap, err = startCapture(c.ns, devClient, c.Addr); err != nil {
			return err
		}
		c.lab.onClose(c.cap.close)
	}
	var err error
	if c.Spec.Site.IsValid() {
		if err := c.ns.addAddr("lo", netip.PrefixFrom(c.Spec.siteAddr(), c.Spec.Site.Addr().BitLen())); err != nil {
			return err
		}
	}
	options := clientOptions
	if c.Spec.NoRedirect {
		options += "\n  follow_redirects = no"
	}
	if c.charon, err = c.lab.startCharon(ctx, c.ns, c.Name, options, c.Spec.plugins()...); err != nil {
		return err
	}
	return c.loadConnection()
}

// Connect starts the client unless it runs, sets the tunnel up and returns the SA.
func (c *Client) Connect(ctx context.Context) (IKESA, error) {
	if c.charon == nil {
		if err := c.Start(ctx); err != nil {
			return IKESA{}, err
		}
	}
	d := 15 * time.Second
	if t, ok := ctx.Deadline(); ok {
		d = min(d, time.Until(t))
	}
	if _, err := c.charon.stream("initiate", "control-log", msg("child", "net", "ike", "home", "timeout", fmt.Sprint(d.Milliseconds()))); err != nil {
		return IKESA{}, err
	}
	return c.SA()
}

// SA returns the client's one IKE_SA that carries traffic, with an installed child;
// none, or several, is an error. Those on their way out do not count; one whose
// rekey is under way does.
func (c *Client) SA() (IKESA, error) {
	all, err := c.charon.list()
	if err != nil {
		return IKESA{}, err
	}
	var up []IKESA
	for _, s := range all {
		if s.State != "ESTABLISHED" && s.State != "REKEYING" {
			continue
		}
		if len(s.Installed()) > 0 {
			up = append(up, s)
		}
	}
	if len(up) != 1 {
		return IKESA{}, fmt.Errorf("client %s has %d established sessions, want 1: %v", c.Name, len(up), all)
	}
	return up[0], nil
}

// siteAddr is the address that a gateway of a site has in the network behind it.
func (s ConnSpec) siteAddr() netip.Addr { return s.Site.Addr().Next() }

// Inner is the inner address that the gateway assigned, or for a site one behind it.
func (c *Client) Inner() (netip.Addr, error) {
	s, err := c.SA()
	if err != nil {
		return netip.Addr{}, err
	}
	if c.Spec.Site.IsValid() {
		return c.Spec.siteAddr(), nil
	}
	if len(s.LocalVIPs) == 0 {
		return netip.Addr{}, fmt.Errorf("client %s has no inner address", c.Name)
	}
	a, err := netip.ParseAddr(s.LocalVIPs[0])
	if err != nil {
		return a, fmt.Errorf("read inner address of %s: %w", c.Name, err)
	}
	return a, nil
}

// RekeyChild asks the client to rekey its child SA and waits for the new one; the
// old one stays some seconds for what is under way.
func (c *Client) RekeyChild(ctx context.Context) error {
	before, err := c.SA()
	if err != nil {
		return err
	}
	return c.rekey(ctx, "child rekey", c.StartRekeyChild, func(s IKESA) bool {
		now := s.Installed()
		return len(now) == 1 && now[0].In != before.Installed()[0].In
	})
}

// RekeyIKE asks the client to rekey its IKE_SA and waits until it did.
func (c *Client) RekeyIKE(ctx context.Context) error {
	before, err := c.SA()
	if err != nil {
		return err
	}
	return c.rekey(ctx, "IKE rekey", c.StartRekeyIKE, func(s IKESA) bool {
		return s.SPIi != before.SPIi || s.SPIr != before.SPIr
	})
}

// StartRekeyChild begins a child rekey without waiting for it, for scenarios that
// break the exchange.
func (c *Client) StartRekeyChild() error {
	_, err := c.charon.command("rekey", msg("child", "net"))
	return err
}

// StartRekeyIKE begins an IKE rekey without waiting for it.
func (c *Client) StartRekeyIKE() error {
	_, err := c.charon.command("rekey", msg("ike", "home"))
	return err
}

func (c *Client) rekey(ctx context.Context, what string, start func() error, done func(IKESA) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 15*time.Second, errors.New("not done within 15 s"))
	defer cancel()
	if err := start(); err != nil {
		return err
	}
	return poll(ctx, 10*time.Millisecond, what+" of "+c.Name, func() (bool, error) {
		s, err := c.SA()
		return err == nil && done(s), err
	})
}

// Terminate ends the session; the client tells the gateway.
func (c *Client) Terminate() error {
	_, err := c.charon.stream("terminate", "control-log", msg("ike", "home", "timeout", "10000"))
	return err
}

// IKE returns the account of every IKE message the client sent or received.
func (c *Client) IKE() (*IKEAccount, error) {
	if c.cap == nil {
		return &IKEAccount{}, nil
	}
	return c.cap.account()
}

// Proc is the client's charon.
func (c *Client) Proc() *Proc { return c.charon.proc }

// Netns is the client's namespace.
func (c *Client) Netns() *Netns { return c.ns }

// NAT is the client's NAT, nil where there is none.
func (c *Client) NAT() *NAT { return c.nat }
