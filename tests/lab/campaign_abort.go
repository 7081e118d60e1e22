package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// The abort campaign: whoever takes part in a drain dies in whatever phase. The
// cases are generated: every victim times every phase of the drain and of the move.
type abortPhase struct {
	move bool // of the slot's move, else of the drain
	name string
}

func abortPhases() []abortPhase {
	var out []abortPhase
	for _, p := range drainPhases {
		if p == "done" {
			continue
		}
		out = append(out, abortPhase{false, p})
		if p != "move" {
			continue
		}
		for _, m := range movePhases {
			if m != "done" {
				out = append(out, abortPhase{true, m})
			}
		}
	}
	return out
}

func (p abortPhase) String() string {
	if p.move {
		return "move/" + p.name
	}
	return p.name
}

// abortCase is a drain of owner towards target that is about to be disturbed.
type abortCase struct {
	t             *T
	l             *Lab
	s             *attached
	owner, target *Appliance
	names         *nameServer // of the victim dns
}

// victims are who can die: kill does it, heal brings it back.
var victims = []struct {
	name       string
	kill, heal func(*abortCase) error
}{
	{"target", func(c *abortCase) error { _, err := c.target.PowerCut(); return err }, func(c *abortCase) error { return c.target.PowerOn() }},
	{"owner", func(c *abortCase) error { _, err := c.owner.PowerCut(); return err }, func(c *abortCase) error { return c.owner.PowerOn() }},
	{"daemon", func(c *abortCase) error { return c.owner.KillDaemon() }, func(c *abortCase) error { return c.owner.Start() }},
	{"charon", func(c *abortCase) error {
		x := slotAt(c.t.Context(), c.owner, c.s.slot)
		if x.GetCharon().GetPid() == 0 {
			return nil // passivated and being rebuilt: dead already
		}
		if err := syscall.Kill(int(x.Charon.Pid), syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return nil
	}, func(*abortCase) error { return nil }},
	{"bgp-peer", func(c *abortCase) error { return c.l.router("r1").Kill() }, func(c *abortCase) error { return c.l.restartRouter(c.t.Context(), "r1") }},
	{dnsVictim, func(c *abortCase) error { return c.names.proc.Freeze() }, func(c *abortCase) error { return c.names.proc.Thaw() }},
}

// dnsVictim is the name server that the appliances update. It hangs, which is worse for
// who waits than that it is gone.
const dnsVictim = "dns"

func init() {
	o := fleetOptions(ConnSpec{})
	o.BFD = patientBFD
	for i := range victims {
		Register(Scenario{
			Name: "campaign-abort-" + victims[i].name, Doc: "a drain is disturbed in every phase: " + victims[i].name + " dies",
			Need: fleetNeed, Options: o, Timeout: 9 * time.Minute, Bench: true,
			Run: func(t *T, l *Lab) { campaignAbort(t, l, i) },
		})
	}
}

func campaignAbort(t *T, l *Lab, victim int) {
	var names *nameServer
	if victims[victim].name == dnsVictim {
		names, _ = l.namesOf(t)
	}
	s, _ := start(t, l)
	var b strings.Builder
	fmt.Fprintf(&b, "%-10s %-14s %-5s > %-6s %8s %9s  %s\n", "victim", "phase", "owner", "target", "lost", "kept", "owned by")
	for _, p := range abortPhases() {
		line := disturb(t, l, s, victim, p, names)
		b.WriteString(line)
		if t.Failed() {
			break
		}
	}
	t.Table(b.String())
}

// disturb drains the owner of the client's slot, kills the victim when phase p is
// reported, and checks what must hold: the session goes on, and after the heal the
// slot has one owner.
func disturb(t *T, l *Lab, s *attached, victim int, p abortPhase, names *nameServer) string {
	ctx := t.Context()
	c := &abortCase{t: t, l: l, s: s, owner: owner(t, l, s.slot), names: names}
	if c.owner == nil {
		t.Fatalf("nobody owns slot %d before phase %s", s.slot, p)
	}
	plan, err := c.owner.Plan(ctx)
	t.Check(err)
	i := slices.IndexFunc(plan.Moves, func(m *v1.PlannedMove) bool { return m.Slot == s.slot })
	if i < 0 || plan.Moves[i].To == "" {
		t.Fatalf("phase %s: the plan of %s names no successor for slot %d: %v", p, c.owner.Name, s.slot, plan)
	}
	c.target = l.Appliance(plan.Moves[i].To)
	v := victims[victim]
	name := fmt.Sprintf("%s dies in %s", v.name, p)
	sc := scene(t, l, s, name, func(o *Observation) {
		dctx, stop := context.WithTimeout(ctx, 30*time.Second)
		defer stop()
		dead := false // the victim is chosen: who moves on instead is another
		reached := make(chan error, 1)
		done := make(chan struct{})
		go func() {
			defer close(done)
			// The drain may end, fail with its victim, or go on.
			_, _ = c.owner.Drain(dctx, func(x *v1.DrainProgress) {
				o.Mark(time.Now(), x.Phase)
				if to, ok := strings.CutPrefix(x.Message, "move to "); ok && x.Slot == s.slot && !dead {
					if a := l.Appliance(to); a != nil {
						c.target = a
					}
				}
				if x.Phase == p.name && (x.Slot == s.slot) == p.move && !x.Warning && !dead {
					dead = true
					o.Fault(time.Now(), name)
					reached <- v.kill(c)
				}
			})
		}()
		select {
		case err := <-reached:
			t.Check(err)
		case <-dctx.Done():
			t.Errorf("%s: phase %s was never reported", name, p)
		}
		wait, cancel := contextOf(t, 20*time.Second)
		defer cancel()
		if err := s.Stream.WaitReceived(wait, 300); err != nil {
			t.Errorf("%s: traffic does not go on: %v", name, err)
		}
		pause(t, 500*time.Millisecond)
		stop()
		<-done
	})
	kept(t, sc)
	t.Check(v.heal(c))
	for _, a := range []*Appliance{c.owner, c.target} {
		t.Check(a.WaitStatus(ctx, "an answer", func(*v1.GetStatusResponse) bool { return true }))
	}
	t.Check(c.owner.Undrain(ctx))
	allReady(t, l)
	var owners []string
	for _, a := range l.Appliances() {
		if x := slotAt(ctx, a, s.slot); x != nil && x.Role == v1.Role_ROLE_OWNER {
			owners = append(owners, a.Name)
		}
	}
	if len(owners) != 1 {
		t.Errorf("%s: slot %d is owned by %v after the heal, want one", name, s.slot, owners)
	}
	after := scene(t, l, s, name+", healed", func(*Observation) { pause(t, 300*time.Millisecond) })
	kept(t, after)
	return fmt.Sprintf("%-10s %-14s %-5s > %-6s %8d %9t  %s\n", v.name, p, c.owner.Name, c.target.Name, sc.Lost, sc.SessionKept && sc.InnerAddressKept, strings.Join(owners, ", "))
}

// Plan tells what a drain of the appliance would do.
func (a *Appliance) Plan(ctx context.Context) (*v1.PlanDrainResponse, error) {
	c, err := a.drains()
	if err != nil {
		return nil, err
	}
	r, err := c.PlanDrain(ctx, &v1.PlanDrainRequest{Appliance: a.Name})
	if err != nil {
		return nil, fmt.Errorf("plan the drain of %s: %w", a.Name, err)
	}
	return r, nil
}

// contextOf bounds the scenario's context.
func contextOf(t *T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(t.Context(), d, fmt.Errorf("not within %s", d))
}
