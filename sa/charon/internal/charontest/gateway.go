package charontest

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/charon/swanctl"
)

// Slot is the slot of every Gateway.
const Slot sa.Slot = 7

// Gateway is the charon of a slot with the daemon's end of its link, in a
// namespace of its own. It keeps every message that charon sends.
type Gateway struct {
	*charon.Instance
	NS   *NS
	Link *charon.Link
	VICI *charon.Vici
	Dir  string

	t    testing.TB
	mu   sync.Mutex
	msgs []charon.Message
	got  chan struct{}
}

// Context ends with the test, or a minute after its start.
func Context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// GatewaySpec describes a gateway of Slot in ns whose directory is dir.
func GatewaySpec(t testing.TB, ns *NS, dir string) charon.Spec {
	t.Helper()
	text, err := charon.Conf{
		Slot: Slot, RunDir: dir, Pool4: netip.MustParsePrefix(Pool),
		LogFile: filepath.Join(dir, "charon.log"), RetransmitTimeout: time.Second, RetransmitBase: 1.4,
	}.Text()
	if err != nil {
		t.Fatal(err)
	}
	return charon.Spec{Name: filepath.Base(dir), Dir: dir, Netns: ns.Path, Conf: text, NeedHA: true}
}

// StartGateway starts a gateway with the VIP on lo; it is passive.
func StartGateway(t testing.TB, ctx context.Context) *Gateway {
	t.Helper()
	ns, dir := NewNS(t), Dir(t)
	ns.Addr("lo", VIP+"/32")
	g := &Gateway{NS: ns, Dir: dir, t: t, got: make(chan struct{}, 1)}
	var err error
	if g.Link, err = charon.OpenLink(ns.Path, charon.LinkOptions{}); err != nil {
		t.Fatal(err)
	}
	if g.Instance, err = charon.Start(ctx, GatewaySpec(t, ns, dir)); err != nil {
		g.Link.Close()
		t.Fatal(err)
	}
	g.VICI = charon.NewVici(g.Vici())
	g.Link.SetPeer(g.PID())
	run := make(chan error, 1)
	rctx, cancel := context.WithCancel(ctx)
	go func() { run <- g.Link.Run(rctx, g.receive) }()
	t.Cleanup(func() {
		cancel()
		if err := <-run; !errors.Is(err, context.Canceled) {
			t.Error("link ended:", err)
		}
		g.Link.Close()
		g.VICI.Close()
		if err := g.Kill(); err != nil {
			t.Error(err)
		}
		g.Instance.Close()
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(dir, "charon.log"))
			t.Logf("log of %s:\n%s", dir, b)
		}
	})
	return g
}

func (g *Gateway) receive(m charon.Message) {
	g.mu.Lock()
	g.msgs = append(g.msgs, m)
	g.mu.Unlock()
	select {
	case g.got <- struct{}{}:
	default:
	}
}

// Messages returns what charon has sent so far.
func (g *Gateway) Messages() []charon.Message {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.msgs)
}

// Wait returns the messages so far once they satisfy ok.
func (g *Gateway) Wait(ctx context.Context, what string, ok func([]charon.Message) bool) []charon.Message {
	g.t.Helper()
	for {
		ms := g.Messages()
		if ok(ms) {
			return ms
		}
		select {
		case <-g.got:
		case <-ctx.Done():
			g.t.Fatalf("no %s among %d messages: %v", what, len(ms), ms)
		}
	}
}

// Has is satisfied by a message of a type with attributes.
func Has(typ charon.MsgType, attrs ...charon.AttrType) func([]charon.Message) bool {
	return func(ms []charon.Message) bool {
		return slices.ContainsFunc(ms, func(m charon.Message) bool {
			for _, a := range attrs {
				if _, ok := m.Find(a); !ok {
					return false
				}
			}
			return m.Type == typ
		})
	}
}

// Load checks and loads a text as swanctl.conf.
func (g *Gateway) Load(ctx context.Context, text string) {
	g.t.Helper()
	cfg, err := swanctl.Parse(g.Dir, "swanctl.conf", text)
	if err == nil {
		err = cfg.Check(swanctl.Rules{VIPs: []netip.Addr{netip.MustParseAddr(VIP), netip.MustParseAddr(VIP2)}})
	}
	if err == nil {
		err = swanctl.Load(ctx, g.VICI, cfg, charon.V3)
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// SA waits until charon has exactly one IKE_SA that is set up and satisfies ok.
func (g *Gateway) SA(ctx context.Context, ok func(charon.IKESA) bool) charon.IKESA {
	g.t.Helper()
	if err := g.Link.Drain(ctx); err != nil {
		g.t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		sas, err := g.VICI.ListSAs(ctx, true)
		if err != nil {
			g.t.Fatal(err)
		}
		if len(sas) == 1 && ok(sas[0]) {
			return sas[0]
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			g.t.Fatalf("gateway lists %+v", sas)
		}
	}
}

// Settled is satisfied by an IKE_SA that is no longer being set up.
func Settled(s charon.IKESA) bool { return len(s.RemoteVIPs) > 0 && s.State != "CONNECTING" }

// StartClient starts a client on a veth to gw, with ClientConns loaded.
func StartClient(t testing.TB, ctx context.Context, gw *Gateway) *charon.Vici {
	t.Helper()
	_, v := StartClientWith(t, ctx, gw, ClientConns)
	return v
}

// StartClientWith starts a client with a swanctl.conf of the test's own, and
// returns its namespace too; the device to the gateway is called wan. further is for
// ClientConf.
func StartClientWith(t testing.TB, ctx context.Context, gw *Gateway, conns string, further ...string) (*NS, *charon.Vici) {
	t.Helper()
	ns, dir := NewNS(t), Dir(t)
	Veth(ns, gw.NS, "wan", ClientIP+"/24", GWIP+"/24")
	ns.Route(VIP+"/32", GWIP)
	i, err := charon.Start(ctx, charon.Spec{Name: "client", Dir: dir, Netns: ns.Path, Conf: ClientConf(dir, further...)})
	if err != nil {
		t.Fatal(err)
	}
	v := charon.NewVici(i.Vici())
	t.Cleanup(func() {
		v.Close()
		if err := i.Kill(); err != nil {
			t.Error(err)
		}
		i.Close()
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(dir, "charon.log"))
			t.Logf("log of the client:\n%s", b)
		}
	})
	cfg, err := swanctl.Parse(dir, "swanctl.conf", conns)
	if err == nil {
		err = swanctl.LoadPlain(ctx, v, cfg)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ns, v
}
