package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/bgp"
	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/tests/sensors"
)

// From a warm sensor to an empty machine and back: evidence at the owner's sensors
// raises its MED, then moves its slots, while the VIP stays announced as a last
// resort; a hard limit withdraws it. The heir, which gets as hot meanwhile, is held
// back by the fleet guard. Good sensors alone end nothing: the limit is cleared by hand,
// and the state gets better one step at a time.
func init() {
	o := fleetOptions(ConnSpec{Cert: true})
	// Nothing dies here, and what is awaited takes seconds: the guest's only
	// processor is kept for the story.
	o.Appliances, o.PPS = []string{"ams", "fra"}, 100
	o.BFD, o.Probe = BFD{Interval: 500 * time.Millisecond, Multiplier: 6}, config.Probe{Interval: 200 * time.Millisecond, Lost: 10}
	Register(Scenario{
		Name: "health-drain", Doc: "rising NVMe and temperature evidence: degraded, drained, withdrawn, and back once after the hold",
		Need: fleetNeed, Options: o, Bench: true, Timeout: 6 * time.Minute, Run: healthDrain,
	})
}

const (
	// healthHold stands for the 7 days and 15 minutes of a real fleet.
	healthHold = 4 * time.Second
	// healthReturn is how long a home must have been well before its slot returns.
	healthReturn = 5 * time.Second
	// quietAfter is how long nothing may happen once the slot is home.
	quietAfter = 8 * time.Second
	// healthPatience bounds each wait: the guest's one processor serves everybody.
	healthPatience = time.Minute
)

// What BIRD sees at each level of the VIP, MEDs above the appliance's base.
// GRACEFUL_SHUTDOWN is RFC 8326.
const (
	vipNormal    = "MED base + 0"
	vipDegraded  = "MED base + 50"
	vipDraining  = "MED 4294967294, GRACEFUL_SHUTDOWN"
	vipWithdrawn = "no route"
)

func healthDrain(t *T, l *Lab) {
	ctx := t.Context()
	trees := map[string]*sensors.Tree{}
	for _, a := range l.Appliances() {
		speed := 1.0 // reading often costs the guest's only processor
		if a.N == 1 {
			speed = 10
		}
		tree, err := watchSensors(a, speed, healthHold)
		t.Check(err)
		trees[a.Name] = tree
		a.Config.Fleet.Handover.HoldDown = healthReturn
		// A day's changes of MED come within two minutes.
		a.Config.BGP.MaxChanges, a.Config.BGP.Dwell = 10, time.Second
	}
	s, o := start(t, l)
	if o.N != 1 {
		t.Fatalf("%s owns slot %d, want the first appliance, whose sensors are read often", o.Name, s.slot)
	}
	seen(t, l, o, vipNormal)
	tree := trees[o.Name]
	began := time.Now()

	t.quietly(l, s, "degraded", func() {
		t.Check(tree.NVMe(sensors.Log{Serial: sensors.NewDrive.Serial, Used: 100}))
		t.Check(tree.Heat(68, false))
		believes(t, o, v1.Standing_STANDING_DEGRADED)
		seen(t, l, o, vipDegraded)
	})
	if w := owned(t, l, s.slot); w != o {
		t.Errorf("degraded: slot %d is owned by %s, want it to stay at %s", s.slot, w.Name, o.Name)
	}

	var heir *Appliance
	t.quietly(l, s, "draining", func() {
		t.Check(tree.NVMe(sensors.Log{Serial: sensors.NewDrive.Serial, Used: 100, Warning: 1 << 1})) // too hot
		top := recordTop(t, o, "top.ansi")
		for c := 72; c <= 88; c += 4 {
			t.Check(tree.Heat(c, false))
			pause(t, 600*time.Millisecond)
		}
		believes(t, o, v1.Standing_STANDING_DRAINING)
		seen(t, l, o, vipDraining)
		heir = owned(t, l, s.slot, o)
		drained(t, o)
		t.Check(top.Kill())
		ctlHealth(t, o, "health-draining.txt")
	})
	// Drained by a prediction: nobody enters here, but if the others went, somebody
	// could.
	seen(t, l, o, vipDraining)

	// One may drain on a prediction, whoever else is as hot.
	t.quietly(l, s, "guarded", func() {
		t.Check(trees[heir.Name].Heat(95, false))
		believes(t, heir, v1.Standing_STANDING_DEGRADED)
		t.Check(heir.waitEvent(ctx, "health", "the fleet guard holds a predicted drain back", 1))
		seen(t, l, heir, vipDegraded)
		t.Check(trees[heir.Name].Heat(sensors.Cool, false))
		believes(t, heir, v1.Standing_STANDING_NORMAL)
	})

	t.quietly(l, s, "limit", func() {
		t.Check(tree.Heat(sensors.Crit+1, true))
		believes(t, o, v1.Standing_STANDING_WITHDRAWN)
		seen(t, l, o, vipWithdrawn)
		ctlHealth(t, o, "health-limit.txt")
	})

	// The drive is replaced and the machine cool: that alone is no recovery.
	t.Check(tree.NVMe(sensors.Log{Serial: "S2", Used: 0}))
	t.Check(tree.Heat(sensors.Cool, false))
	pause(t, 3*healthHold)
	h := health(t, o)
	if h.State != v1.Standing_STANDING_WITHDRAWN || len(h.Limits) == 0 {
		t.Errorf("%s is %s with the limits %v though nobody has cleared one", o.Name, h.State, h.Limits)
	}
	seen(t, l, o, vipWithdrawn)

	t.quietly(l, s, "recovery", func() {
		c, err := o.healthService()
		t.Check(err)
		r, err := c.ClearHealth(ctx, &v1.ClearHealthRequest{Serial: sensors.Serial})
		t.Check(err)
		if r.Cleared == 0 {
			t.Errorf("%s: no limit of %s was cleared", o.Name, sensors.Serial)
		}
		seen(t, l, o, vipDraining)
		seen(t, l, o, vipDegraded)
		believes(t, o, v1.Standing_STANDING_NORMAL)
		t.Check(poll(ctx, 100*time.Millisecond, fmt.Sprintf("slot %d to return to %s", s.slot, o.Name), func() (bool, error) {
			return owner(t, l, s.slot) == o, nil
		}))
		seen(t, l, o, vipNormal)
		pause(t, quietAfter)
	})
	if w := owned(t, l, s.slot); w != o {
		t.Errorf("slot %d is owned by %s %s after its return to %s", s.slot, w.Name, quietAfter, o.Name)
	}
	t.Metric("story_seconds", time.Since(began).Seconds())
	toldHealth(t, l, o, began, map[string][]string{
		o.Name:    {"degraded", "draining", "withdraw", "draining", "degraded", "watch", "normal"},
		heir.Name: {"degraded", "watch", "normal"},
	})
	toldMoves(t, l, s.slot, began, []string{heir.Name, o.Name})
}

// quietly plays a phase in which no packet may be lost.
func (t *T) quietly(l *Lab, s *attached, name string, do func()) {
	lossless(t, scene(t, l, s, name, func(*Observation) { do() }))
}

func (a *Appliance) healthService() (v1.HealthServiceClient, error) {
	if _, err := a.API(); err != nil { // connects
		return nil, err
	}
	return v1.NewHealthServiceClient(a.conn), nil
}

func health(t *T, a *Appliance) *v1.GetHealthResponse {
	c, err := a.healthService()
	t.Check(err)
	h, err := c.GetHealth(t.Context(), &v1.GetHealthRequest{})
	t.Check(err)
	return h
}

// believes waits until the appliance's hardware health has come to a state.
func believes(t *T, a *Appliance, want v1.Standing) {
	from := time.Now()
	var h *v1.GetHealthResponse
	ctx, cancel := contextOf(t, healthPatience)
	defer cancel()
	err := poll(ctx, 100*time.Millisecond, a.Name+" to be "+want.String(), func() (bool, error) {
		h = health(t, a)
		return h.State == want, nil
	})
	t.Logf("%s: %s after %s: %s; R30 %.2g, R1h %.2g, guard %q, causes %v", a.Name, h.State, time.Since(from).Round(100*time.Millisecond), h.Why, h.Evidence_30D, h.Risk_1H, h.Guard, h.Causes)
	t.Check(err)
}

// drained waits until the appliance's drain is done.
func drained(t *T, a *Appliance) {
	ctx, cancel := contextOf(t, healthPatience)
	defer cancel()
	t.Check(poll(ctx, 100*time.Millisecond, "the drain of "+a.Name+" to be done", func() (bool, error) {
		st, err := a.Standing(ctx)
		return st.GetDrainPhase() == "done", err
	}))
}

// seen waits until both outside routers have the appliance's VIP as wanted.
func seen(t *T, l *Lab, a *Appliance, want string) {
	from := time.Now()
	ctx, cancel := contextOf(t, healthPatience)
	defer cancel()
	got := map[string]string{}
	err := poll(ctx, 100*time.Millisecond, "the routers to have "+want+" of "+a.Name, func() (bool, error) {
		for _, r := range []string{"r1", "r2"} {
			v, err := vipAt(l, r, a)
			if got[r] = v; err != nil || v != want {
				return false, err
			}
		}
		return true, nil
	})
	if err != nil {
		t.Fatalf("%v; they have %v", err, got)
	}
	t.Logf("r1 and r2: VIP of %s: %s, after %s", a.Name, want, time.Since(from).Round(time.Millisecond))
}

// vipAt is what a router running BIRD has of an appliance's VIP.
func vipAt(l *Lab, r string, a *Appliance) (string, error) {
	text, err := l.Router(r, fmt.Sprintf("show route for %s protocol %s_4 all", VIP, a.Name))
	if err != nil {
		if strings.Contains(err.Error(), "Network not found") || strings.Contains(err.Error(), "Network not in table") {
			return vipWithdrawn, nil
		}
		return "", err
	}
	if strings.TrimSpace(text) == "" { // others have the VIP, this one has not
		return vipWithdrawn, nil
	}
	_, med, found := strings.Cut(text, "BGP.med: ")
	if !found {
		return "", fmt.Errorf("no MED in BIRD's answer %q", text)
	}
	med, _, _ = strings.Cut(med, "\n")
	n, err := strconv.ParseUint(strings.TrimSpace(med), 10, 32)
	if err != nil {
		return "", fmt.Errorf("read the MED of BIRD's answer %q: %w", text, err)
	}
	out := fmt.Sprintf("MED base + %d", int64(n)-int64(a.Config.BGP.MEDBase))
	if n == uint64(bgp.DrainMED) {
		out = fmt.Sprintf("MED %d", n)
	}
	if strings.Contains(text, "(65535,0)") {
		out += ", GRACEFUL_SHUTDOWN"
	}
	return out, nil
}

// ctlHealth keeps what an operator sees.
func ctlHealth(t *T, a *Appliance, file string) {
	ctl, err := a.lab.binary("shadowctl")
	t.Check(err)
	out, err := exec.CommandContext(t.Context(), ctl, "--socket", a.Config.Socket(), "health").CombinedOutput()
	if err != nil {
		t.Errorf("shadowctl health at %s: %v: %s", a.Name, err, out)
	}
	t.Logf("shadowctl health at %s:\n%s", a.Name, out)
	t.Check(os.WriteFile(filepath.Join(a.lab.OutDir(), file), out, 0o644))
}

// recordTop keeps what shadowctl top draws on an operator's terminal.
func recordTop(t *T, a *Appliance, file string) *Proc {
	ctl, err := a.lab.binary("shadowctl")
	t.Check(err)
	p, err := a.lab.start(a.ns, "shadowctl top", filepath.Join(a.lab.OutDir(), file), nil, ctl, "--socket", a.Config.Socket(), "top", "--interval", "2s")
	t.Check(err)
	return p
}

// toldHealth checks that the event logs tell every change of health since from, in
// order and no other, and each change for the worse with its causes.
func toldHealth(t *T, l *Lab, o *Appliance, from time.Time, want map[string][]string) {
	for _, a := range l.Appliances() {
		evs := since(t, a, from)
		var states []string
		for _, e := range evs {
			state, ok := strings.CutPrefix(e.Message, "hardware health is ")
			if e.Kind != "health" || !ok {
				continue
			}
			state, _, _ = strings.Cut(state, ",")
			states = append(states, state)
			t.Logf("%s %s: %s: %s", e.Time.AsTime().Format("15:04:05.0"), a.Name, e.Message, e.Reason)
			if a != o {
				continue
			}
			for _, cause := range map[string][]string{
				"degraded": {"of R30d: nvme nvme0 (S1): rated endurance used up"},
				"draining": {"of R1h: nvme nvme0 (S1): critical warning: temperature", "of R1h: thermal coretemp Package id 0"},
				"withdraw": {"limit T1.alarm: thermal coretemp Package id 0"},
			}[state] {
				if len(states) <= 3 && !strings.Contains(e.Reason, cause) {
					t.Errorf("%s says %q without the cause %q: %q", a.Name, e.Message, cause, e.Reason)
				}
			}
		}
		if !slices.Equal(states, want[a.Name]) {
			t.Errorf("the hardware health of %s went through %v, want %v", a.Name, states, want[a.Name])
		}
	}
	evs := since(t, o, from)
	for _, x := range [][2]string{
		{"standing", "this appliance is degraded, was normal"}, {"standing", "this appliance is draining, was degraded"},
		{"drain", "this appliance is drained: it may stop"}, {"health", "hard limit T1.alarm passed by thermal coretemp Package id 0 (" + sensors.Serial + ")"},
		{"standing", "this appliance is withdrawn, was draining"}, {"drain", "the drain is over: this appliance serves again"},
		{"standing", "this appliance is normal, was watch"},
	} {
		i := slices.IndexFunc(evs, func(e *v1.Event) bool { return e.Kind == x[0] && e.Message == x[1] })
		if i < 0 {
			t.Errorf("%s does not say %q (kind %s), or not in this order", o.Name, x[1], x[0])
			continue
		}
		t.Logf("%s %s: %s: %s", evs[i].Time.AsTime().Format("15:04:05.0"), o.Name, evs[i].Message, evs[i].Reason)
		evs = evs[i+1:]
	}
}

// toldMoves checks who claimed the slot since from, in order, by all event logs.
func toldMoves(t *T, l *Lab, slot uint32, from time.Time, want []string) {
	type claim struct {
		at time.Time
		by string
	}
	var claims []claim
	for _, a := range l.Appliances() {
		for _, e := range since(t, a, from) {
			if e.Kind == "claim" && e.Slot == slot {
				claims = append(claims, claim{e.Time.AsTime(), a.Name})
			}
		}
	}
	slices.SortFunc(claims, func(x, y claim) int { return x.at.Compare(y.at) })
	var by []string
	for _, c := range claims {
		by = append(by, c.by)
	}
	if !slices.Equal(by, want) {
		t.Errorf("slot %d was claimed by %v, want %v", slot, by, want)
	}
	t.Metric("claims", by)
}

// since are the appliance's events after from.
func since(t *T, a *Appliance, from time.Time) []*v1.Event {
	evs, err := a.Events(t.Context())
	t.Check(err)
	return slices.DeleteFunc(evs, func(e *v1.Event) bool { return !e.Time.AsTime().After(from) })
}
