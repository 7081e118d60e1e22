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
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/charon/internal/charontest"
	"github.com/shadowcast/shadowcast/sa/charon/swanctl"
)

var update = flag.Bool("update", false, "rewrite testdata from what charon sends")

const slot = charontest.Slot

// TestCharonPair connects a real client to gateway A, feeds what A sends, decoded
// and encoded again, to its twin B, and looks at both. The host's kernel need not
// have ESP: without it the IKE_SA comes up and its child fails.
func TestCharonPair(t *testing.T) {
	charontest.NeedCharon(t)
	ctx := charontest.Context(t)
	a, b := charontest.StartGateway(t, ctx), charontest.StartGateway(t, ctx)
	client := charontest.StartClient(t, ctx, a)
	for _, g := range []*charontest.Gateway{a, b} {
		g.Load(ctx, charontest.GatewayConns)
	}
	da, err := swanctl.LoadedDigest(ctx, a.VICI)
	if err != nil || len(da) != 64 {
		t.Fatalf("digest of A: %q, %v", da, err)
	}
	if db, err := swanctl.LoadedDigest(ctx, b.VICI); err != nil || db != da {
		t.Errorf("digest of B: %q, %v, want %q", db, err, da)
	}
	if err := a.Link.Activate(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.Link.Passivate(ctx); err != nil {
		t.Fatal(err)
	}

	events := make(chan charon.Event, 64)
	subscribed := make(chan struct{})
	ectx, ecancel := context.WithCancel(ctx)
	evDone := make(chan error, 1)
	go func() {
		evDone <- a.VICI.Events(ectx, func() { close(subscribed) }, func(e charon.Event) { events <- e })
	}()
	select {
	case <-subscribed:
	case err := <-evDone:
		t.Fatal("events:", err)
	}

	ierr := client.Initiate(ctx, "home", "net", 15*time.Second)
	t.Log("initiate:", ierr) // fails at the child where the kernel has no ESP
	sas, err := a.VICI.ListSAs(ctx, true)
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

	ms := a.Wait(ctx, "IKE_UPDATE with inner address", charontest.Has(charon.IKEUpdate, charon.RemoteVIP))
	if !charontest.Has(charon.IKEAdd, charon.Secret, charon.NonceI, charon.NonceR)(ms) || !charontest.Has(charon.MIDResponder, charon.MID)(ms) ||
		!charontest.Has(charon.IKEUpdate, charon.ConfigName)(ms) {
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

	if err := b.Link.Send(ctx, fed...); err != nil {
		t.Fatal(err)
	}
	twin := b.SA(ctx, charontest.Settled)
	if twin.State != "PASSIVE" || twin.ID != s.ID || twin.Name != "rw" || twin.RemoteID != s.RemoteID || !slices.Equal(twin.RemoteVIPs, s.RemoteVIPs) {
		t.Errorf("B lists %+v", twin)
	}
	if n := b.Link.Stats(); n.Sent != uint64(len(fed))+1 || n.PeerDrops != 0 {
		t.Errorf("link of B counts %+v", n)
	}
	if n := a.Link.Stats(); n.Undecodable != 0 || n.KernelDrops != 0 || n.Received == 0 {
		t.Errorf("link of A counts %+v", n)
	}

	// An IKE rekey by the client: the new IKE_SA names the old one, whose
	// responder SPI ours keeps the label.
	if n, err := client.RekeyIKE(ctx, charon.Target{Name: "home"}); err != nil || n != 1 {
		t.Fatalf("rekey: %d, %v", n, err)
	}
	a.Wait(ctx, "rekey", charontest.Has(charon.IKEAdd, charon.RekeyID, charon.OldSKD))
	for e := range events {
		if e.Kind == charon.EventIKERekey {
			if e.IKE.ID != s.ID || e.New.ID.Responder.Slot() != slot {
				t.Errorf("rekey event from %s to %s", e.IKE.ID, e.New.ID)
			}
			break
		}
	}
	a.Wait(ctx, "IKE_DELETE", charontest.Has(charon.IKEDelete))

	// A gateway-initiated one: ours is then the initiator SPI.
	s2 := a.SA(ctx, charontest.Settled)
	if n, err := a.VICI.RekeyIKE(ctx, charon.Target{ID: s2.UniqueID}); err != nil || n != 1 {
		t.Fatalf("rekey by the gateway: %d, %v", n, err)
	}
	var own charon.IKERef
	a.Wait(ctx, "own rekey", func(ms []charon.Message) bool {
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
		a.Wait(ctx, "update of the own rekey", func(ms []charon.Message) bool {
			return len(ms) > 0 && slices.ContainsFunc(ms, func(m charon.Message) bool {
				r, _ := m.SA()
				return m.Type == charon.IKEUpdate && r.ID == own.ID
			})
		})
		var out bytes.Buffer
		for _, m := range a.Messages()[len(fed):] {
			w, _ := m.Encode()
			out.WriteString(hex.EncodeToString(w) + "\n")
		}
		if err := os.WriteFile("testdata/rekey-5.9.8.hex", out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	last := a.SA(ctx, func(s charon.IKESA) bool { return s.ID == own.ID })
	if err := a.VICI.TerminateIKE(ctx, charon.Target{ID: last.UniqueID}, false, 5*time.Second); err != nil {
		t.Error(err)
	}
	ecancel()
	if err := <-evDone; !errors.Is(err, context.Canceled) {
		t.Errorf("events ended with %v", err)
	}
}

// TestIKEUpdate moves a MOBIKE client to another address. The HA link does not
// tell of it, the vici event does.
func TestIKEUpdate(t *testing.T) {
	charontest.NeedCharon(t)
	ctx := charontest.Context(t)
	gw := charontest.StartGateway(t, ctx)
	gw.Load(ctx, strings.Replace(charontest.GatewayConns, "mobike = no", "mobike = yes", 1))
	conns := strings.Replace(charontest.ClientConns, "mobike = no", "mobike = yes", 1)
	conns = strings.Replace(conns, "local_addrs = "+charontest.ClientIP, "", 1)
	ns, client := charontest.StartClientWith(t, ctx, gw, conns)
	if err := gw.Link.Activate(ctx); err != nil {
		t.Fatal(err)
	}
	events := make(chan charon.Event, 64)
	subscribed := make(chan struct{})
	ectx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- gw.VICI.Events(ectx, func() { close(subscribed) }, func(e charon.Event) { events <- e })
	}()
	select {
	case <-subscribed:
	case err := <-ended:
		t.Fatal(err)
	}
	// Childless, so that it works on kernels without ESP.
	if err := client.Initiate(ctx, "home", "", 15*time.Second); err != nil {
		t.Fatal(err)
	}
	old := gw.SA(ctx, charontest.Settled)
	ns.Addr("wan", "10.77.0.9/25") // another prefix, or it would vanish with the first as its secondary
	ns.DelAddr("wan", charontest.ClientIP+"/24")
	for {
		select {
		case e := <-events:
			// The float from port 500 to 4500 during IKE_AUTH is an update too.
			if e.Kind != charon.EventIKEUpdate || e.IKE.Remote.Port() == 500 {
				continue
			}
			if e.IKE.ID != old.ID || e.IKE.Remote.Addr().String() != charontest.ClientIP || e.New.Remote.Addr().String() != "10.77.0.9" ||
				e.New.Local.Addr().String() != charontest.VIP || e.New.Remote.Port() != 4500 {
				t.Errorf("event says %s -> %s %s of %s", e.IKE.Remote, e.New.Local, e.New.Remote, e.IKE.ID)
			}
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			return
		case <-ctx.Done():
			t.Fatal("no ike-update event")
		}
	}
}

func TestViciBasics(t *testing.T) {
	charontest.NeedCharon(t)
	ctx := charontest.Context(t)
	g := charontest.StartGateway(t, ctx)
	rel, err := g.VICI.Version(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := charon.VersionOf(rel); err != nil || v != charon.V3 {
		t.Errorf("HA version of %q: %v, %v", rel, v, err)
	}
	st, err := g.VICI.Stats(ctx)
	if err != nil || !slices.Contains(st.Plugins, "ha") || st.WorkersTotal == 0 || st.Since.IsZero() {
		t.Errorf("stats %+v, %v", st, err)
	}
	if _, err := g.VICI.Call(ctx, "load-conn", nil); err == nil {
		t.Log("empty load-conn accepted")
	}
	if err := g.VICI.Initiate(ctx, "", "nope", time.Second); !errors.Is(err, charon.ErrRefused) {
		t.Errorf("initiate of an unknown child: %v", err)
	}
	if _, err := g.VICI.FindSA(ctx, 4711); !errors.Is(err, charon.ErrNoSA) {
		t.Errorf("unknown SA: %v", err)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := g.VICI.Version(short); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled call: %v", err)
	}
	if _, err := g.VICI.Version(ctx); err != nil {
		t.Error("after a cancelled call:", err)
	}
}

func TestAdoptStop(t *testing.T) {
	charontest.NeedCharon(t)
	ctx := charontest.Context(t)
	ns, dir := charontest.NewNS(t), charontest.Dir(t)
	spec := charontest.GatewaySpec(t, ns, dir)
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
	any, err := charon.AdoptAny(ctx, other)
	if err != nil {
		t.Fatal("adopt whatever its conf is:", err)
	}
	defer any.Close()
	if any.PID() != i.PID() || !any.Alive() {
		t.Errorf("adopted pid %d, want %d", any.PID(), i.PID())
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
	if err := charon.Kill(dir); err != nil {
		t.Fatal(err)
	}
	if k.Alive() {
		t.Error("alive after Kill of what its directory names")
	}
	if k, err = charon.Start(ctx, spec); err != nil {
		t.Fatal("start after Kill:", err)
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
		i, err := charon.Start(charontest.Context(t), spec)
		if err != nil {
			t.Fatal(err)
		}
		i.Close()
		return // the process survives this one
	}
	ctx := charontest.Context(t)
	ns, dir := charontest.NewNS(t), charontest.Dir(t)
	spec := charontest.GatewaySpec(t, ns, dir)
	if err := os.WriteFile(filepath.Join(dir, "conf.in"), []byte(spec.Conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // whatever went wrong, the orphan must not stay
		if i, err := charon.Adopt(context.Background(), spec); err == nil {
			i.Kill()
			i.Close()
		}
	})
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
	ctx := charontest.Context(t)
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
