package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/status"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// Figures of the demo.
const (
	plannedMoves   = 5
	plannedPackets = 5000 // at least, in each planned handover
	moveTries      = 3
	flowWithin     = 10 * time.Second

	rearmed        = "shadows are armed again" // what is waited for between scenes
	reconnectLimit = 45 * time.Second
)

// entry is where all packets for the VIP enter while it lives. New clients land in
// its slot.
const entry = "ams"

// story is one lab of the demo while it plays.
type story struct {
	t   *T
	l   *Lab
	c   *console
	rep *Report
	s   *attached
}

// begin brings the fleet up and connects the client.
func (d *story) begin() {
	t, l := d.t, d.l
	t.Check(enterAt(l, entry))
	d.c.during(waiting("the fleet starts"), func() { fleetUp(t, l) })
	what := "every slot has its shadows"
	if l.opt.NoShadowing {
		what = "shadowing is off"
	}
	d.rep.BFD = fmt.Sprintf("%d ms x %d", l.opt.BFD.Interval.Milliseconds(), l.opt.BFD.Multiplier)
	d.c.say("%s are up, %s; BFD %s", names(l), what, d.rep.BFD)
	d.preflight()
	d.c.during(waiting("packets for the VIP enter at "+entry), d.routed)
	at := time.Now()
	d.c.during(waiting("the client connects"), func() { d.s = join(t, l, 0) })
	inner, err := d.s.Inner()
	t.Check(err)
	acc, err := d.s.Client.IKE()
	t.Check(err)
	o := d.ownerNow()
	d.c.say("client connected and under traffic after %.1f s: slot %d on %s, inner address %s (%s)", time.Since(at).Seconds(), d.s.slot, o.Name, inner, acc)
	if o.Name != entry {
		t.Fatalf("the client landed on %s, want %s", o.Name, entry)
	}
	d.versions()
}

// move asks for the handover. One that the fleet gives up, for somebody is silent on
// a busy machine, costs nothing and is asked for again, as an operator would.
func (d *story) move(o *Observation, from *Appliance, to string) *v1.HandoverAccount {
	t := d.t
	for try := 1; ; try++ {
		o.Mark(time.Now(), "handover to "+to+" asked for")
		acc, err := from.Handover(t.Context(), d.s.slot, to, func(p *v1.HandoverProgress) { o.Mark(time.Now(), phaseText(p)) })
		if err == nil {
			return acc
		}
		if try == moveTries {
			t.Check(err)
		}
		o.Mark(time.Now(), "given up: "+status.Convert(err).Message())
		d.c.say("  %s; asking again", status.Convert(err).Message())
		allReady(t, d.l)
	}
}

// ownerNow returns who owns the client's slot; nobody ends the demo.
func (d *story) ownerNow() *Appliance {
	o := owner(d.t, d.l, d.s.slot)
	if o == nil {
		d.t.Fatalf("nobody owns slot %d", d.s.slot)
	}
	return o
}

// routed waits until the client's router sends packets for the VIP to the entry.
func (d *story) routed() {
	ctx, cancel := context.WithTimeoutCause(d.t.Context(), 30*time.Second, errors.New("not within 30 s"))
	defer cancel()
	d.t.Check(poll(ctx, 50*time.Millisecond, "the route of the VIP over "+entry, func() (bool, error) {
		text, err := d.l.Router("r1", "show route for "+VIP.String()+" primary")
		return strings.Contains(text, " on "+entry), err
	}))
}

// versions asks the daemons themselves.
func (d *story) versions() {
	if m, err := d.s.Client.charon.command("version", nil); err == nil {
		d.rep.Versions.StrongSwan = str(m, "version")
	}
	if text, err := d.l.Router("r1", "show status"); err == nil {
		d.rep.Versions.BIRD, _, _ = strings.Cut(strings.TrimPrefix(text, "BIRD "), "\n")
	}
}

// play plays one scene and puts it into the report.
func (d *story) play(name, title string, do func(o *Observation)) {
	d.c.say("%s", title)
	var sc Scene
	st := d.s.Stream
	d.c.during(traffic(st), func() { sc = scene(d.t, d.l, d.s, name, do) })
	up, down := st.arrivals(sc.From, sc.To, bucketWidth)
	d.add(sc, title, up, down)
}

func (d *story) add(sc Scene, title string, up, down []int) {
	r := newReportScene(sc, title, !d.l.opt.NoShadowing, up, down)
	d.rep.Scenes = append(d.rep.Scenes, r)
	d.c.say("  %s", r.line())
}

// ready waits until the owner's shadows may take over, and until traffic flows: what
// an earlier scene broke is not to be counted in the next one.
func (d *story) ready(what string) {
	t := d.t
	d.c.during(waiting(what), func() { allReady(t, d.l) })
	ctx, cancel := context.WithTimeoutCause(t.Context(), flowWithin, fmt.Errorf("no traffic within %s, though every shadow is ready", flowWithin))
	defer cancel()
	d.c.during(traffic(d.s.Stream), func() { t.Check(d.s.WaitReceived(ctx, 50)) })
}

// end says at once what went wrong; collecting the evidence takes a while.
func (d *story) end() {
	if f := d.t.firstFailure(); f != "" {
		d.c.say("FAILED: %s; collecting logs", f)
	}
}

// shadowed is the fleet as it is meant to be.
func (d *story) shadowed() {
	defer d.end()
	t := d.t
	d.begin()
	d.play("control", "control: no fault", func(*Observation) { pause(t, 3*time.Second) })
	// Round the fleet, and home for the power cut: of the appliance that is both
	// the owner and the entry.
	for i, to := range [plannedMoves]string{"fra", "lhr", entry, "fra", entry} {
		d.ready(rearmed)
		d.handover("planned", fmt.Sprintf("planned handover %d/%d", i+1, plannedMoves), to, plannedPackets)
	}
	d.ready(rearmed)
	victim := d.powerCut()
	d.dpd()
	d.play("client-child-rekey", "client child rekey", func(*Observation) {
		t.Check(d.s.RekeyChild(t.Context()))
		pause(t, time.Second)
	})
	d.play("client-ike-rekey", "client IKE rekey", func(*Observation) {
		t.Check(d.s.RekeyIKE(t.Context()))
		pause(t, time.Second)
	})
	d.c.say("power on: %s boots with an empty memory", victim.Name)
	t.Check(victim.PowerOn())
	d.ready(victim.Name + " is fed again")
	d.handover("return", "return home", victim.Name, 3000)
	t.Check(d.s.Stream.Stop(time.Second))
}

// handover moves the client's slot under traffic until at least n packets are sent.
func (d *story) handover(name, title, to string, n int) {
	t := d.t
	from := d.ownerNow()
	d.play(name, fmt.Sprintf("%s: %s -> %s", title, from.Name, to), func(o *Observation) {
		base := d.s.counts().sent()
		pause(t, 500*time.Millisecond)
		acc := d.move(o, from, to)
		o.Mark(time.Now(), fmt.Sprintf("done, outbound held %s", acc.Hold.AsDuration().Round(10*time.Microsecond)))
		pause(t, 500*time.Millisecond)
		t.Check(poll(t.Context(), 20*time.Millisecond, "packets", func() (bool, error) { return d.s.counts().sent()-base > n+n/100, nil }))
	})
	if got := owned(t, d.l, d.s.slot, from); got.Name != to {
		t.Errorf("%s: slot %d is owned by %s, want %s", title, d.s.slot, got.Name, to)
	} else {
		d.why(got)
	}
}

// why tells the reason of the last handover, as people ask for it.
func (d *story) why(owner *Appliance) {
	d.c.say("  shadowctl slot show %d: %s owns it because: %s", d.s.slot, owner.Name, slotAt(d.t.Context(), owner, d.s.slot).GetOwnedReason())
}

// firstFailure is what the scenario failed by first.
func (t *T) firstFailure() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.res.Failures) == 0 {
		return ""
	}
	return clip(t.res.Failures[0])
}

// clip is a failure in one line of a report; the log has all of it.
func clip(s string) string {
	const most = 240
	s, _, _ = strings.Cut(s, "\n")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + " ..."
	}
	return s
}

// phaseText leaves out what every phase of an operator's move says.
func phaseText(p *v1.HandoverProgress) string {
	text, _, _ := strings.Cut(p.Message, ": operator ")
	return text
}

// powerCut kills the owner.
func (d *story) powerCut() (victim *Appliance) {
	t := d.t
	victim = d.ownerNow()
	d.play("power-cut", "power cut of "+victim.Name+" (owner, entry)", func(o *Observation) {
		pause(t, time.Second)
		at := d.cut(o, victim)
		// Nobody asks the survivors while they take over.
		pause(t, time.Second)
		heir := owned(t, d.l, d.s.slot, victim)
		claimed := at
		if dt, ok := detection(t, heir, d.s.slot); ok {
			claimed = at.Add(dt)
		}
		evs, err := heir.Events(t.Context())
		t.Check(err)
		for _, e := range evs {
			when := e.Time.AsTime()
			if e.Slot != d.s.slot || when.Before(at) {
				continue
			}
			// The event counts from the last sign of life, which was before the cut,
			// and is written after the deed: the decision was at the earlier of both.
			if e.Kind == "claim" && when.Before(claimed) {
				claimed = when
			}
			text := e.Message
			if e.Reason != "" {
				text += ": " + e.Reason
			}
			o.Mark(when, text)
		}
		o.detect = max(claimed.Sub(at), 0)
		pause(t, 1500*time.Millisecond)
	})
	d.why(owned(t, d.l, d.s.slot, victim))
	return victim
}

// cut takes the power from victim: all cables first, one after the other.
func (d *story) cut(o *Observation, victim *Appliance) time.Time {
	at := time.Now()
	o.Fault(at, "power cut of "+victim.Name)
	_, err := victim.PowerCut()
	d.t.Check(err)
	d.c.say("  %s is dark", victim.Name)
	return at
}

// dpd stops the traffic, for a client that hears its gateway asks nothing, and
// waits until the client's question after it is answered.
func (d *story) dpd() {
	t, s := d.t, d.s
	t.Check(s.Stream.Stop(time.Second))
	d.c.say("client DPD: without traffic, the client asks whether its gateway lives")
	answered := false
	var sc Scene
	d.c.during(waiting("no traffic"), func() {
		from := time.Now()
		sc = scene(t, d.l, s, "client-dpd", func(*Observation) {
			ctx, cancel := context.WithTimeoutCause(t.Context(), 15*time.Second, errors.New("no answered DPD within 15 s"))
			defer cancel()
			if err := poll(ctx, 20*time.Millisecond, "DPD", func() (bool, error) {
				acc, err := s.Client.IKE()
				answered = err == nil && answeredDPD(acc.Since(from))
				return answered, err
			}); err != nil {
				t.Logf("%v", err)
			}
		})
	})
	// No packets were sent: the answer is what shows that the session lives.
	sc.SessionKept = answered && sc.ClientIKESAInits == 0
	d.add(sc, "client DPD", nil, nil)
	st, err := d.l.StartStream(s.Client, Rate{PPS: 500, Size: 200})
	t.Check(err)
	s.Stream = st
	t.Check(st.WaitReceived(t.Context(), 200))
}

// answeredDPD reports whether the gateway answered an INFORMATIONAL request of the
// client's.
func answeredDPD(a *IKEAccount) bool {
	asked := map[uint32]bool{}
	for _, m := range a.Messages {
		switch {
		case m.Exchange != Informational:
		case m.FromClient && !m.Response:
			asked[m.ID] = true
		case !m.FromClient && m.Response && asked[m.ID]:
			return true
		}
	}
	return false
}

// names lists the appliances: "ams, fra and lhr".
func names(l *Lab) string {
	var out []string
	for _, a := range l.Appliances() {
		out = append(out, a.Name)
	}
	return strings.Join(out[:len(out)-1], ", ") + " and " + out[len(out)-1]
}
