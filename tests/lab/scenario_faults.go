package lab

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	strongswan "github.com/shadowcast/shadowcast/sa/charon"
)

// The stories of what breaks, each by its name.
func init() {
	add := func(name, doc string, o Options, run func(*T, *Lab)) {
		Register(Scenario{Name: name, Doc: doc, Need: fleetNeed, Options: o, Run: run})
	}
	encap := fleetOptions(ConnSpec{Encap: true})
	plain := fleetOptions(ConnSpec{Cert: true})
	dpd := fleetOptions(ConnSpec{DPD: "2s"})

	add("charon-killed", "charon of the active slot dies under UDP encapsulation: a shadow takes over", encap, charonKilled)
	add("charon-refed", "charon of a slot without shadow dies: refilled in place", Options{Routers: true, SlotsPerAppliance: 1, NoShadowing: true, Conn: ConnSpec{Encap: true}}, charonRefed)
	add("daemon-killed", "the owner's daemon dies and comes back, adopting what runs", plain, daemonKilled)
	add("daemon-alone", "a daemon without shadows dies and comes back: its sessions live on", Options{Routers: true, SlotsPerAppliance: 1, NoShadowing: true}, daemonAlone)
	add("daemon-frozen", "the owner's daemon freezes: the dead-man closes the fence, a shadow takes over, the thawed one yields", plain, daemonFrozen)
	add("stale-owner", "a cut-off owner deletes its IKE_SAs and comes back: nobody believes it (rule 1)", plain, staleOwner)
	add("crash-client-child-rekey", "the owner dies in the middle of a client's child rekey (rule 7)", plain, crashClientRekey((*Client).StartRekeyChild))
	add("crash-client-ike-rekey", "the owner dies in the middle of a client's IKE rekey (rule 7)", plain, crashClientRekey((*Client).StartRekeyIKE))
	add("crash-owner-dpd", "the owner dies with a DPD request of its own unanswered (rule 7)", dpd, crashOwnerDPD)
	add("crash-owner-child-rekey", "the owner dies in the middle of its own child rekey (rule 7)", plain, crashOwnerChildRekey)
	add("move-during-ike-rekey", "a move is asked for while the gateway's IKE rekey is unanswered (rule 14)", plain, moveDuringRekey)
	add("inner-addresses", "no inner address is given out twice, across moves and power cuts", Options{Routers: true, SlotsPerAppliance: 1, Clients: make([]ClientSpec, 6)}, innerAddresses)
	add("fragments", "4000-byte packets reach a non-default and a remote slot", plain, fragments)
}

// home is the appliance whose slot the client got; clients enter at it.
func start(t *T, l *Lab) (*attached, *Appliance) {
	t.Check(enterAt(l, "ams"))
	fleetUp(t, l)
	s := join(t, l, 0)
	control(t, l, s)
	o := owner(t, l, s.slot)
	if o == nil {
		t.Fatalf("nobody owns slot %d", s.slot)
	}
	return s, o
}

// survives plays a fault after which the session must go on elsewhere.
func survives(t *T, l *Lab, s *attached, name string, from *Appliance, fault func() error) (Scene, *Appliance) {
	var heir *Appliance
	sc := scene(t, l, s, name, func(o *Observation) {
		pause(t, 300*time.Millisecond)
		o.Fault(time.Now(), name)
		t.Check(fault())
		heir = owned(t, l, s.slot, from)
		pause(t, 1500*time.Millisecond)
	})
	kept(t, sc)
	return sc, heir
}

func slotCharon(t *T, a *Appliance, slot uint32) int {
	x := slotAt(t.Context(), a, slot)
	if x == nil || x.Charon == nil || x.Charon.Pid == 0 {
		t.Fatalf("%s names no charon of slot %d", a.Name, slot)
	}
	return int(x.Charon.Pid)
}

func charonKilled(t *T, l *Lab) {
	s, o := start(t, l)
	pid := slotCharon(t, o, s.slot)
	survives(t, l, s, "charon-killed", o, func() error { return syscall.Kill(pid, syscall.SIGKILL) })
	t.Check(s.Client.RekeyChild(t.Context()))
	t.Check(s.Client.RekeyIKE(t.Context()))
	allReady(t, l)
	handover(t, l, s, "return", o.Name)
}

func charonRefed(t *T, l *Lab) {
	s, o := start(t, l)
	pid := slotCharon(t, o, s.slot)
	sc := scene(t, l, s, "charon-refed", func(ob *Observation) {
		pause(t, 300*time.Millisecond)
		ob.Fault(time.Now(), "charon killed")
		t.Check(syscall.Kill(pid, syscall.SIGKILL))
		t.Check(o.WaitStatus(t.Context(), "a new charon", func(r *v1.GetStatusResponse) bool {
			for _, x := range r.Slots {
				if x.Number == s.slot {
					return x.Charon.GetPid() != 0 && int(x.Charon.Pid) != pid && x.Fence.GetState() != v1.FenceState_FENCE_STATE_CLOSED
				}
			}
			return false
		}))
		pause(t, 1500*time.Millisecond)
	})
	kept(t, sc)
	t.Check(s.Client.RekeyChild(t.Context()))
	t.Check(s.Client.RekeyIKE(t.Context()))
}

func daemonKilled(t *T, l *Lab) {
	s, o := start(t, l)
	survives(t, l, s, "daemon-killed", o, o.KillDaemon)
	t.Check(o.Start())
	t.Check(o.WaitStatus(t.Context(), "an answer", func(*v1.GetStatusResponse) bool { return true }))
	allReady(t, l)
	control(t, l, s)
	handover(t, l, s, "return", o.Name)
}

func daemonAlone(t *T, l *Lab) {
	s, o := start(t, l)
	pid := slotCharon(t, o, s.slot)
	sc := scene(t, l, s, "daemon-restarted", func(ob *Observation) {
		pause(t, 300*time.Millisecond)
		ob.Fault(time.Now(), "daemon killed")
		t.Check(o.KillDaemon())
		t.Check(o.Start())
		t.Check(o.WaitReady(t.Context()))
		t.Check(s.Stream.WaitReceived(t.Context(), 500))
		pause(t, 2*time.Second)
	})
	kept(t, sc)
	if got := slotCharon(t, o, s.slot); got != pid {
		t.Errorf("charon was restarted: pid %d, was %d", got, pid)
	}
	t.Check(s.Client.RekeyChild(t.Context()))
}

func daemonFrozen(t *T, l *Lab) {
	s, o := start(t, l)
	survives(t, l, s, "daemon-frozen", o, o.Daemon().Freeze)
	t.Check(o.Daemon().Thaw())
	control2 := scene(t, l, s, "thawed", func(*Observation) { pause(t, 3*time.Second) })
	kept(t, control2)
	if got := owner(t, l, s.slot); got == nil || got == o {
		t.Errorf("the thawed daemon owns slot %d again", s.slot)
	}
	allReady(t, l)
	handover(t, l, s, "return", o.Name)
}

// viciOf opens the vici socket of a slot on an appliance.
func viciOf(a *Appliance, slot uint32) *strongswan.Vici {
	return strongswan.NewVici(filepath.Join(a.runDir(), fmt.Sprintf("slot-%d", slot), "vici"))
}

func staleOwner(t *T, l *Lab) {
	s, o := start(t, l)
	survives(t, l, s, "cut-off", o, o.Unplug)
	// Its charon gives the clients up, as it would by DPD.
	v := viciOf(o, s.slot)
	defer v.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := v.TerminateIKE(ctx, strongswan.Target{Name: "rw"}, true, time.Second); err != nil {
		t.Logf("terminate at the stale owner: %v", err) // already rebuilt as a twin
	}
	t.Check(o.Plug())
	sc := scene(t, l, s, "back", func(*Observation) { pause(t, 3*time.Second) })
	kept(t, sc)
	if sc.Lost != 0 {
		t.Errorf("back: %d packets lost when the stale owner returned", sc.Lost)
	}
	allReady(t, l)
	handover(t, l, s, "return", o.Name)
}

// crashClientRekey kills the owner after it has processed the client's request
// and before the client hears of it.
func crashClientRekey(begin func(*Client) error) func(*T, *Lab) {
	return func(t *T, l *Lab) {
		s, o := start(t, l)
		before, err := s.Client.SA()
		t.Check(err)
		drop := dropFrom(t, l, o, IKEMatch{Exchange: CreateChildSA, Responses: true})
		t.Check(begin(s.Client))
		t.Check(poll(t.Context(), 10*time.Millisecond, "the response that is lost", func() (bool, error) { return drop() > 0, nil }))
		cut, heir := powerCut(t, l, s, "power-cut")
		kept(t, cut)
		// The client repeats its request; the heir answers it as new.
		t.Check(poll(t.Context(), 50*time.Millisecond, "the client's rekey", func() (bool, error) {
			now, err := s.Client.SA()
			return err == nil && rekeyed(before, now), err
		}))
		t.Logf("rekey completed with %s", heir.Name)
		control(t, l, s)
		t.Check(s.Client.RekeyChild(t.Context()))
		t.Check(s.Client.RekeyIKE(t.Context()))
		control(t, l, s)
	}
}

func rekeyed(before, now IKESA) bool {
	if before.SPIi != now.SPIi || before.SPIr != now.SPIr {
		return true
	}
	b, n := before.Installed(), now.Installed()
	return len(b) > 0 && len(n) > 0 && b[0].Out != n[0].Out
}

// dropFrom drops IKE messages that leave an appliance on either uplink and counts
// them.
func dropFrom(t *T, l *Lab, a *Appliance, m IKEMatch) func() uint64 {
	var fs []*Filter
	for _, dev := range []string{devUplink1, devUplink2} {
		f, err := a.ns.DropIKE(dev, Egress, m)
		t.Check(err)
		fs = append(fs, f)
	}
	return func() (n uint64) {
		for _, f := range fs {
			d, err := f.Dropped()
			t.Check(err)
			n += d
		}
		return n
	}
}

func crashOwnerDPD(t *T, l *Lab) {
	s, o := start(t, l)
	s.Stream.StopSending() // DPD asks only where nothing else is heard
	t.Check(s.Stream.Stop(time.Second))
	drop := dropFrom(t, l, o, IKEMatch{Exchange: Informational, Requests: true})
	t.Check(poll(t.Context(), 10*time.Millisecond, "a DPD request of the owner", func() (bool, error) { return drop() > 0, nil }))
	victim := o
	_, err := victim.PowerCut()
	t.Check(err)
	owned(t, l, s.slot, victim)
	st, err := l.StartStream(s.Client, Rate{PPS: 500, Size: 200})
	t.Check(err)
	s.Stream = st
	t.Check(st.WaitReceived(t.Context(), 300))
	sc := scene(t, l, s, "after", func(*Observation) { pause(t, 12*time.Second) })
	kept(t, sc)
	t.Check(s.Client.RekeyChild(t.Context()))
	t.Check(s.Client.RekeyIKE(t.Context()))
	control(t, l, s)
}

func crashOwnerChildRekey(t *T, l *Lab) {
	s, o := start(t, l)
	f, err := s.Client.ns.DropIKE(devClient, Egress, IKEMatch{Exchange: CreateChildSA, Responses: true})
	t.Check(err)
	v := viciOf(o, s.slot)
	defer v.Close()
	if _, err := v.RekeyChild(t.Context(), strongswan.Target{Name: "net"}); err != nil {
		t.Fatalf("rekey the child at the gateway: %v", err)
	}
	t.Check(poll(t.Context(), 10*time.Millisecond, "the client's response", func() (bool, error) {
		n, err := f.Dropped()
		return n > 0, err
	}))
	cut, _ := powerCut(t, l, s, "power-cut")
	t.Check(f.Remove())
	kept(t, cut)
	control(t, l, s)
	sc := scene(t, l, s, "after", func(*Observation) { pause(t, 8*time.Second) })
	kept(t, sc)
	t.Check(s.Client.RekeyChild(t.Context()))
	t.Check(s.Client.RekeyIKE(t.Context()))
	control(t, l, s)
}

func moveDuringRekey(t *T, l *Lab) {
	s, o := start(t, l)
	f, err := s.Client.ns.DropIKE(devClient, Egress, IKEMatch{Exchange: CreateChildSA, Responses: true, Count: 1})
	t.Check(err)
	v := viciOf(o, s.slot)
	defer v.Close()
	if _, err := v.RekeyIKE(t.Context(), strongswan.Target{Name: "rw"}); err != nil {
		t.Fatalf("rekey the IKE_SA at the gateway: %v", err)
	}
	t.Check(poll(t.Context(), 10*time.Millisecond, "the response that is lost", func() (bool, error) {
		n, err := f.Dropped()
		return n > 0, err
	}))
	to := "fra"
	if o.Name == to {
		to = "lhr"
	}
	handover(t, l, s, "moved", to)
	t.Check(f.Remove())
	sc := scene(t, l, s, "after", func(*Observation) { pause(t, 5*time.Second) })
	kept(t, sc)
	t.Check(s.Client.RekeyChild(t.Context()))
	t.Check(s.Client.RekeyIKE(t.Context()))
	allReady(t, l)
	handover(t, l, s, "return", o.Name)
}

// innerAddresses lets clients come and go through moves and a power cut and
// checks that no two live ones ever share an address.
func innerAddresses(t *T, l *Lab) {
	ctx := t.Context()
	t.Check(enterAt(l, "ams"))
	fleetUp(t, l)
	live := map[netip.Addr]string{}
	up := func(i int) {
		c := l.Client(i)
		_, err := c.Connect(ctx)
		t.Check(err)
		a, err := c.Inner()
		t.Check(err)
		if who, taken := live[a]; taken {
			t.Errorf("%s got %s, which %s holds", c.Name, a, who)
		}
		live[a] = c.Name
	}
	up(0)
	up(1)
	allReady(t, l)
	slot := uint32(1)
	_, err := owner(t, l, slot).Handover(ctx, slot, "fra", nil)
	t.Check(err)
	allReady(t, l)
	// New clients enter at ams, which owns nothing now, and go to a slot elsewhere.
	up(2)
	allReady(t, l)
	victim := owner(t, l, slot)
	_, err = victim.PowerCut()
	t.Check(err)
	owned(t, l, slot, victim)
	up(3)
	up(4)
	t.Check(victim.PowerOn())
	allReady(t, l)
	back := owner(t, l, slot)
	_, err = back.Handover(ctx, slot, "ams", nil)
	if err != nil && !strings.Contains(err.Error(), "is here already") {
		t.Check(err)
	}
	up(5)
	if len(live) != 6 {
		t.Errorf("%d clients hold %d addresses", 6, len(live))
	}
	for _, c := range l.Clients() {
		a, err := c.Inner()
		t.Check(err)
		if live[a] != c.Name {
			t.Errorf("%s holds %s now, which was given to %s", c.Name, a, live[a])
		}
	}
	for _, a := range l.Appliances() {
		evs, err := a.Events(ctx)
		t.Check(err)
		for _, e := range evs {
			if e.Kind == "conflict" {
				t.Errorf("%s reports: %s (%s)", a.Name, e.Message, e.Reason)
			}
		}
	}
}

// fragments sends packets that do not fit into one frame to a slot that is not the
// entry's default one, here and behind the tunnel.
func fragments(t *T, l *Lab) {
	s, o := start(t, l)
	big, err := l.StartStream(s.Client, Rate{PPS: 50, Size: 4000})
	t.Check(err)
	t.Check(big.WaitReceived(t.Context(), 100))
	to := "fra"
	if o.Name == to {
		to = "lhr"
	}
	_, err = o.Handover(t.Context(), s.slot, to, nil)
	t.Check(err)
	from := time.Now()
	t.Check(big.WaitReceived(t.Context(), 100))
	pause(t, time.Second)
	until := time.Now().Add(-500 * time.Millisecond)
	r := big.Report(from, until)
	t.Logf("4000-byte packets to a remote slot: %s", r)
	if r.Sent() < 20 || r.Lost() != 0 {
		t.Errorf("4000-byte packets to a remote slot: %s", r)
	}
	t.Check(big.Stop(time.Second))
}
