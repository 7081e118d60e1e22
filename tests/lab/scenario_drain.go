package lab

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func init() {
	o := fleetOptions(ConnSpec{Cert: true})
	o.SlotsPerAppliance, o.BFD = 2, patientBFD // a drain has no fault to detect
	Register(Scenario{
		Name: "drain", Doc: "an appliance with two slots is drained under traffic, refuses to come back by itself, and returns",
		Need: fleetNeed, Options: o, Run: drainScenario,
	})
}

// drainPhases are the phases of a drain that moves something, in order.
var drainPhases = []string{"prepare", "sessions", "move", "verify", "withdraw", "done"}

// movePhases are the phases of each move.
var movePhases = []string{"prepare", "quiesce", "flush", "take", "flip", "drain", "close", "done"}

func drainScenario(t *T, l *Lab) {
	s, o := start(t, l)
	upgradeLock(t, l, o)
	sc := scene(t, l, s, "drained", func(ob *Observation) {
		pause(t, 300*time.Millisecond)
		acc, err := o.Drain(t.Context(), func(p *v1.DrainProgress) { ob.Mark(time.Now(), p.Phase+" "+p.Message) })
		t.Check(err)
		checkDrain(t, o, acc)
		t.Logf("drained %s in %s: %s", o.Name, acc.Elapsed.AsDuration(), drainTimes(acc))
		pause(t, 700*time.Millisecond)
	})
	lossless(t, sc)
	if heir := owned(t, l, s.slot, nil); heir == o {
		t.Errorf("%s still owns slot %d after its drain", o.Name, s.slot)
	}
	st, err := o.Standing(t.Context())
	t.Check(err)
	if st.VipLevel != "withdrawn" || st.Standing != v1.Standing_STANDING_DRAINING || st.DrainPhase != "done" {
		t.Errorf("%s is %s, its drain is %s and its VIP %s after the drain", o.Name, st.Standing, st.DrainPhase, st.VipLevel)
	}
	// The daemon remembers over a restart, and nothing is lost by it.
	sc = scene(t, l, s, "restart of the drained daemon", func(*Observation) {
		t.Check(o.StopDaemon(t.Context()))
		t.Check(o.Start())
		t.Check(o.WaitStatus(t.Context(), "an answer", func(*v1.GetStatusResponse) bool { return true }))
		pause(t, time.Second)
	})
	lossless(t, sc)
	if st, err = o.Standing(t.Context()); err != nil || st.Standing != v1.Standing_STANDING_DRAINING {
		t.Errorf("%s forgot that it drains: %v, %v", o.Name, st.GetStanding(), err)
	}
	t.Check(o.Undrain(t.Context()))
	allReady(t, l)
	handover(t, l, s, "return", o.Name)
	if st, err = o.Standing(t.Context()); err != nil || st.VipLevel != "normal" {
		t.Errorf("the VIP of %s is %s after undrain, %v", o.Name, st.GetVipLevel(), err)
	}
}

// upgradeLock takes the fleet-wide lock for o and checks that nobody else gets it.
func upgradeLock(t *T, l *Lab, o *Appliance) {
	ctx := t.Context()
	lock := func(a *Appliance) v1.UpgradeLockServiceClient {
		_, err := a.API() // connects
		t.Check(err)
		return v1.NewUpgradeLockServiceClient(a.conn)
	}
	ask := &v1.AcquireUpgradeLockRequest{Ttl: durationpb.New(time.Hour), Reason: "lab"}
	got, err := lock(o).AcquireUpgradeLock(ctx, ask)
	t.Check(err)
	if got.Holder != o.Name {
		t.Errorf("the upgrade lock is held by %q, want %s: %v", got.Holder, o.Name, got)
	}
	for _, a := range l.Appliances() {
		if a == o {
			continue
		}
		if got, err := lock(a).AcquireUpgradeLock(ctx, ask); err == nil || !strings.Contains(err.Error(), o.Name+" holds the upgrade lock") {
			t.Errorf("%s got the upgrade lock that %s holds: %v, %v", a.Name, o.Name, got, err)
		}
	}
	_, err = lock(o).ReleaseUpgradeLock(ctx, &v1.ReleaseUpgradeLockRequest{})
	t.Check(err)
}

// lossless checks a scene in which nothing may be lost.
func lossless(t *T, sc Scene) {
	kept(t, sc)
	if sc.Lost != 0 || sc.Up.Duplicates+sc.Down.Duplicates != 0 {
		t.Errorf("%s: lost %d, duplicates %d/%d, want none%s", sc.Name, sc.Lost, sc.Up.Duplicates, sc.Down.Duplicates, sc.Refused)
	}
}

func drainTimes(acc *v1.DrainAccount) string {
	var out []string
	for _, p := range acc.Phases {
		out = append(out, fmt.Sprintf("%s %.2f s", p.Phase, p.Elapsed.AsDuration().Seconds()))
	}
	return strings.Join(out, ", ")
}

// checkDrain checks the account of a drain and that the event log names every
// phase of it and of its moves, in order.
func checkDrain(t *T, a *Appliance, acc *v1.DrainAccount) {
	home := len(a.lab.HomeSlots(a))
	if !acc.Drained || len(acc.Slots) == 0 || acc.PacketsStillEnter {
		t.Errorf("drain of %s: %v", a.Name, acc)
	}
	evs, err := a.Events(t.Context())
	t.Check(err)
	last := uint64(0)
	for _, e := range evs {
		if e.Kind == "drain" {
			if n, err := strconv.ParseUint(e.Attributes["drain"], 10, 64); err == nil {
				last = n
			}
		}
	}
	var phases []string
	moves := map[uint32][]string{}
	for _, e := range evs {
		if e.Attributes["drain"] != strconv.FormatUint(last, 10) {
			continue
		}
		switch {
		case e.Kind == "move":
			moves[e.Slot] = append(moves[e.Slot], e.Attributes["phase"])
		case e.Severity != v1.Severity_SEVERITY_WARNING:
			phases = append(phases, e.Attributes["phase"])
		}
	}
	if !slices.Equal(phases, drainPhases) {
		t.Errorf("the event log of %s names the phases %v of its drain, want %v", a.Name, phases, drainPhases)
	}
	for _, m := range acc.Slots {
		got := moves[m.Slot]
		// A move that was given up is followed by one that was not.
		if n := len(movePhases); len(got) < n || !slices.Equal(got[len(got)-n:], movePhases) {
			t.Errorf("the event log of %s names the phases %v of the move of slot %d, want %v at the end", a.Name, got, m.Slot, movePhases)
		}
	}
	t.Logf("%s: %d of its %d home slots moved, every phase in its event log", a.Name, len(acc.Slots), home)
}

// Drain drains the appliance and returns the account. Progress goes to step, which
// may be nil.
func (a *Appliance) Drain(ctx context.Context, step func(*v1.DrainProgress)) (*v1.DrainAccount, error) {
	return a.drain(ctx, &v1.DrainRequest{Appliance: a.Name, Reason: "lab"}, step)
}

func (a *Appliance) drain(ctx context.Context, req *v1.DrainRequest, step func(*v1.DrainProgress)) (*v1.DrainAccount, error) {
	c, err := a.drains()
	if err != nil {
		return nil, err
	}
	st, err := c.Drain(ctx, req)
	for err == nil {
		var r *v1.DrainResponse
		if r, err = st.Recv(); err != nil {
			break
		}
		if acc := r.GetAccount(); acc != nil {
			return acc, nil
		}
		if p := r.GetProgress(); p != nil && step != nil {
			step(p)
		}
	}
	return nil, fmt.Errorf("drain %s: %w", a.Name, err)
}

// Undrain ends the appliance's drain.
func (a *Appliance) Undrain(ctx context.Context) error {
	c, err := a.drains()
	if err != nil {
		return err
	}
	if _, err := c.Undrain(ctx, &v1.UndrainRequest{Appliance: a.Name}); err != nil {
		return fmt.Errorf("undrain %s: %w", a.Name, err)
	}
	return nil
}

// Standing tells how fit the appliance believes to be.
func (a *Appliance) Standing(ctx context.Context) (*v1.GetStandingResponse, error) {
	c, err := a.drains()
	if err != nil {
		return nil, err
	}
	r, err := c.GetStanding(ctx, &v1.GetStandingRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask %s for its standing: %w", a.Name, err)
	}
	return r, nil
}

func (a *Appliance) drains() (v1.DrainServiceClient, error) {
	if _, err := a.API(); err != nil { // connects
		return nil, err
	}
	return v1.NewDrainServiceClient(a.conn), nil
}
