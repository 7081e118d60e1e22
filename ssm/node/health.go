package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect"
	"github.com/shadowcast/shadowcast/ssm"
)

const (
	assessEvery  = time.Second
	keepEvery    = time.Minute // the state file, when nothing changes
	trendEvery   = time.Minute
	trendPoints  = 120
	causesTold   = 5
	guardPatient = 4 // detection times that others need to hear a wish
)

// monitor reads the hardware, asks the predictor, and tells the core how fit
// this appliance is. Its mutex guards everything below it.
type monitor struct {
	a      *Appliance
	policy hwhealth.Policy
	path   string
	boot   string

	mu        sync.Mutex
	predictor *hwhealth.Predictor
	ladder    hwhealth.Ladder
	guard     hwhealth.Guard
	last      hwhealth.Assessment
	verdict   hwhealth.Verdict
	since     time.Time // of the wish
	trend     []hwhealth.Assessment
	kept      time.Time
	told      string // the guard's last alarm
	limits    map[string]bool
	keepErr   string
	trace     *tracer
}

func newMonitor(a *Appliance) *monitor {
	m := &monitor{a: a, policy: healthPolicy(a.cfg.Health), path: filepath.Join(a.cfg.StateDir, "health.json"), boot: bootID(), predictor: hwhealth.New(), limits: map[string]bool{}}
	b, err := os.ReadFile(m.path)
	if err == nil {
		var p *hwhealth.Predictor
		var l hwhealth.Ladder
		if p, l, err = hwhealth.Decode(b, m.boot); err == nil {
			m.predictor, m.ladder = p, l
		}
	}
	m.trace = newTracer(a, m.boot, m.policy)
	m.predictor.SetHalfLives(min(hwhealth.SlowHalfLife, m.policy.SlowHold), min(hwhealth.FastHalfLife, m.policy.FastHold))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// Evidence is lost, latches with it: say so, and begin anew rather
		// than not at all.
		a.events.Add(Entry{Kind: "health", Warn: true, Text: "the remembered health state cannot be read, it begins anew", Reason: err.Error()})
	}
	return m
}

func healthPolicy(h config.Health) hwhealth.Policy {
	p := hwhealth.DefaultPolicy()
	p.Slow = hwhealth.Thresholds{Watch: h.Watch.Month, Degraded: h.Degraded.Month, Draining: h.Draining.Month, Withdraw: h.Withdraw.Month}
	p.Fast = hwhealth.Thresholds{Watch: h.Watch.Hour, Degraded: h.Degraded.Hour, Draining: h.Draining.Hour, Withdraw: h.Withdraw.Hour}
	p.SlowHold, p.FastHold = h.Hold.Month, h.Hold.Hour
	// A hold that is shorter than the dampening's own half-life would be
	// overruled by it: they go together.
	p.FastHalfLife = min(p.FastHalfLife, p.FastHold)
	p.SlowHalfLife = min(p.SlowHalfLife, p.SlowHold)
	p.Dwell = min(p.Dwell, p.FastHold)
	return p
}

// bootID names this life of the machine.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// run collects and assesses until ctx ends.
func (m *monitor) run(ctx context.Context) error {
	h := m.a.cfg.Health
	sources, streams := collect.Machine(collect.Config{Roots: collect.Roots{Sys: h.Sys, Proc: h.Proc, Dev: h.Dev}, Uplinks: m.a.cfg.Uplinks,
		StateDir: m.a.cfg.StateDir, RunDir: m.a.cfg.RunDir, Smartctl: h.Smartctl, SmartDir: h.SmartDir, Ipmitool: h.Ipmitool, Speed: h.Speed, Paths: m.paths})
	r := &collect.Runner{Sources: sources, Streams: streams, Observe: m.observe, Log: m.a.log}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.Run(ctx) })
	g.Go(func() error {
		t := time.NewTicker(assessEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				m.mu.Lock()
				defer m.mu.Unlock()
				m.keep(time.Now())
				m.trace.close()
				return nil
			case <-t.C:
			}
			v, err := m.a.view(ctx)
			if err != nil {
				continue // the daemon ends
			}
			m.a.post(m.assess(v, time.Now()))
		}
	})
	return g.Wait()
}

func (m *monitor) observe(samples []hwhealth.Sample) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for _, s := range samples {
		m.predictor.Observe(s, now)
	}
	m.trace.write(samples, now)
}

// assess makes the standing of this moment.
func (m *monitor) assess(v ssm.View, now time.Time) ssm.EvStanding {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.predictor.Assess(now)
	wish := hwhealth.Wish{State: m.ladder.Wants()}
	if len(a.Causes) > 0 {
		wish.Cause = a.Causes[0].Signal
	}
	if wish.State < hwhealth.Degraded {
		m.since = time.Time{}
	} else if m.since.IsZero() {
		m.since = now
	}
	if !m.since.IsZero() {
		wish.For = max(0, now.Sub(m.since))
	}
	m.verdict = m.guard.Decide(m.a.cfg.Node, m.ladder.State, wish, guardPeers(v), guardPatient*m.a.cfg.Fleet.Probe.Detection(), now)
	changed := m.ladder.Step(&a, m.policy, m.verdict.Limit, now)
	m.tell(&a, changed)
	m.last = a
	if n := len(m.trend); n == 0 || now.Sub(m.trend[n-1].At) >= trendEvery {
		m.trend = append(m.trend, hwhealth.Assessment{At: now, R30: a.R30, R1h: a.R1h, State: a.State})
		m.trend = m.trend[max(0, len(m.trend)-trendPoints):]
	}
	if changed || now.Sub(m.kept) >= keepEvery {
		m.keep(now)
	}
	ev := ssm.EvStanding{Source: ssm.SourceHealth, Standing: ssm.Standing(a.State), Reason: a.Why, Causes: causeTexts(&a), Risk: a.R1h}
	for _, l := range a.Limits {
		ev.Hard = ev.Hard || !l.Redundant
	}
	if a.State >= hwhealth.Draining {
		ev.Deadline = a.TimeToFailure
	}
	if wish.State >= hwhealth.Degraded {
		ev.Wish = &ssm.Wish{Standing: ssm.Standing(wish.State), Cause: string(wish.Cause), For: wish.For.Truncate(time.Second), Asks: m.verdict.Asks, Holds: m.verdict.Holds}
	}
	return ev
}

func guardPeers(v ssm.View) []hwhealth.Peer {
	var out []hwhealth.Peer
	for _, p := range v.Peers {
		x := hwhealth.Peer{Name: string(p.Node), Alive: !p.Heard.IsZero() && !p.Suspect}
		if w := p.Wish; w != nil {
			x.Wish = hwhealth.Wish{State: hwhealth.State(w.Standing), Cause: hwhealth.Signal(w.Cause), For: w.For, Asks: w.Asks, Holds: w.Holds}
		}
		out = append(out, x)
	}
	return out
}

// causeTexts are the first causes in words, with their shares.
func causeTexts(a *hwhealth.Assessment) []string {
	out := a.Texts()
	if n := len(out); n > causesTold {
		out = append(out[:causesTold], fmt.Sprintf("and %d more", n-causesTold))
	}
	return out
}

// tell writes an event for every change of state, with its causes, for every
// limit that latches, and for what the guard forbids.
func (m *monitor) tell(a *hwhealth.Assessment, changed bool) {
	for _, l := range a.Limits {
		if k := l.Device.Key() + l.Limit; !m.limits[k] {
			m.limits[k] = true
			m.a.events.Add(Entry{Kind: "health", Warn: true, Text: fmt.Sprintf("hard limit %s passed by %s", l.Limit, l.Device), Reason: l.Detail})
		}
	}
	if len(a.Limits) == 0 {
		clear(m.limits)
	}
	if changed {
		reason := a.Why
		if c := causeTexts(a); len(c) > 0 {
			reason += " (" + strings.Join(c, "; ") + ")"
		}
		m.a.events.Add(Entry{Kind: "health", Warn: a.State > m.last.State && a.State > hwhealth.Watch,
			Text: fmt.Sprintf("hardware health is %s, was %s", a.State, m.last.State), Reason: reason})
	}
	if m.verdict.Alarm != m.told {
		if m.told = m.verdict.Alarm; m.told != "" {
			m.a.events.Add(Entry{Kind: "health", Warn: true, Text: "the fleet guard holds a predicted drain back", Reason: m.told})
		}
	}
}

// keep writes the state file. A failure is told once.
func (m *monitor) keep(now time.Time) {
	m.kept = now
	b, err := hwhealth.Encode(m.predictor, m.ladder, m.boot)
	if err == nil {
		err = writeFile(m.path, b, false)
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != m.keepErr {
		m.a.problem(0, "keep the health state", err)
	}
	m.keepErr = text
}

// paths tells the collector what is known of the ways to peers and routers.
func (m *monitor) paths() []collect.Path {
	var out []collect.Path
	for _, p := range m.a.cfg.Others() {
		x := collect.Path{Name: p.Name}
		if st, ok := m.a.peers.Stats(p.Name); ok && st.RTT > 0 {
			x.Measured, x.Loss, x.RTT, x.Jitter = true, min(1, max(st.LossIn, st.LossOut)), st.RTT, st.Jitter
			x.Complains = st.LossOut > .1
		}
		out = append(out, x)
	}
	if s := m.a.routes.speaker; s != nil {
		for _, p := range s.Peers() {
			out = append(out, collect.Path{Name: p.Name, Router: true, BGPFlaps: p.Flaps})
		}
	}
	return out
}
