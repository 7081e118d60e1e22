package charon_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/charon/internal/charontest"
	"github.com/shadowcast/shadowcast/sa/charon/swanctl"
)

var update = flag.Bool("update", false, "rewrite testdata from what charon sends")

const slot sa.Slot = 7

// gateway is a charon of a slot with the daemon's end of its link.
type gateway struct {
	*charon.Instance
	ns   *charontest.NS
	link *charon.Link
	vici *charon.Vici
	spec charon.Spec
	dir  string

	mu   sync.Mutex
	msgs []charon.Message
	got  chan struct{}
}

func gatewaySpec(t *testing.T, ns *charontest.NS, dir string) charon.Spec {
	t.Helper()
	text, err := charon.Conf{
		Slot: slot, RunDir: dir, Pool4: netip.MustParsePrefix(charontest.Pool),
		LogFile: filepath.Join(dir, "charon.log"), RetransmitTimeout: time.Second, RetransmitBase: 1.4,
	}.Text()
	if err != nil {
		t.Fatal(err)
	}
	return charon.Spec{Name: filepath.Base(dir), Dir: dir, Netns: ns.Path, Conf: text, NeedHA: true}
}

func startGateway(t *testing.T, ctx context.Context) *gateway {
	t.Helper()
	ns, dir := charontest.NewNS(t), charontest.Dir(t)
	ns.Addr("lo", charontest.VIP+"/32")
	g := &gateway{ns: ns, dir: dir, spec: gatewaySpec(t, ns, dir), got: make(chan struct{}, 1)}
	var err error
	if g.link, err = charon.OpenLink(ns.Path, charon.LinkOptions{}); err != nil {
		t.Fatal(err)
	}
	if g.Instance, err = charon.Start(ctx, g.spec); err != nil {
		g.link.Close()
		t.Fatal(err)
	}
	g.vici = charon.NewVici(g.Instance.Vici())
	g.link.SetPeer(g.PID())
	run := make(chan error, 1)
	rctx, cancel := context.WithCancel(ctx)
	go func() {
		run <- g.link.Run(rctx, func(m charon.Message) {
			g.mu.Lock()
			g.msgs = append(g.msgs, m)
			g.mu.Unlock()
			select {
			case g.got <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-run; !errors.Is(err, context.Canceled) {
			t.Error("link ended:", err)
		}
		g.link.Close()
		g.vici.Close()
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

// wait returns the messages so far once they satisfy ok.
func (g *gateway) wait(t *testing.T, ctx context.Context, what string, ok func([]charon.Message) bool) []charon.Message {
	t.Helper()
	for {
		g.mu.Lock()
		ms := slices.Clone(g.msgs)
		g.mu.Unlock()
		if ok(ms) {
			return ms
		}
		select {
		case <-g.got:
		case <-ctx.Done():
			t.Fatalf("no %s among %d messages: %v", what, len(ms), ms)
		}
	}
}

func has(typ charon.MsgType, attrs ...charon.AttrType) func([]charon.Message) bool {
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

func loadGateway(t *testing.T, ctx context.Context, g *gateway, text string) {
	t.Helper()
	cfg, err := swanctl.Parse(g.dir, "swanctl.conf", text)
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Check(swanctl.Rules{VIPs: []netip.Addr{netip.MustParseAddr(charontest.VIP)}}); err != nil {
		t.Fatal(err)
	}
	if err := swanctl.Load(ctx, g.vici, cfg, charon.V3); err != nil {
		t.Fatal(err)
	}
}

func startClient(t *testing.T, ctx context.Context, gw *gateway) (*charon.Instance, *charon.Vici) {
	t.Helper()
	ns, dir := charontest.NewNS(t), charontest.Dir(t)
	charontest.Veth(ns, gw.ns, "wan", charontest.ClientIP+"/24", charontest.GWIP+"/24")
	ns.Route(charontest.VIP+"/32", charontest.GWIP)
	i, err := charon.Start(ctx, charon.Spec{Name: "client", Dir: dir, Netns: ns.Path, Conf: charontest.ClientConf(dir)})
	if err != nil {
		t.Fatal(err)
	}
	v := charon.NewVici(i.Vici())
	t.Cleanup(func() {
		v.Close()
		i.Kill()
		i.Close()
	})
	cfg, err := swanctl.Parse(dir, "swanctl.conf", charontest.ClientConns)
	if err != nil {
		t.Fatal(err)
	}
	if err := swanctl.LoadPlain(ctx, v, cfg); err != nil {
		t.Fatal(err)
	}
	return i, v
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestCharonPair connects a real client to gateway A, feeds what A sends, decoded
// and encoded again, to its twin B, and looks at both. The host's kernel need not
// have ESP: without it the IKE_SA comes up and its child fails.
func TestCharonPair(t *testing.T) {
	charontest.NeedCharon(t)
	ctx := testContext(t)
	a, b := startGateway(t, ctx), startGateway(t, ctx)
	_, client := startClient(t, ctx, a)
	for _, g := range []*gateway{a, b} {
		loadGateway(t, ctx, g, charontest.GatewayConns)
	}
	da, err := swanctl.LoadedDigest(ctx, a.vici)
	if err != nil || len(da) != 64 {
		t.Fatalf("digest of A: %q, %v", da, err)
	}
	if db, err := swanctl.LoadedDigest(ctx, b.vici); err != nil || db != da {
		t.Errorf("digest of B: %q, %v, want %q", db, err, da)
	}
	if err := a.link.Activate(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.link.Passivate(ctx); err != nil {
		t.Fatal(err)
	}

	events := make(chan charon.Event, 64)
	subscribed := make(chan struct{})
	ectx, ecancel := context.WithCancel(ctx)
	evDone := make(chan error, 1)
	go func() {
		evDone <- a.vici.Events(ectx, func() { close(subscribed) }, func(e charon.Event) { events <- e })
	}()
	select {
	case <-subscribed:
	case err := <-evDone:
		t.Fatal("events:", err)
	}

	ierr := client.Initiate(ctx, "home", "net", 15*time.Second)
	t.Log("initiate:", ierr) // fails at the child where the kernel has no ESP
	sas, err := a.vici.ListSAs(ctx, true)
	if err != nil || len(sas) != 1 {
		t.Fatalf("A lists %d SAs, %v (initiate: %v)", len(sas), err, ierr)
	}
	s := sas[0]
	if s.State != "ESTABLISHED" || s.Name != "rw" || s.RemoteID != "c1@example" || s.Initiator ||
		s.ID.Responder.Slot() != slot || s.Local.Addr().String() != charontest.VIP || s.Remote.Addr().String() != charontest.ClientIP {
		t.Errorf("A lists %+v", s)
	}
	if len(s.RemoteVIPs) != 1 || !netip.MustParsePrefix(charontest.Pool).Contains(s.RemoteVIPs[0]) {
		t.Errorf("inner address %v is not of %s", s.RemoteVIPs, charontest.Pool)
	}
	select {
	case e := <-events:
		if e.Kind != charon.EventIKEUpDown || !e.Up || e.IKE.ID != s.ID {
			t.Errorf("first event %+v", e)
		}
	case <-ctx.Done():
		t.Error("no ike-updown event")
	}

	ms := a.wait(t, ctx, "IKE_UPDATE with inner address", has(charon.IKEUpdate, charon.RemoteVIP))
	if !has(charon.IKEAdd, charon.Secret, charon.NonceI, charon.NonceR)(ms) || !has(charon.MIDResponder, charon.MID)(ms) ||
		!has(charon.IKEUpdate, charon.ConfigName)(ms) {
		t.Errorf("incomplete: %v", ms)
	}
	var fed []charon.Message
	for _, m := range ms {
		if r, err := m.SA(); !m.Type.Control() && (err != nil || r.ID != s.ID || r.Initiator) {
			t.Errorf("%s is about %v, %v; vici says %v", m, r, err, s.ID)
		}
		w, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := charon.Decode(w); err != nil {
			t.Fatal(err)
		} else if !m.Type.Control() {
			fed = append(fed, again)
		}
	}
	if *update {
		var out bytes.Buffer
		for _, m := range fed {
			w, _ := m.Encode()
			out.WriteString(hex.EncodeToString(w) + "\n")
		}
		os.MkdirAll("testdata", 0o755)
		if err := os.WriteFile("testdata/connect-5.9.8.hex", out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	if err := b.link.Send(ctx, fed...); err != nil {
		t.Fatal(err)
	}
	twin := waitSA(t, ctx, b)
	if twin.State != "PASSIVE" || twin.ID != s.ID || twin.Name != "rw" || twin.RemoteID != s.RemoteID || !slices.Equal(twin.RemoteVIPs, s.RemoteVIPs) {
		t.Errorf("B lists %+v", twin)
	}
	if n := b.link.Stats(); n.Sent != uint64(len(fed))+1 || n.PeerDrops != 0 {
		t.Errorf("link of B counts %+v", n)
	}
	if n := a.link.Stats(); n.Undecodable != 0 || n.KernelDrops != 0 || n.Received == 0 {
		t.Errorf("link of A counts %+v", n)
	}

	// An IKE rekey by the client: the new IKE_SA names the old one, whose
	// responder SPI ours keeps the label.
	if n, err := client.RekeyIKE(ctx, charon.Target{Name: "home"}); err != nil || n != 1 {
		t.Fatalf("rekey: %d, %v", n, err)
	}
	a.wait(t, ctx, "rekey", has(charon.IKEAdd, charon.RekeyID, charon.OldSKD))
	for e := range events {
		if e.Kind == charon.EventIKERekey {
			if e.IKE.ID != s.ID || e.New.ID.Responder.Slot() != slot {
				t.Errorf("rekey event from %s to %s", e.IKE.ID, e.New.ID)
			}
			break
		}
	}
	a.wait(t, ctx, "IKE_DELETE", has(charon.IKEDelete))

	// A gateway-initiated one: ours is then the initiator SPI.
	s2 := waitSA(t, ctx, a)
	if n, err := a.vici.RekeyIKE(ctx, charon.Target{ID: s2.UniqueID}); err != nil || n != 1 {
		t.Fatalf("rekey by the gateway: %d, %v", n, err)
	}
	var own charon.IKERef
	a.wait(t, ctx, "own rekey", func(ms []charon.Message) bool {
		return slices.ContainsFunc(ms, func(m charon.Message) bool {
			r, err := m.SA()
			if m.Type == charon.IKEAdd && err == nil && r.Initiator {
				own = r
			}
			return own.Initiator
		})
	})
	if own.ID.Initiator.Slot() != slot {
		t.Errorf("own IKE_SA %s does not carry slot %d", own.ID, slot)
	}
	if *update {
		a.wait(t, ctx, "update of the own rekey", func(ms []charon.Message) bool {
			return len(ms) > 0 && slices.ContainsFunc(ms, func(m charon.Message) bool {
				r, _ := m.SA()
				return m.Type == charon.IKEUpdate && r.ID == own.ID
			})
		})
		var out bytes.Buffer
		for _, m := range a.wait(t, ctx, "", func([]charon.Message) bool { return true })[len(fed):] {
			w, _ := m.Encode()
			out.WriteString(hex.EncodeToString(w) + "\n")
		}
		if err := os.WriteFile("testdata/rekey-5.9.8.hex", out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	if err := a.vici.TerminateIKE(ctx, charon.Target{Name: "rw"}, false, 5*time.Second); err != nil {
		t.Error(err)
	}
	ecancel()
	if err := <-evDone; !errors.Is(err, context.Canceled) {
		t.Errorf("events ended with %v", err)
	}
}

// waitSA returns the one IKE_SA of g.
func waitSA(t *testing.T, ctx context.Context, g *gateway) charon.IKESA {
	t.Helper()
	if err := g.link.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		sas, err := g.vici.ListSAs(ctx, true)
		if err != nil {
			t.Fatal(err)
		}
		if len(sas) == 1 && len(sas[0].RemoteVIPs) > 0 && sas[0].State != "CONNECTING" {
			return sas[0]
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("twin lists %+v", sas)
		}
	}
}

func TestViciBasics(t *testing.T) {
	charontest.NeedCharon(t)
	ctx := testContext(t)
	g := startGateway(t, ctx)
	rel, err := g.vici.Version(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := charon.VersionOf(rel); err != nil || v != charon.V3 {
		t.Errorf("HA version of %q: %v, %v", rel, v, err)
	}
	st, err := g.vici.Stats(ctx)
	if err != nil || !slices.Contains(st.Plugins, "ha") || st.WorkersTotal == 0 || st.Since.IsZero() {
		t.Errorf("stats %+v, %v", st, err)
	}
	if _, err := g.vici.Call(ctx, "load-conn", nil); err == nil {
		t.Log("empty load-conn accepted")
	}
	if err := g.vici.Initiate(ctx, "", "nope", time.Second); !errors.Is(err, charon.ErrRefused) {
		t.Errorf("initiate of an unknown child: %v", err)
	}
	if _, err := g.vici.FindSA(ctx, 4711); !errors.Is(err, charon.ErrNoSA) {
		t.Errorf("unknown SA: %v", err)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := g.vici.Version(short); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled call: %v", err)
	}
	if _, err := g.vici.Version(ctx); err != nil {
		t.Error("after a cancelled call:", err)
	}
}

func TestAdoptStop(t *testing.T) {
	charontest.NeedCharon(t)
	ctx := testContext(t)
	ns, dir := charontest.NewNS(t), charontest.Dir(t)
	spec := gatewaySpec(t, ns, dir)
	if _, err := charon.Adopt(ctx, spec); !errors.Is(err, charon.ErrNotRunning) {
		t.Errorf("adopt of nothing: %v", err)
	}
	i, err := charon.Start(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	defer i.Kill()
	if _, err := charon.Start(ctx, spec); err == nil || !strings.Contains(err.Error(), "already running") {
		t.Errorf("second start: %v", err)
	}
	other := spec
	other.Conf += "# changed\n"
	if _, err := charon.Adopt(ctx, other); !errors.Is(err, charon.ErrConfChanged) {
		t.Errorf("adopt with another conf: %v", err)
	}
	other = spec
	other.Netns = ""
	if _, err := charon.Adopt(ctx, other); err == nil || !strings.Contains(err.Error(), "namespace") {
		t.Errorf("adopt with another namespace: %v", err)
	}
	other = spec
	other.Binary = "/bin/sh"
	if _, err := charon.Adopt(ctx, other); err == nil {
		t.Error("adopt with another binary accepted")
	}
	j, err := charon.Adopt(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if j.PID() != i.PID() || !j.Alive() {
		t.Errorf("adopted pid %d, want %d", j.PID(), i.PID())
	}
	if err := j.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*charon.Instance{i, j} {
		select {
		case <-x.Done():
		case <-ctx.Done():
			t.Fatal("Done is not closed after Stop")
		}
	}
	if _, err := os.Stat(charon.ViciSocket(dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("vici socket after Stop: %v", err)
	}
	if _, err := charon.Adopt(ctx, spec); !errors.Is(err, charon.ErrNotRunning) {
		t.Errorf("adopt after Stop: %v", err)
	}
	k, err := charon.Start(ctx, spec)
	if err != nil {
		t.Fatal("start again:", err)
	}
	defer k.Close()
	if err := k.Kill(); err != nil {
		t.Fatal(err)
	}
	if k.Alive() {
		t.Error("alive after Kill")
	}
}

// TestAdoptStranger adopts a process that is not our child, as a restarted daemon
// does, and sees it end.
func TestAdoptStranger(t *testing.T) {
	charontest.NeedCharon(t)
	if os.Getenv("SC_TEST_START") != "" {
		spec := charon.Spec{Name: "orphan", Dir: os.Getenv("SC_TEST_START"), Netns: os.Getenv("SC_TEST_NS")}
		conf, err := os.ReadFile(filepath.Join(spec.Dir, "conf.in"))
		if err != nil {
			t.Fatal(err)
		}
		spec.Conf = string(conf)
		if _, err := charon.Start(testContext(t), spec); err != nil {
			t.Fatal(err)
		}
		return // the instance survives this process
	}
	ctx := testContext(t)
	ns, dir := charontest.NewNS(t), charontest.Dir(t)
	spec := gatewaySpec(t, ns, dir)
	if err := os.WriteFile(filepath.Join(dir, "conf.in"), []byte(spec.Conf), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestAdoptStranger$")
	c.Env = append(os.Environ(), "SC_TEST_START="+dir, "SC_TEST_NS="+ns.Path)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	i, err := charon.Adopt(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if rel, err := charon.NewVici(i.Vici()).Version(ctx); err != nil {
		t.Errorf("version %q: %v", rel, err)
	}
	if err := i.Kill(); err != nil {
		t.Fatal(err)
	}
	if i.Alive() {
		t.Error("alive after Kill")
	}
}

func TestStartFailures(t *testing.T) {
	ctx := testContext(t)
	dir := charontest.Dir(t)
	for _, tc := range []struct {
		name string
		spec charon.Spec
		want string
	}{
		{"relative", charon.Spec{Dir: "x"}, "not absolute"},
		{"long", charon.Spec{Dir: "/" + strings.Repeat("x", 120)}, "at most 107"},
		{"binary", charon.Spec{Dir: dir, Binary: "/nonexistent/charon"}, "Debian package charon-systemd"},
		{"ends", charon.Spec{Dir: dir, Binary: "/bin/false"}, "charon ended before its vici socket answered"},
		{"namespace", charon.Spec{Dir: dir, Binary: "/bin/false", Netns: "/nonexistent/ns"}, "network namespace"},
		{"silent", charon.Spec{Dir: dir, Binary: "/bin/cat", StartTimeout: 50 * time.Millisecond}, "ended before"},
	} {
		if _, err := charon.Start(ctx, tc.spec); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}
