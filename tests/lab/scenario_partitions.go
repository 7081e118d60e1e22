package lab

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
)

// The stories of a fleet that falls apart and comes together again, and of those
// who come back to it.
func init() {
	// What is shown is who owns a slot in the end, not how soon: a guest that several
	// fleets share must not find failures of its own meanwhile.
	patient := func(o Options) Options {
		o.BFD, o.Probe = patientBFD, config.Probe{Interval: 100 * time.Millisecond, Lost: 6}
		return o
	}
	// Two clients, one at each outside router. Only ams has a home slot, so that both
	// are in one slot wherever they enter.
	two := func(names ...string) Options {
		o := patient(fleetOptions(ConnSpec{Cert: true}))
		o.Appliances, o.Homes = names, []string{"ams"}
		o.Clients = []ClientSpec{{Router: 1, Conn: o.Conn}, {Router: 2, Conn: o.Conn}}
		return o
	}
	add := func(name, doc string, o Options, run func(*T, *Lab)) {
		Register(Scenario{Name: name, Doc: doc, Need: fleetNeed, Options: o, Timeout: 4 * time.Minute, Bench: true, Run: run})
	}
	add("partition-two", "the owner is cut off from the others and runs on: they take over, the highest ticket stays", two(), partitionTwo)
	add("partition-three", "three appliances alone, clients at two of them: three owners, of which one stays", two(), partitionThree)
	add("partition-five", "five appliances in three parts, clients in two of them: three owners, of which one stays", two("ams", "fra", "lhr", "mad", "osl"), partitionFive)
	add("partition-deaf", "the owner hears one appliance less, then nobody, and is heard: a relay, then a takeover", two(), partitionDeaf)
	add("claimants", "the owner dies while its shadows do not hear each other: both claim, the highest ticket stays", two(), claimants)
	// The daemon is back before anybody misses it, however busy the guest is.
	quick := two()
	quick.Probe = config.Probe{Interval: 500 * time.Millisecond, Lost: 20}
	add("daemon-restart", "the daemon of an owner that is the entry, too, is killed under load and started at once", quick, daemonRestart)

	plain := patient(fleetOptions(ConnSpec{Cert: true}))
	add("ex-owner", "an ex-owner comes back with a stale memory, with an empty one, and alive", plain, exOwner)
	add("home-return", "a slot goes home by itself, not before the hold-down is over", plain, homeReturn)
	add("registrars-leader", "the leading registrar is lost: moves and new tickets go on", plain, registrarLost)

	loaded := patient(fleetOptions(ConnSpec{Cert: true}))
	loaded.Appliances = []string{"ams", "fra"}
	for i := range 6 {
		loaded.Clients = append(loaded.Clients, ClientSpec{Router: 1 + i%2, Conn: loaded.Conn})
	}
	add("takeover-loaded", "an appliance that serves clients of its own takes another one's over: they lose nothing by it", loaded, takeoverLoaded)

	cold := patient(fleetOptions(ConnSpec{Cert: true, DPD: "2s", Reconnect: true}))
	cold.Clients = []ClientSpec{{Router: 1, Conn: cold.Conn}, {Router: 2, Conn: cold.Conn}}
	add("cold-start", "every appliance loses its power while the clients keep their SAs: no ticket comes twice, the clients come again", cold, coldStart)
}

// apart splits the fleet, waits for n owners of the slot, lets them serve, and heals.
// Sessions must live through it.
func apart(t *T, l *Lab, ss party, n int, groups ...[]string) *Appliance {
	var before map[string]uint64
	slot := ss[0].slot
	ss.lives(t, l, "apart", func(os observations) {
		pause(t, 300*time.Millisecond)
		heal, err := l.Partition(groups...)
		t.Check(err)
		os.Fault(time.Now(), "partition")
		before = split(t, l, slot, n)
		pause(t, 2*time.Second)
		os.Mark(time.Now(), "heal")
		t.Check(heal())
	})
	w := united(t, l, slot, before)
	allReady(t, l)
	ss.usable(t, l)
	return w
}

func partitionTwo(t *T, l *Lab) {
	t.Check(enterAt(l, "lhr"))
	fleetUp(t, l)
	ss := joinAll(t, l, l.clients, 250)
	w := apart(t, l, ss, 2, []string{"fra", "lhr"})
	if w.Name == "ams" {
		t.Errorf("the one that was cut off, and claimed nothing, owns slot %d", ss[0].slot)
	}
}

func partitionThree(t *T, l *Lab) {
	t.Check(enterBy(l, map[string]string{"r1": "fra", "r2": "lhr"}))
	fleetUp(t, l)
	ss := joinAll(t, l, l.clients, 250)
	apart(t, l, ss, 3)
}

func partitionFive(t *T, l *Lab) {
	t.Check(enterBy(l, map[string]string{"r1": "fra", "r2": "lhr"}))
	fleetUp(t, l)
	ss := joinAll(t, l, l.clients, 250)
	apart(t, l, ss, 3, []string{"fra", "mad"}, []string{"lhr", "osl"})
}

// restartOutage is less than any router's timers for a BGP session that ended, and more
// than a busy guest needs for routes that change.
const restartOutage = 4 * time.Second

// daemonRestart: the BGP sessions of the owner, which is the entry, too, end with its
// daemon. Nobody takes over, since it is back at once; packets must find their way both
// ways until the routers accept the sessions again, and its memory must come back.
func daemonRestart(t *T, l *Lab) {
	t.Check(enterAt(l, "ams"))
	for _, a := range l.Appliances() {
		a.Config.Fleet.DeadMan = 10 * time.Second // a start takes up to 8 s in the guest
	}
	fleetUp(t, l)
	ss := joinAll(t, l, l.clients, 250)
	o := l.Appliance("ams")
	for _, sc := range ss.lives(t, l, "restarted", func(os observations) {
		pause(t, 300*time.Millisecond)
		os.Fault(time.Now(), "daemon killed")
		t.Check(o.KillDaemon())
		t.Check(o.Start())
		t.Check(o.WaitStatus(t.Context(), "its slot again", func(*v1.GetStatusResponse) bool { return owners(t, l, ss[0].slot)[o.Name] != 0 }))
		pause(t, 5*time.Second)
	}) {
		if worst := max(sc.Up.MaxGapMS, sc.Down.MaxGapMS); worst > ms(int64(restartOutage)) {
			t.Errorf("%s: silent for %s, want at most %s", sc.Name, msText(worst), restartOutage)
		}
	}
	evs, err := o.Events(t.Context())
	t.Check(err)
	if !slices.ContainsFunc(evs, func(e *v1.Event) bool {
		return e.Kind == "refill" && strings.HasPrefix(e.Message, fmt.Sprintf("%d sessions were read back from", len(ss)))
	}) {
		t.Errorf("%s has not read its %d sessions back", o.Name, len(ss))
	}
	for _, e := range evs {
		if e.Kind == "resync" {
			t.Errorf("%s asked charon for its sessions, which rekeys them, although the shadows had them: %s", o.Name, e.Reason)
		}
	}
	if w := united(t, l, ss[0].slot, nil); w != o {
		t.Errorf("slot %d went to %s although the daemon was back before anybody missed it", ss[0].slot, w.Name)
	}
	allReady(t, l)
	ss.usable(t, l)
}

// deafOutage bounds what it costs until packets that enter elsewhere reach a deaf
// owner by another way, or another owner: four times the suspicion bound of 650 ms at
// most, the turns of the shadows, and what a busy guest adds.
const deafOutage = 6 * time.Second

func partitionDeaf(t *T, l *Lab) {
	t.Check(enterAt(l, "lhr"))
	fleetUp(t, l)
	ss := joinAll(t, l, l.clients, 250)
	slot, o := ss[0].slot, l.Appliance("ams")
	deafen := func(name string, from ...string) (undo func() error) {
		var others []*Appliance
		for _, n := range from {
			others = append(others, l.Appliance(n))
		}
		scs := ss.lives(t, l, name, func(os observations) {
			pause(t, 300*time.Millisecond)
			var err error
			undo, err = o.Deafen(others...)
			t.Check(err)
			os.Fault(time.Now(), name)
			for _, s := range ss {
				t.Check(s.Stream.WaitReceived(t.Context(), 500))
			}
			pause(t, time.Second)
		})
		for _, sc := range scs {
			if sc.OutageUpMS < 0 || sc.OutageUpMS > ms(int64(deafOutage)) {
				t.Errorf("%s: packets that enter at lhr arrive %s after %s became deaf, want within %s", sc.Name, msText(sc.OutageUpMS), o.Name, deafOutage)
			}
		}
		return undo
	}
	one := deafen("deaf to the entry", "lhr")
	if got := owners(t, l, slot); len(got) != 1 || got[o.Name] == 0 {
		t.Errorf("slot %d is owned by %v although fra reaches %s", slot, got, o.Name)
	}
	ss.control(t, l) // by the relay
	all := deafen("deaf", "fra")
	before := split(t, l, slot, 2)
	t.Check(one())
	t.Check(all())
	if w := united(t, l, slot, before); w == o {
		t.Errorf("the deaf appliance owns slot %d again", slot)
	}
	allReady(t, l)
	ss.usable(t, l)
}

func claimants(t *T, l *Lab) {
	t.Check(enterBy(l, map[string]string{"r1": "fra", "r2": "lhr"}))
	fleetUp(t, l)
	ss := joinAll(t, l, l.clients, 250)
	victim, slot := l.Appliance("ams"), ss[0].slot
	var before map[string]uint64
	ss.lives(t, l, "claimants", func(os observations) {
		fra, lhr := l.Appliance("fra"), l.Appliance("lhr")
		u1, err := fra.Deafen(lhr)
		t.Check(err)
		u2, err := lhr.Deafen(fra)
		t.Check(err)
		pause(t, time.Second)
		at, err := victim.PowerCut()
		t.Check(err)
		os.Fault(at, "power cut of "+victim.Name)
		before = split(t, l, slot, 2)
		pause(t, time.Second)
		t.Check(u1())
		t.Check(u2())
	})
	united(t, l, slot, before)
	t.Check(victim.PowerOn())
	allReady(t, l)
	ss.usable(t, l)
}

func exOwner(t *T, l *Lab) {
	s, _ := start(t, l)
	for _, x := range []struct {
		name        string
		leave, back func(*Appliance) error
	}{
		{"stale", func(a *Appliance) error { return errors.Join(a.Unplug(), a.KillDaemon()) }, (*Appliance).PowerOn},
		{"empty", func(a *Appliance) error { _, err := a.PowerCut(); return err }, (*Appliance).PowerOn},
		{"alive", (*Appliance).Unplug, (*Appliance).Plug},
	} {
		o := owned(t, l, s.slot)
		survives(t, l, s, x.name, o, func() error { return x.leave(o) })
		// What the ex-owner holds is out of date now, whatever it holds.
		t.Check(s.Client.RekeyChild(t.Context()))
		t.Check(s.Client.RekeyIKE(t.Context()))
		back := scene(t, l, s, x.name+" back", func(ob *Observation) {
			ob.Mark(time.Now(), o.Name+" returns")
			t.Check(x.back(o))
			t.Check(o.WaitStatus(t.Context(), "an answer", func(*v1.GetStatusResponse) bool { return true }))
			pause(t, 3*time.Second)
		})
		lossless(t, back)
		if w := united(t, l, s.slot, nil); w == o {
			t.Errorf("%s: %s owns slot %d again", x.name, o.Name, s.slot)
		}
		allReady(t, l)
		party{s}.usable(t, l)
	}
}

// returnHold is the hold-down of the scenario, which a boot in a busy guest does not
// hide.
const returnHold = 6 * time.Second

func homeReturn(t *T, l *Lab) {
	t.Check(enterAt(l, "lhr"))
	for _, a := range l.Appliances() {
		a.Config.Fleet.Handover.HoldDown = returnHold
	}
	fleetUp(t, l)
	s := join(t, l, 0)
	home := l.Appliance("lhr")
	cut, victim := powerCut(t, l, s, "power-cut")
	kept(t, cut)
	if victim != home {
		t.Fatalf("the owner was %s, want the home %s", victim.Name, home.Name)
	}
	var on, home2 time.Time
	back := scene(t, l, s, "return", func(ob *Observation) {
		on = time.Now()
		t.Check(home.PowerOn())
		t.Check(poll(t.Context(), 50*time.Millisecond, home.Name+" to own its slot again", func() (bool, error) {
			return owners(t, l, s.slot)[home.Name] != 0, nil
		}))
		home2 = time.Now()
		ob.Mark(home2, "at home")
		pause(t, 2*time.Second)
	})
	lossless(t, back)
	t.Logf("the slot went home %s after the power came back", home2.Sub(on).Round(time.Millisecond))
	if d := home2.Sub(on); d < returnHold {
		t.Errorf("the slot went home after %s, before the hold-down of %s", d, returnHold)
	}
	united(t, l, s.slot, nil)
	allReady(t, l)
	party{s}.usable(t, l)
}

// leader is the registrar that issues tickets, as a says.
func leader(t *T, l *Lab, a *Appliance) *Appliance {
	var name string
	_, err := a.API()
	t.Check(err)
	t.Check(poll(t.Context(), 100*time.Millisecond, a.Name+" to know the leading registrar", func() (bool, error) {
		r, err := v1.NewRegistrarServiceClient(a.conn).ListRegistrars(t.Context(), &v1.ListRegistrarsRequest{})
		name = r.GetLeader()
		return err == nil && name != "", err
	}))
	return l.Appliance(name)
}

func registrarLost(t *T, l *Lab) {
	s, o := start(t, l)
	lost := leader(t, l, o)
	sc := scene(t, l, s, "leader lost", func(ob *Observation) {
		at, err := lost.PowerCut()
		t.Check(err)
		ob.Fault(at, "power cut of "+lost.Name)
		owned(t, l, s.slot, lost)
		pause(t, 2*time.Second)
	})
	kept(t, sc)
	for _, a := range l.Appliances() {
		if a == lost {
			continue
		}
		t.Check(poll(t.Context(), 100*time.Millisecond, "another leading registrar", func() (bool, error) { return leader(t, l, a) != lost, nil }))
	}
	// Each move spends two tickets, which only a registrar gives.
	for n := range 3 {
		allReady(t, l)
		from, to := owned(t, l, s.slot, lost), ""
		for _, a := range l.Appliances() {
			if a != lost && a != from {
				to = a.Name
			}
		}
		handover(t, l, s, fmt.Sprintf("move %d", n+1), to)
	}
	t.Check(lost.PowerOn())
	allReady(t, l)
	party{s}.usable(t, l)
}

func takeoverLoaded(t *T, l *Lab) {
	t.Check(enterBy(l, map[string]string{"r1": "ams", "r2": "fra"}))
	fleetUp(t, l)
	at := map[int][]*Client{} // by their routers, and so by their slots
	for i, c := range l.clients {
		at[i%2] = append(at[i%2], c)
	}
	ss := append(joinAll(t, l, at[0], 100), joinAll(t, l, at[1], 100)...)
	heir := l.Appliance("fra")
	before := map[uint32]*Appliance{}
	for _, n := range slotsOf(ss) {
		before[n] = owned(t, l, n)
	}
	victim := l.Appliance("ams")
	scs := ss.lives(t, l, "power-cut", func(os observations) {
		pause(t, 300*time.Millisecond)
		at, err := victim.PowerCut()
		t.Check(err)
		os.Fault(at, "power cut of "+victim.Name)
		for _, n := range slotsOf(ss) {
			owned(t, l, n, victim)
		}
		pause(t, 2*time.Second)
	})
	taken, own := 0, 0
	for i, s := range ss {
		if before[s.slot] == victim {
			taken++
			continue
		}
		own++
		if scs[i].Lost != 0 {
			t.Errorf("%s: %d of %d packets of %s's own client lost", scs[i].Name, scs[i].Lost, scs[i].Sent, heir.Name)
		}
	}
	if taken == 0 || own == 0 {
		t.Fatalf("%d sessions were taken over by one that had %d: nothing is shown", taken, own)
	}
	ss.usable(t, l)
	t.Check(victim.PowerOn())
	allReady(t, l)
	for _, s := range ss {
		if before[s.slot] == victim {
			handover(t, l, s, "return", victim.Name)
			break
		}
	}
}

func coldStart(t *T, l *Lab) {
	t.Check(enterAt(l, "ams"))
	fleetUp(t, l)
	ss := joinAll(t, l, l.clients, 100)
	tickets, spi := map[uint32]uint64{}, map[string]string{}
	for _, a := range l.Appliances() {
		for _, n := range l.HomeSlots(a) {
			for _, k := range owners(t, l, uint32(n)) {
				tickets[uint32(n)] = k
			}
		}
	}
	for _, s := range ss {
		x, err := s.Client.SA()
		t.Check(err)
		spi[s.Client.Name] = x.SPIi
	}
	for _, a := range l.Appliances() {
		_, err := a.PowerCut()
		t.Check(err)
	}
	pause(t, time.Second)
	for _, a := range l.Appliances() {
		t.Check(a.PowerOn())
	}
	for _, a := range l.Appliances() {
		t.Check(a.WaitReady(t.Context()))
	}
	for n, was := range tickets {
		w := united(t, l, n, nil)
		if now := owners(t, l, n)[w.Name]; now <= was {
			t.Errorf("slot %d: %s owns by ticket %d, which is not above %d of before the cut", n, w.Name, now, was)
		}
	}
	addrs := map[string]string{}
	for _, s := range ss {
		began := time.Now()
		t.Check(poll(t.Context(), 100*time.Millisecond, s.Client.Name+" to come again", func() (bool, error) {
			x, err := s.Client.SA()
			return err == nil && x.SPIi != spi[s.Client.Name], err
		}))
		a, err := s.Client.Inner()
		t.Check(err)
		if who := addrs[a.String()]; who != "" {
			t.Errorf("%s and %s both hold %s", who, s.Client.Name, a)
		}
		addrs[a.String()] = s.Client.Name
		t.Logf("%s came again after another %s, with %s", s.Client.Name, time.Since(began).Round(time.Millisecond), a)
		t.Check(s.Stream.Stop(time.Second))
		st, err := l.StartStream(s.Client, Rate{PPS: 100, Size: 200})
		t.Check(err)
		s.Stream = st
		t.Check(st.WaitReceived(t.Context(), 100))
	}
	allReady(t, l)
	ss.usable(t, l)
}
