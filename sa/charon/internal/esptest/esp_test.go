// Package esptest holds the tests of package charon that need a kernel with ESP;
// it boots user-mode Linux where the machine's own kernel has none.
package esptest

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/charon/internal/charontest"
	"github.com/shadowcast/shadowcast/sa/xfrm"
	"github.com/shadowcast/shadowcast/tests/uml"
)

var update = flag.Bool("update", false, "rewrite ../../testdata from what charon sends")

func TestMain(m *testing.M) { uml.Main(m, uml.ESP) }

// relay feeds b, once, what a sent since the last call, decoded and encoded again.
type relay struct {
	t    *testing.T
	a, b *charontest.Gateway
	done int
	raw  []string
}

func (r *relay) feed(ctx context.Context) {
	r.t.Helper()
	ms := r.a.Messages()
	for _, m := range ms[r.done:] {
		if m.Type.Control() {
			continue
		}
		w, err := m.Encode()
		if err != nil {
			r.t.Fatal(err)
		}
		again, err := charon.Decode(w)
		if err != nil {
			r.t.Fatal(err)
		}
		r.raw = append(r.raw, hex.EncodeToString(w))
		if err := r.b.Link.Send(ctx, again); err != nil {
			r.t.Fatal(err)
		}
	}
	r.done = len(ms)
}

// installed is satisfied by an IKE_SA of the given state with one child, in the
// given SPI.
func installed(state string, in sa.SPI) func(charon.IKESA) bool {
	return func(s charon.IKESA) bool {
		return s.State == state && len(s.Children) == 1 && s.Children[0].State == "INSTALLED" &&
			(in == 0 || s.Children[0].In == in)
	}
}

func TestTwin(t *testing.T) {
	uml.Require(t, uml.ESP)
	charontest.NeedCharon(t)
	ctx := charontest.Context(t)
	a, b := charontest.StartGateway(t, ctx), charontest.StartGateway(t, ctx)
	client := charontest.StartClient(t, ctx, a)
	for _, g := range []*charontest.Gateway{a, b} {
		g.Load(ctx, charontest.GatewayConns)
	}
	if err := a.Link.Activate(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.Link.Passivate(ctx); err != nil {
		t.Fatal(err)
	}
	events := make(chan charon.Event, 64)
	subscribed := make(chan struct{})
	ectx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- a.VICI.Events(ectx, func() { close(subscribed) }, func(e charon.Event) { events <- e })
	}()
	defer func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error("events:", err)
		}
	}()
	select {
	case <-subscribed:
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}

	if err := client.Initiate(ctx, "home", "net", 20*time.Second); err != nil {
		t.Fatal(err)
	}
	own := a.SA(ctx, installed("ESTABLISHED", 0))
	kid := own.Children[0]
	if kid.In.Slot() != charontest.Slot || !kid.ESN || kid.Name != "net" || kid.Mode != "TUNNEL" || kid.Protocol != "ESP" ||
		kid.Life == 0 || kid.Rekey == 0 || kid.Encr != "AES_GCM_16" {
		t.Errorf("A's child is %+v", kid)
	}
	ms := a.Wait(ctx, "CHILD_ADD and inner address", func(ms []charon.Message) bool {
		return charontest.Has(charon.ChildAdd)(ms) && charontest.Has(charon.IKEUpdate, charon.RemoteVIP)(ms)
	})
	i := slices.IndexFunc(ms, func(m charon.Message) bool { return m.Type == charon.ChildAdd })
	in, _ := ms[i].Find(charon.InSPI)
	out, _ := ms[i].Find(charon.OutSPI)
	if s, err := in.SPI(); err != nil || s != kid.In {
		t.Errorf("CHILD_ADD says inbound %v, %v; vici says %v", s, err, kid.In)
	}
	if s, err := out.SPI(); err != nil || s != kid.Out {
		t.Errorf("CHILD_ADD says outbound %v, %v; vici says %v", s, err, kid.Out)
	}

	r := &relay{t: t, a: a, b: b}
	r.feed(ctx)
	// The inner address may reach the twin in a datagram after the one that
	// makes its child.
	passive := installed("PASSIVE", kid.In)
	twin := b.SA(ctx, func(s charon.IKESA) bool { return passive(s) && len(s.RemoteVIPs) > 0 })
	if twin.ID != own.ID || twin.Children[0].Out != kid.Out || !twin.Children[0].ESN || !slices.Equal(twin.RemoteVIPs, own.RemoteVIPs) {
		t.Errorf("B lists %+v, A %+v", twin, own)
	}
	for name, g := range map[string]*charontest.Gateway{"A": a, "B": b} {
		got := states(t, g)
		for _, spi := range []sa.SPI{kid.In, kid.Out} {
			// The injected limit is what sequence blocks rest upon.
			if s, ok := got[spi]; !ok || !s.ESN || s.HardPackets != 50331648 || (spi == kid.In && s.Window != 1024) {
				t.Errorf("SA %s in the kernel of %s: %v, %+v", spi, name, ok, s)
			}
		}
	}

	// A child rekey by the client, seen as event and followed by the twin.
	if n, err := client.RekeyChild(ctx, charon.Target{Name: "net"}); err != nil || n != 1 {
		t.Fatalf("rekey: %d, %v", n, err)
	}
	var rekeyed charon.Event
	for rekeyed.Kind != charon.EventChildRekey {
		select {
		case rekeyed = <-events:
		case <-ctx.Done():
			t.Fatal("no child-rekey event")
		}
	}
	if rekeyed.OldChild.In != kid.In || rekeyed.NewChild.In.Slot() != charontest.Slot || rekeyed.NewChild.In == kid.In {
		t.Errorf("event says %s -> %s, child was %s", rekeyed.OldChild.In, rekeyed.NewChild.In, kid.In)
	}
	a.Wait(ctx, "second CHILD_ADD and CHILD_DELETE", func(ms []charon.Message) bool {
		adds := 0
		for _, m := range ms {
			if m.Type == charon.ChildAdd {
				adds++
			}
		}
		return adds == 2 && charontest.Has(charon.ChildDelete, charon.InSPI)(ms)
	})
	r.feed(ctx)
	b.SA(ctx, installed("PASSIVE", rekeyed.NewChild.In))

	// The twin takes over: it serves what it was fed.
	if err := a.Link.Passivate(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.Link.Activate(ctx); err != nil {
		t.Fatal(err)
	}
	b.SA(ctx, installed("ESTABLISHED", rekeyed.NewChild.In))

	if *update {
		if err := os.WriteFile("../../testdata/esp-5.9.8.hex", []byte(strings.Join(r.raw, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// states returns the kernel's SAs in g's namespace, by SPI.
func states(t *testing.T, g *charontest.Gateway) map[sa.SPI]xfrm.State {
	t.Helper()
	c, err := xfrm.Open(g.NS.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := c.Dump()
	if err != nil {
		t.Fatal(err)
	}
	out := map[sa.SPI]xfrm.State{}
	for _, s := range l {
		out[s.SPI] = s
	}
	return out
}
