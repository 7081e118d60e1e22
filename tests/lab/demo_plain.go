package lab

import (
	"context"
	"fmt"
	"time"
)

// unshadowed is the same power cut where nobody has a copy of the session.
func (d *story) unshadowed() {
	defer d.end()
	t := d.t
	d.c.print("")
	d.c.say("for comparison: the same fleet, the same client, shadowing switched off")
	d.begin()
	d.play("control-unshadowed", "control, no shadowing", func(*Observation) { pause(t, time.Second) })
	victim := d.ownerNow()
	title := "power cut of " + victim.Name + ", no shadowing"
	d.c.say("%s", title)
	d.c.say("  now only the client can notice: by DPD after 2 s of silence, and 6 retransmits within 24 s.")
	d.c.say("  That is a hasty client. With strongSwan's defaults retransmits go on for 165 s, and DPD is off.")
	old := d.s.Stream
	var sc Scene
	var up, down []int
	d.c.during(traffic(old), func() { sc, up, down = d.lose(old, victim) })
	d.add(sc, title, up, down)
}

// lose cuts the power and waits until the client has a new session; what is sent in
// that one counts in the scene too.
func (d *story) lose(old *Stream, victim *Appliance) (sc Scene, up, down []int) {
	t, c := d.t, d.s.Client
	before, err := c.SA()
	t.Check(err)
	o, err := d.l.Observe(c, old)
	t.Check(err)
	pause(t, time.Second)
	d.cut(o, victim)
	ctx, cancel := context.WithTimeoutCause(t.Context(), reconnectLimit, fmt.Errorf("no new session within %s", reconnectLimit))
	defer cancel()
	err = poll(ctx, 50*time.Millisecond, "a new session", func() (bool, error) {
		now, err := c.SA()
		return err == nil && now.SPIi != before.SPIi, err
	})
	var again *Stream
	if err == nil {
		o.Mark(time.Now(), "the client has a new session")
		d.c.say("  the client has a new session")
		old.StopSending()
		again, err = d.l.StartStream(c, Rate{PPS: 500, Size: 200})
		t.Check(err)
		if err := again.WaitReceived(ctx, 500); err != nil {
			t.Logf("%v", err)
		}
	}
	sc, err = o.End(t.Context(), "power-cut-unshadowed")
	t.Check(err)
	up, down = old.arrivals(sc.From, sc.To, bucketWidth)
	if again != nil {
		r := again.Report(sc.From, sc.To)
		sc.Up, sc.Down = sc.Up.plus(r.Up), sc.Down.plus(r.Down)
		sc.Sent, sc.Lost = sc.Up.Sent+sc.Down.Sent, sc.Up.Lost+sc.Down.Lost
		// Through the old session nothing ever came again; if it did, it is the
		// earlier one that counts.
		u, w := again.Outage(o.fault)
		sc.OutageUpMS, sc.OutageMS = sooner(sc.OutageUpMS, o.outageMS(u)), sooner(sc.OutageMS, o.outageMS(w))
		u2, d2 := again.arrivals(sc.From, sc.To, bucketWidth)
		for i := range min(len(up), len(u2)) {
			up[i] += u2[i]
			down[i] += d2[i]
		}
		// No packet between the two sessions.
		sc.Up.MaxGapMS, sc.Down.MaxGapMS = max(sc.Up.MaxGapMS, sc.OutageUpMS), max(sc.Down.MaxGapMS, sc.OutageMS)
	}
	t.Scene(sc)
	return sc, up, down
}

// sooner is the shorter of two outages, of which a negative one never ended.
func sooner(a, b float64) float64 {
	if a < 0 || b >= 0 && b < a {
		return b
	}
	return a
}

// plus adds up two streams' accounts of one direction.
func (d Direction) plus(e Direction) Direction {
	n := d.Received + e.Received
	if n > 0 {
		d.DelayAvgMS = (d.DelayAvgMS*float64(d.Received) + e.DelayAvgMS*float64(e.Received)) / float64(n)
	}
	d.Sent, d.Received, d.Lost = d.Sent+e.Sent, n, d.Lost+e.Lost
	d.Duplicates, d.Reordered = d.Duplicates+e.Duplicates, d.Reordered+e.Reordered
	d.MaxGapMS, d.DelayMaxMS = max(d.MaxGapMS, e.MaxGapMS), max(d.DelayMaxMS, e.DelayMaxMS)
	d.LostList = append(d.LostList[:len(d.LostList):len(d.LostList)], e.LostList...)
	return d
}
