package ssm

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// Standing says how fit an appliance is to serve; a higher value is worse.
type Standing uint8

// The standings. What each asks of the fleet is reversible.
const (
	// StandingNormal: serves.
	StandingNormal Standing = iota
	// StandingWatch: serves as before; somebody should look.
	StandingWatch
	// StandingDegraded: serves, others are preferred by the routers.
	StandingDegraded
	// StandingDraining: new clients go elsewhere and its slots move away; it is
	// the routers' last resort.
	StandingDraining
	// StandingWithdrawn: as draining, and the VIP is not announced.
	StandingWithdrawn
)

var standingNames = [...]string{"normal", "watch", "degraded", "draining", "withdrawn"}

func (s Standing) String() string {
	if int(s) >= len(standingNames) {
		return fmt.Sprintf("standing %d", int(s))
	}
	return standingNames[s]
}

// MarshalText renders the name.
func (s Standing) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a name.
func (s *Standing) UnmarshalText(b []byte) error {
	i := slices.Index(standingNames[:], string(b))
	if i < 0 {
		return fmt.Errorf("parse standing %.32q: want one of %s", b, strings.Join(standingNames[:], ", "))
	}
	*s = Standing(i)
	return nil
}

// The sources of a standing. Others may exist; only these have a meaning here.
const (
	SourceOperator    = "operator"    // asked for by hand
	SourceMaintenance = "maintenance" // asked for by hand, survives a reboot
	SourceStop        = "stop"        // the daemon was told to end
	SourceHealth      = "health"      // predicted, or a hard limit
	SourceLoad        = "load"        // too much to do
)

// predicted reports whether a standing of this source is an estimate: such
// ones keep to the change budget of BGP and never end the service.
func predicted(e EvStanding) bool {
	switch e.Source {
	case SourceOperator, SourceMaintenance, SourceStop:
		return false
	}
	return !e.Hard
}

// Level is the rung of the preference ladder at which the VIP is announced.
type Level string

// The levels, best first. The empty one means: not announced, because packets
// that enter would have nowhere to go.
const (
	LevelNone      Level = ""
	LevelNormal    Level = "normal"    // MED base
	LevelDegraded  Level = "degraded"  // MED base + 50
	LevelDraining  Level = "draining"  // MED maximum, GRACEFUL_SHUTDOWN (RFC 8326)
	LevelWithdrawn Level = "withdrawn" // not announced
)

// Announced reports whether routers learn the VIP.
func (l Level) Announced() bool { return l != LevelNone && l != LevelWithdrawn }

// fitness is how fit this appliance is.
type fitness struct {
	by       map[string]EvStanding
	worst    EvStanding // of all sources; the zero value is normal
	since    time.Time  // of worst.Standing
	deadline time.Time  // the earliest of those as bad as worst; zero: none
	risk     float64    // as told by SourceHealth
	wish     *Wish      // the same
	load     float64    // share of the capacity in use, 1 is full
	sessions int
	bySlot   map[sa.Slot]int
	counted  bool // sessions were told
	paced    bool // the last change was an estimate
	kept     bool // told that the VIP stays though a prediction wants it gone
}

// onStanding takes what one source says. The worst of all sources counts.
func (c *Core) onStanding(e EvStanding) {
	f := &c.fit
	if e.Standing > StandingWithdrawn {
		c.report(ActReport{Kind: "refused", Warn: true, Text: fmt.Sprintf("%s tells the unknown %s", e.Source, e.Standing)})
		return
	}
	if f.by == nil {
		f.by = map[string]EvStanding{}
	}
	was := f.worst
	if e.Source == SourceHealth {
		f.risk, f.wish = e.Risk, e.Wish
	}
	if e.Standing == StandingNormal {
		delete(f.by, e.Source)
	} else {
		f.by[e.Source] = e
	}
	f.worst, f.deadline = EvStanding{}, time.Time{}
	for _, k := range slices.Sorted(maps.Keys(f.by)) {
		x := f.by[k]
		// Among equals one that is certain decides: it may withdraw.
		if x.Standing > f.worst.Standing || x.Standing == f.worst.Standing && predicted(f.worst) && !predicted(x) {
			f.worst = x
		}
	}
	if e.Deadline > 0 && e.Standing == f.worst.Standing {
		f.deadline = c.now.Add(e.Deadline)
	}
	if f.worst.Standing == was.Standing && f.worst.Source == was.Source {
		return
	}
	if f.worst.Standing != was.Standing {
		f.since, f.paced, f.kept = c.now, predicted(e), false
		c.probeAt = c.now // successors and new clients depend on it
	}
	reason := f.worst.Reason
	if reason == "" {
		reason = e.Source + " says " + e.Standing.String()
		if e.Reason != "" {
			reason += ": " + e.Reason
		}
	} else {
		reason = f.worst.Source + ": " + reason
	}
	if len(f.worst.Causes) > 0 {
		reason += " (" + strings.Join(f.worst.Causes, ", ") + ")"
	}
	c.report(ActReport{Kind: "standing", Warn: f.worst.Standing > max(was.Standing, StandingWatch), Reason: reason,
		Text: fmt.Sprintf("this appliance is %s, was %s", f.worst.Standing, was.Standing)})
}

func (c *Core) onLoad(e EvLoad) {
	f := &c.fit
	f.load, f.bySlot, f.sessions, f.counted = e.Load, e.Sessions, 0, true
	for _, n := range e.Sessions {
		f.sessions += n
	}
}

// standing returns how fit n is as far as this appliance knows; one that is not
// heard counts as withdrawn.
func (c *Core) standing(n Node) Standing {
	if n == c.cfg.Self {
		return c.fit.worst.Standing
	}
	if !c.alive(n) {
		return StandingWithdrawn
	}
	return c.peers[n].standing
}

// leaving reports whether n gives its slots and new clients away.
func (c *Core) leaving(n Node) bool { return c.standing(n) >= StandingDraining }

// announcer returns another appliance that is heard, is not leaving, and
// announces the VIP, "" if there is none.
func (c *Core) announcer() Node {
	for _, n := range c.cfg.Appliances {
		if n != c.cfg.Self && !c.leaving(n) && c.peers[n].level.Announced() {
			return n
		}
	}
	return ""
}

// level returns the rung of the VIP. It follows from the state alone, so that a
// withdrawal by prediction ends by itself when the other announcers go: the
// last one stays (I6).
func (c *Core) level(owns bool) Level {
	if !owns { // a relay only, once it knows the owners
		for _, s := range c.list {
			if c.via(s) == "" {
				return LevelNone
			}
		}
	}
	w := c.fit.worst
	switch {
	case w.Standing == StandingWithdrawn && predicted(w) && !c.mayLeave():
		return LevelDraining
	case w.Standing == StandingWithdrawn:
		return LevelWithdrawn
	case w.Standing == StandingDraining && c.gone() && c.announcer() != "":
		return LevelWithdrawn
	case w.Standing == StandingDraining:
		return LevelDraining
	case w.Standing == StandingDegraded || !owns:
		return LevelDegraded
	}
	return LevelNormal
}

// mayLeave reports whether the VIP may go on a prediction. Everybody must have
// had the time to hear that we are leaving and to say the same, else two could
// leave at once, each counting on the other.
func (c *Core) mayLeave() bool {
	if c.announced != nil && c.announced.Level == LevelWithdrawn {
		return c.announcer() != ""
	}
	return c.now.Sub(c.fit.since) > 2*c.bound() && c.announcer() != ""
}

// noteLast tells the operator when the last announcer stays or goes.
func (c *Core) noteLast(l Level) {
	if c.fit.worst.Standing != StandingWithdrawn || c.fit.kept || c.announcer() != "" {
		return
	}
	switch {
	case l == LevelWithdrawn:
		c.fit.kept = true
		c.report(ActReport{Kind: "standing", Warn: true, Text: "the VIP is withdrawn though no other appliance announces it", Reason: c.fit.worst.Source + ": " + c.fit.worst.Reason})
	case l == LevelDraining && c.now.Sub(c.fit.since) > 2*c.bound():
		c.fit.kept = true
		c.report(ActReport{Kind: "standing", Warn: true, Text: "the VIP stays announced", Reason: "no other appliance announces it, and a prediction never ends the service"})
	}
}
