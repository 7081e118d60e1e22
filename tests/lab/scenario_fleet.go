package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
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
	if a := l.Appliance(l.entry); a != nil {
		t.Check(l.enters(ctx, a))
	}
	t.Logf("fleet is up")
}

// enters waits until both outside routers send packets for the VIP to a: a session that
// came up late leaves the first packets to another appliance.
func (l *Lab) enters(ctx context.Context, a *Appliance) error {
	for i, r := range []string{"r1", "r2"} {
		want, got := host(linkNet(1+i, a.N), 2), netip.Addr{}
		if err := poll(ctx, 100*time.Millisecond, r+" to send packets for the VIP to "+a.Name, func() (ok bool, err error) {
			got, err = l.Node(r).nextHop(VIP)
			return got == want, err
		}); err != nil {
			return fmt.Errorf("%w; it sends them to %s", err, got)
		}
	}
	return nil
}

// running reports whether an appliance is there and its daemon runs.
func (l *Lab) running(name string) bool {
	a := l.Appliance(name)
	return a != nil && a.daemon != nil && a.daemon.Alive()
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
					if !sh.Ready && l.running(sh.Name) {
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
				return p.State != v1.PeerState_PEER_STATE_UP && l.running(p.Name)
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

// join brings client i up with traffic at the lab's rate each way and
// waits until its session is shadowed.
func join(t *T, l *Lab, i int) *attached { return joinAll(t, l, l.clients[i:i+1], l.opt.PPS)[0] }

// party is a group of clients in one slot: what happens to the slot happens to all.
type party []*attached

// joinAll brings clients up, each with traffic at pps packets a second each way, and
// waits until their sessions are shadowed.
func joinAll(t *T, l *Lab, clients []*Client, pps int) party {
	ctx, p := t.Context(), make(party, len(clients))
	var g errgroup.Group
	for i, c := range clients {
		g.Go(func() error {
			sa, err := c.Connect(ctx)
			if err != nil {
				return err
			}
			slot, err := slotOfSPI(sa.Installed()[0].Out)
			if err != nil {
				return err
			}
			t.Logf("client %s connected in slot %d: %s", c.Name, slot, sa)
			st, err := l.StartStream(c, Rate{PPS: pps, Size: 200})
			p[i] = &attached{Client: c, Stream: st, slot: slot}
			return err
		})
	}
	t.Check(g.Wait())
	if !l.opt.NoShadowing {
		allReady(t, l)
	}
	for _, s := range p {
		if s.slot != p[0].slot {
			t.Fatalf("clients %s and %s are in slots %d and %d, want one", p[0].Name, s.Name, p[0].slot, s.slot)
		}
		t.Check(s.WaitReceived(ctx, 200))
	}
	return p
}

// each does something for every client at once.
func (p party) each(do func(*attached) error) error {
	var g errgroup.Group
	for _, s := range p {
		g.Go(func() error { return do(s) })
	}
	return g.Wait()
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
	return party{s}.scene(t, l, name, func(o observations) { do(o[0]) })[0]
}

// observations watch the clients of a party.
type observations []*Observation

// Mark adds a moment to every report.
func (os observations) Mark(at time.Time, what string) {
	for _, o := range os {
		o.Mark(at, what)
	}
}

// Fault says when and what the fault of the phase was.
func (os observations) Fault(at time.Time, what string) {
	for _, o := range os {
		o.Fault(at, what)
	}
}

// Detected says when the fault was noticed.
func (os observations) Detected(at time.Time) {
	for _, o := range os {
		o.Detected(at)
	}
}

// scene plays one phase for every client; the scenes are in the party's order.
func (p party) scene(t *T, l *Lab, name string, do func(observations)) []Scene {
	var os observations
	for _, s := range p {
		o, err := l.Observe(s.Client, s.Stream)
		t.Check(err)
		os = append(os, o)
	}
	do(os)
	out := make([]Scene, len(p))
	var g errgroup.Group
	for i, o := range os {
		title := name
		if len(p) > 1 {
			title += " " + p[i].Name
		}
		g.Go(func() (err error) {
			out[i], err = o.End(t.Context(), title)
			return err
		})
	}
	t.Check(g.Wait())
	for _, sc := range out {
		t.Scene(sc)
	}
	return out
}

// control is the phase without a fault that every run has: what it loses, the
// machine lost.
func control(t *T, l *Lab, s *attached) { party{s}.control(t, l) }

func (p party) control(t *T, l *Lab) {
	for _, sc := range p.scene(t, l, "control", func(observations) { pause(t, time.Second) }) {
		if sc.Lost != 0 {
			t.Errorf("%s: %d of %d packets lost without a fault", sc.Name, sc.Lost, sc.Sent)
		}
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
	return party{s}.handover(t, l, name, to)[0]
}

func (p party) handover(t *T, l *Lab, name, to string) []Scene {
	slot := p[0].slot
	from := owner(t, l, slot)
	if from == nil {
		t.Fatalf("%s: nobody owns slot %d", name, slot)
	}
	scs := p.scene(t, l, name, func(o observations) {
		pause(t, 300*time.Millisecond)
		o.Mark(time.Now(), "handover to "+to)
		var acc *v1.HandoverAccount
		var err error
		// A move that cannot be made safely is given up, and nothing has happened;
		// an operator asks again.
		for try := 1; try <= 3; try++ {
			acc, err = from.Handover(t.Context(), slot, to, func(p *v1.HandoverProgress) { o.Mark(time.Now(), p.Message) })
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
	for _, sc := range scs {
		kept(t, sc)
		// Packets may overtake each other where the way changes in the middle of the
		// network; none may be lost or come twice.
		if sc.Lost != 0 || sc.Up.Duplicates+sc.Down.Duplicates != 0 {
			// What follows would wipe the counters that tell where.
			t.Fatalf("%s: lost %d, duplicates %d/%d, want none%s", sc.Name, sc.Lost, sc.Up.Duplicates, sc.Down.Duplicates, sc.Refused)
		}
	}
	if got := owned(t, l, slot, from); got.Name != to {
		t.Errorf("%s: slot %d is owned by %s, want %s", name, slot, got.Name, to)
	}
	return scs
}

// kept checks that the client has its session and its address, asked for no new one,
// and that packets flow again both ways.
func kept(t *T, sc Scene) {
	if !sc.SessionKept || !sc.InnerAddressKept || sc.ClientIKESAInits != 0 {
		t.Errorf("%s: session kept %t, inner address kept %t, %d IKE_SA_INITs from the client", sc.Name, sc.SessionKept, sc.InnerAddressKept, sc.ClientIKESAInits)
	}
	if sc.OutageMS < 0 || sc.OutageUpMS < 0 {
		t.Errorf("%s: the outage did not end: up %s, down %s", sc.Name, msText(sc.OutageUpMS), msText(sc.OutageMS))
	}
}

// powerCut kills the owner of the session's slot.
func powerCut(t *T, l *Lab, s *attached, name string) (Scene, *Appliance) {
	scs, victim := party{s}.powerCut(t, l, name)
	return scs[0], victim
}

func (p party) powerCut(t *T, l *Lab, name string) ([]Scene, *Appliance) {
	slot := p[0].slot
	victim := owner(t, l, slot)
	if victim == nil {
		t.Fatalf("%s: nobody owns slot %d", name, slot)
	}
	scs := p.scene(t, l, name, func(o observations) {
		pause(t, 300*time.Millisecond)
		at, err := victim.PowerCut()
		t.Check(err)
		o.Fault(at, "power cut of "+victim.Name)
		heir := owned(t, l, slot, victim)
		if d, ok := detection(t, heir, slot); ok {
			o.Detected(at.Add(d))
		}
		pause(t, 1500*time.Millisecond)
	})
	return scs, victim
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
		Name: "fleet", Doc: "planned handover, power cut, return: one client", Need: fleetNeed, Options: fleetOptions(ConnSpec{Cert: true}).detecting(),
		Run: func(t *T, l *Lab) { fleetStory(t, l) },
	})
}

// fleetStory is the story of every kind of lab; it returns the scene of the power cut.
func fleetStory(t *T, l *Lab) Scene {
	s, o := start(t, l)
	handover(t, l, s, "planned", other(l, o))
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

// other is an appliance besides a.
func other(l *Lab, a *Appliance) string {
	i := slices.IndexFunc(l.Appliances(), func(x *Appliance) bool { return x != a })
	return l.Appliances()[i].Name
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
