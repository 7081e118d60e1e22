package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/tests/uml"
)

// fleetNeed is what a running fleet takes of the kernel.
const fleetNeed = uml.ESP | uml.IPIP | uml.Netem | uml.Plug | uml.BPF

// fleetOptions is the lab of most scenarios: three appliances with one home slot
// each, two outside routers, BFD everywhere.
func fleetOptions(c ConnSpec) Options {
	return Options{Routers: true, SlotsPerAppliance: 1, Conn: c}
}

// attached is a connected client with traffic both ways, and where it lives.
type attached struct {
	*Client
	*Stream
	slot uint32
}

// fleetUp starts every appliance and waits until every slot is owned by its home
// and shadowed.
func fleetUp(t *T, l *Lab) {
	ctx := t.Context()
	for _, a := range l.Appliances() {
		t.Check(a.Start())
	}
	var g errgroup.Group
	for _, a := range l.Appliances() {
		g.Go(func() error { return a.WaitReady(ctx) })
	}
	t.Check(g.Wait())
	if !l.opt.NoShadowing {
		allReady(t, l)
	}
	t.Logf("fleet is up")
}

// allReady waits until every slot has its full set of ready shadows.
func allReady(t *T, l *Lab) {
	for _, a := range l.Appliances() {
		if !a.daemon.Alive() {
			continue
		}
		t.Check(a.WaitStatus(t.Context(), "every owned slot has all its shadows ready", func(s *v1.GetStatusResponse) bool {
			for _, x := range s.Slots {
				if x.Owner != a.Name {
					continue
				}
				for _, sh := range x.Shadows {
					if !sh.Ready && l.Appliance(sh.Name).daemon.Alive() {
						return false
					}
				}
			}
			return true
		}))
		// What boots takes the guest's only processor for a while, and BFD may
		// lose a session that is well.
		t.Check(poll(t.Context(), 100*time.Millisecond, a.Name+": every BGP session up", func() (bool, error) {
			api, err := a.API()
			if err != nil {
				return true, err
			}
			r, err := api.GetBGP(t.Context(), &v1.GetBGPRequest{})
			if err != nil {
				return false, err
			}
			return !slices.ContainsFunc(r.Peers, func(p *v1.BGPPeer) bool { return p.State != "established" && a.reaches(p.Name) }), nil
		}))
	}
	calm(t, l)
}

// calm waits until the living appliances have heard each other without a gap for a
// while: what boots takes the guest's only processor.
func calm(t *T, l *Lab) {
	quiet := 0
	t.Check(poll(t.Context(), 150*time.Millisecond, "the appliances to hear each other", func() (bool, error) {
		for _, a := range l.Appliances() {
			if !a.daemon.Alive() {
				continue
			}
			s, err := a.Status(t.Context())
			if err != nil {
				return false, err
			}
			if slices.ContainsFunc(s.Peers, func(p *v1.Peer) bool {
				return p.State != v1.PeerState_PEER_STATE_UP && l.Appliance(p.Name).daemon.Alive()
			}) {
				quiet = 0
				return false, nil
			}
		}
		quiet++
		return quiet >= 10, nil
	}))
}

// reaches reports whether the router at the other end of the session lives.
func (a *Appliance) reaches(session string) bool {
	r := a.lab.router(strings.TrimSuffix(session, peer6))
	return r != nil && r.Alive()
}

// join brings client i up with traffic at 500 packets a second each way and
// waits until its session is shadowed.
func join(t *T, l *Lab, i int) *attached {
	ctx := t.Context()
	c := l.Client(i)
	sa, err := c.Connect(ctx)
	t.Check(err)
	st, err := l.StartStream(c, Rate{PPS: 500, Size: 200})
	t.Check(err)
	s := &attached{Client: c, Stream: st}
	for _, ch := range sa.Installed() {
		s.slot, err = slotOfSPI(ch.Out)
		t.Check(err)
	}
	t.Logf("client %s connected in slot %d: %s", c.Name, s.slot, sa)
	if !l.opt.NoShadowing {
		allReady(t, l)
	}
	t.Check(st.WaitReceived(ctx, 200))
	return s
}

// owner returns the appliance that owns the slot according to itself; one that is
// cut off may believe so too long, hence not.
func owner(t *T, l *Lab, slot uint32, not ...*Appliance) *Appliance {
	for _, a := range l.Appliances() {
		if !a.daemon.Alive() || slices.Contains(not, a) {
			continue
		}
		if x := slotAt(t.Context(), a, slot); x != nil && x.Owner == a.Name && x.Role == v1.Role_ROLE_OWNER {
			return a
		}
	}
	return nil
}

func slotAt(ctx context.Context, a *Appliance, slot uint32) *v1.Slot {
	s, err := a.Status(ctx)
	if err != nil {
		return nil
	}
	if i := slices.IndexFunc(s.Slots, func(x *v1.Slot) bool { return x.Number == slot }); i >= 0 {
		return s.Slots[i]
	}
	return nil
}

// owned waits until somebody owns the slot.
func owned(t *T, l *Lab, slot uint32, not ...*Appliance) *Appliance {
	var got *Appliance
	t.Check(poll(t.Context(), 100*time.Millisecond, fmt.Sprintf("an owner of slot %d", slot), func() (bool, error) {
		got = owner(t, l, slot, not...)
		return got != nil, nil
	}))
	return got
}

// scene plays one phase: do, then time for what follows, then the account.
func scene(t *T, l *Lab, s *attached, name string, do func(o *Observation)) Scene {
	o, err := l.Observe(s.Client, s.Stream)
	t.Check(err)
	do(o)
	sc, err := o.End(t.Context(), name)
	t.Check(err)
	t.Scene(sc)
	return sc
}

// control is the phase without a fault that every run has: what it loses, the
// machine lost.
func control(t *T, l *Lab, s *attached) {
	if sc := scene(t, l, s, "control", func(*Observation) { pause(t, time.Second) }); sc.Lost != 0 {
		t.Errorf("control: %d of %d packets lost without a fault", sc.Lost, sc.Sent)
	}
}

func pause(t *T, d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// handover moves the session's slot and checks that nothing was lost.
func handover(t *T, l *Lab, s *attached, name, to string) Scene {
	from := owner(t, l, s.slot)
	if from == nil {
		t.Fatalf("%s: nobody owns slot %d", name, s.slot)
	}
	sc := scene(t, l, s, name, func(o *Observation) {
		pause(t, 300*time.Millisecond)
		o.Mark(time.Now(), "handover to "+to)
		var acc *v1.HandoverAccount
		var err error
		// A move that cannot be made safely is given up, and nothing has happened;
		// an operator asks again.
		for try := 1; try <= 3; try++ {
			acc, err = from.Handover(t.Context(), s.slot, to, func(p *v1.HandoverProgress) { o.Mark(time.Now(), p.Message) })
			if err == nil || !strings.Contains(err.Error(), "given up") {
				break
			}
			t.Logf("%s: try %d: %v", name, try, err)
			pause(t, time.Second)
		}
		t.Check(err)
		t.Logf("%s: %s -> %s in %s, held %s, %d late packets", name, from.Name, to, acc.Elapsed.AsDuration(), acc.Hold.AsDuration(), acc.PacketsLate)
		pause(t, 700*time.Millisecond)
	})
	kept(t, sc)
	// Packets may overtake each other where the way changes in the middle of the
	// network; none may be lost or come twice.
	if sc.Lost != 0 || sc.Up.Duplicates+sc.Down.Duplicates != 0 {
		// What follows would wipe the counters that tell where.
		t.Fatalf("%s: lost %d, duplicates %d/%d, want none%s", name, sc.Lost, sc.Up.Duplicates, sc.Down.Duplicates, sc.Refused)
	}
	if got := owned(t, l, s.slot, from); got.Name != to {
		t.Errorf("%s: slot %d is owned by %s, want %s", name, s.slot, got.Name, to)
	}
	return sc
}

func kept(t *T, sc Scene) {
	if !sc.SessionKept || !sc.InnerAddressKept || sc.ClientIKESAInits != 0 {
		t.Errorf("%s: session kept %t, inner address kept %t, %d IKE_SA_INITs from the client", sc.Name, sc.SessionKept, sc.InnerAddressKept, sc.ClientIKESAInits)
	}
}

// powerCut kills the owner of the session's slot.
func powerCut(t *T, l *Lab, s *attached, name string) (Scene, *Appliance) {
	victim := owner(t, l, s.slot)
	if victim == nil {
		t.Fatalf("%s: nobody owns slot %d", name, s.slot)
	}
	sc := scene(t, l, s, name, func(o *Observation) {
		pause(t, 300*time.Millisecond)
		at, err := victim.PowerCut()
		t.Check(err)
		o.Fault(at, "power cut of "+victim.Name)
		heir := owned(t, l, s.slot, victim)
		if d, ok := detection(t, heir, s.slot); ok {
			o.Detected(at.Add(d))
		}
		pause(t, 1500*time.Millisecond)
	})
	return sc, victim
}

// detection returns what the new owner's claim says: the time from the dead one's
// last sign of life.
func detection(t *T, a *Appliance, slot uint32) (time.Duration, bool) {
	evs, err := a.Events(t.Context())
	t.Check(err)
	for _, e := range slices.Backward(evs) {
		if e.Slot == slot && e.Kind == "claim" {
			d, err := time.ParseDuration(e.Attributes["detection"])
			return d, err == nil
		}
	}
	return 0, false
}

func init() {
	Register(Scenario{
		Name: "fleet", Doc: "planned handover, power cut, return: one client", Need: fleetNeed, Options: fleetOptions(ConnSpec{Cert: true}),
		Run: func(t *T, l *Lab) { fleetStory(t, l) },
	})
}

// fleetStory is the story of every kind of lab; it returns the scene of the power cut.
func fleetStory(t *T, l *Lab) Scene {
	s, _ := start(t, l)
	handover(t, l, s, "planned", "fra")
	allReady(t, l)
	cut, victim := powerCut(t, l, s, "power-cut")
	kept(t, cut)
	t.Check(s.Client.RekeyChild(t.Context()))
	t.Check(s.Client.RekeyIKE(t.Context()))
	t.Check(victim.PowerOn())
	allReady(t, l)
	handover(t, l, s, "return", victim.Name)
	return cut
}

// slotOfSPI reads the slot from a gateway's inbound SPI as charon prints it.
func slotOfSPI(hex string) (uint32, error) {
	var v uint32
	if _, err := fmt.Sscanf(hex, "%x", &v); err != nil {
		return 0, fmt.Errorf("read SPI %q: %w", hex, err)
	}
	return uint32(sa.SPI(v).Slot()), nil
}

// Events returns the events the appliance's daemon has kept.
func (a *Appliance) Events(ctx context.Context) ([]*v1.Event, error) {
	api, err := a.API()
	if err != nil {
		return nil, err
	}
	st, err := api.WatchEvents(ctx, &v1.WatchEventsRequest{})
	if err != nil {
		return nil, fmt.Errorf("read the events of %s: %w", a.Name, err)
	}
	var out []*v1.Event
	for {
		r, err := st.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the events of %s: %w", a.Name, err)
		}
		out = append(out, r.Event)
	}
}
