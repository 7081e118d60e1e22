package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/shadowcast/shadowcast/configs/routers"
	"golang.org/x/sync/errgroup"
)

// router is one running router.
type router struct {
	name  string
	soft  routerSoftware
	procs []*Proc
}

// routerSoftware is what runs on a router: BIRD or FRR.
type routerSoftware interface {
	fmt.Stringer
	// configure writes the configuration; back is nil where there is no backbone.
	configure(c routers.RouterConfig, back *backbone) error
	start(ctx context.Context, l *Lab) ([]*Proc, error)
	// command asks as birdc or vtysh would.
	command(cmd string) (string, error)
	dump() []string // commands whose answers help to understand a failure
}

// backbone is the internal BGP between the outside routers, a session of each family.
type backbone struct {
	asn   uint32
	links []backboneLink
}

type backboneLink struct{ local, remote netip.Addr }

// bootstrapMetric makes the routes of the lab worse than BIRD's (metric 32). FRR's
// zebra takes them for better than BGP's, which on a direct link lead the same way.
const bootstrapMetric = 4096

// routerConf is the configuration of r1, r2 or in: the n-th of them.
func (l *Lab) routerConf(name string, n int) (routers.RouterConfig, *backbone) {
	c := routers.RouterConfig{
		Name: name, RouterID: RouterLoopback(n), ASN: OutsideASN, Role: routers.Outside, ApplianceASN: ApplianceASN,
		Liveness:    []netip.Prefix{livenessNet},
		BFDInterval: l.opt.BFD.Interval, BFDMultiplier: l.opt.BFD.Multiplier,
	}
	for _, v := range l.vips() {
		c.VIPs = append(c.VIPs, single(v))
	}
	back := &backbone{asn: OutsideASN, links: []backboneLink{{host(routerLink, n), host(routerLink, 3-n)}}}
	if l.opt.ipv6() {
		back.links = append(back.links, backboneLink{host(linkNet6(3, 0), n), host(linkNet6(3, 0), 3-n)})
	}
	net := n
	if name == "in" {
		c.ASN, c.Role, c.VIPs, c.Liveness, c.Inner = InsideASN, routers.Inside, nil, nil, append([]netip.Prefix{poolNet}, l.opt.Networks...)
		net, back = insideLink, nil
	}
	for _, a := range l.appliances {
		links := []netip.Prefix{linkNet(net, a.N)}
		if l.opt.ipv6() && back != nil {
			links = append(links, linkNet6(net, a.N))
		}
		for _, p := range links {
			c.Sessions = append(c.Sessions, routers.Session{Name: a.Name, Address: host(p, 2), LocalAddress: host(p, 1), Interface: a.Name})
		}
	}
	return c, back
}

// startRouters starts r1, r2 and in, and waits until each answers.
func (l *Lab) startRouters(ctx context.Context) error {
	var g errgroup.Group
	for i, name := range []string{"r1", "r2", "in"} {
		r := &router{name: name, soft: newBIRD(l, name)}
		if l.opt.FRR {
			soft, err := newFRR(l, name)
			if err != nil {
				return err
			}
			r.soft = soft
		}
		l.routers = append(l.routers, r)
		g.Go(func() error {
			conf, back := l.routerConf(name, i+1)
			if err := r.soft.configure(conf, back); err != nil {
				return err
			}
			return r.start(ctx, l)
		})
	}
	return g.Wait()
}

func (r *router) start(ctx context.Context, l *Lab) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 15*time.Second, errors.New("no answer within 15 s"))
	defer cancel()
	if r.procs, err = r.soft.start(ctx, l); err != nil {
		return fmt.Errorf("start %s of %s: %w", r.soft, r.name, err)
	}
	return nil
}

// answering waits until p answers; that it ended is an error.
func answering(ctx context.Context, p *Proc, logFile string, ask func() error) error {
	err := poll(ctx, 10*time.Millisecond, p.Name, func() (bool, error) {
		if !p.Alive() {
			return true, nil
		}
		err := ask()
		return err == nil, err
	})
	if err == nil && !p.Alive() {
		err = fmt.Errorf("%s ended, see %s", p.Name, logFile)
	}
	return err
}

// restartRouter starts a router again whose processes were killed.
func (l *Lab) restartRouter(ctx context.Context, name string) error {
	return l.router(name).start(ctx, l)
}

// router returns r1, r2 or in; nil where no such router runs.
func (l *Lab) router(name string) *router {
	for _, r := range l.routers {
		if r.name == name {
			return r
		}
	}
	return nil
}

// Kill ends the router's processes at once.
func (r *router) Kill() error {
	var errs []error
	for _, p := range r.procs {
		errs = append(errs, p.Kill())
	}
	return errors.Join(errs...)
}

// Alive reports whether every process of the router runs.
func (r *router) Alive() bool {
	for _, p := range r.procs {
		if !p.Alive() {
			return false
		}
	}
	return len(r.procs) > 0
}

// Usage sums up the router's processes.
func (r *router) Usage() (Usage, error) {
	var sum Usage
	for _, p := range r.procs {
		u, err := p.Usage()
		if err != nil {
			return sum, err
		}
		sum.CPU += u.CPU
		sum.PSS += u.PSS
		sum.Wakeups += u.Wakeups
	}
	return sum, nil
}

// Router asks r1, r2 or in, as birdc or vtysh would.
func (l *Lab) Router(name, command string) (string, error) {
	if r := l.router(name); r != nil {
		return r.soft.command(command)
	}
	return "", fmt.Errorf("ask router %s: no such router", name)
}
