package ssm

import (
	"fmt"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// DrainPhase is a step of giving away everything an appliance owns.
type DrainPhase string

// The phases. A drain lasts as long as the appliance's standing asks for it;
// until DrainWithdraw a better standing ends it and nothing has happened but
// moves of slots, which return by themselves.
const (
	DrainPrepare  DrainPhase = "prepare"  // a successor for every slot
	DrainSessions DrainPhase = "sessions" // new clients go elsewhere, existing sessions may finish
	DrainMove     DrainPhase = "move"     // slot by slot
	DrainVerify   DrainPhase = "verify"   // until no packet enters here any more
	DrainWithdraw DrainPhase = "withdraw" // the VIP goes, nothing must enter
	DrainDone     DrainPhase = "done"
)

const (
	// preparePatience bounds the wait for successors of all slots; those that
	// have none then keep their owner until they have one.
	preparePatience = 5 * time.Second
	// moveEstimate is the time one slot's move takes, for what must be over
	// before a deadline.
	moveEstimate = 3 * time.Second
	// entryQuiet is how long no packet may have entered before the appliance
	// counts as left.
	entryQuiet = time.Second
	// verifyPatience bounds the wait for that: routers may ignore the MED.
	verifyPatience = 10 * time.Second
	// avoidFor is how long a target that failed is not tried again.
	avoidFor = 10 * time.Second
	// retryMove paces moves after one that failed.
	retryMove = time.Second
)

// drain is a soft handover of the whole appliance.
type drain struct {
	id       uint64
	phase    DrainPhase
	began    time.Time
	since    time.Time // of phase
	reason   string
	account  DrainAccount
	nextMove time.Time
	avoid    map[Node]time.Time
	stuck    map[sa.Slot]string // slots without a successor, and why
	told     map[sa.Slot]bool   // slots whose clients were told to go to another gateway
	entered  uint64             // packets that entered at the uplink, as last told
	entryAt  time.Time          // when that last changed
	known    bool               // an EvEntry has come since the phase began
}

// DrainAccount is what a drain did.
type DrainAccount struct {
	Slots      []sa.Slot // moved away
	To         []Node    // to whom, in the order of Slots
	Sessions   int       // moved
	Late       uint64    // packets delivered here after the flips
	Redirected int       // clients that went to another gateway
	Entered    bool      // packets went on entering until patience ended
	Phases     []DrainTime
	Total      time.Duration
}

// DrainTime is the length of one phase.
type DrainTime struct {
	Phase DrainPhase
	Took  time.Duration
}

func (c *Core) drainReport(text, reason string, warn bool) {
	d := c.drain
	c.report(ActReport{Kind: "drain", Drain: d.id, Phase: string(d.phase), Warn: warn, Text: text, Reason: reason})
}

func (c *Core) enterDrain(p DrainPhase, reason string) {
	d := c.drain
	if d.phase != "" {
		d.account.Phases = append(d.account.Phases, DrainTime{d.phase, c.now.Sub(d.since)})
	}
	d.phase, d.since, d.known = p, c.now, false
	if p == DrainDone {
		d.account.Total = c.now.Sub(d.began)
		acc := d.account
		c.report(ActReport{Kind: "drain", Drain: d.id, Phase: string(p), Text: "this appliance is drained: it may stop", Reason: reason, Account: &acc})
		return
	}
	c.drainReport("drain: "+string(p), reason, false)
}

// tickDrain follows the standing: it begins, advances and ends the drain.
func (c *Core) tickDrain() {
	d, w := c.drain, c.fit.worst
	leaving := w.Standing >= StandingDraining
	switch {
	case d == nil && !leaving:
		return
	case d == nil:
		id := w.Drain
		if id == 0 {
			id = uint64(c.now.UnixNano())
		}
		d = &drain{id: id, began: c.now, reason: w.Source + ": " + w.Reason, avoid: map[Node]time.Time{}, stuck: map[sa.Slot]string{}, told: map[sa.Slot]bool{}}
		c.drain = d
		c.enterDrain(DrainPrepare, d.reason)
	case !leaving:
		c.undrain()
		return
	}
	left := c.notLeft()
	switch d.phase {
	case DrainPrepare:
		c.tickPrepare(left)
	case DrainSessions:
		c.tickRedirect(left)
		if why := c.lingered(left); why != "" {
			c.enterDrain(DrainMove, why)
			c.tickMoves(left)
		}
	case DrainMove:
		c.tickRedirect(left)
		c.tickMoves(left)
	case DrainVerify, DrainWithdraw, DrainDone:
		if len(left) > 0 {
			// Somebody else died and a slot came back to us.
			c.enterDrain(DrainMove, "owns slots again: "+slotList(left))
			return
		}
		c.tickLeave()
	}
}

// notLeft returns the slots that still need this appliance.
func (c *Core) notLeft() []sa.Slot {
	var out []sa.Slot
	for _, s := range c.list {
		n := s.cfg.Slot
		switch s.role {
		case RoleOwner, RoleResuming, RoleDraining, RoleTaking:
			out = append(out, n)
		default:
			if c.now.Before(s.poolUntil) {
				out = append(out, n)
			}
		}
	}
	return out
}

func (c *Core) tickPrepare(left []sa.Slot) {
	missing := ""
	for _, n := range left {
		s := c.slots[n]
		cs := c.candidates(s, nil)
		if len(cs) == 0 || cs[0].Problem != "" {
			missing = fmt.Sprintf("no successor for slot %d: %s", n, problems(cs))
			break
		}
	}
	switch {
	case missing == "":
		c.enterDrain(DrainSessions, fmt.Sprintf("every slot has a successor; existing sessions may finish for %s", c.linger(left).Round(time.Second)))
	case c.now.Sub(c.drain.since) > preparePatience:
		c.enterDrain(DrainSessions, missing)
	}
}

// linger is how long existing sessions may stay: drain_time, but everything
// must have moved before the deadline. A hard limit leaves no time.
func (c *Core) linger(left []sa.Slot) time.Duration {
	d := c.cfg.DrainTime
	if c.fit.worst.Hard {
		return 0
	}
	if !c.fit.deadline.IsZero() {
		need := time.Duration(len(left)) * max(moveEstimate, c.moveEvery())
		d = min(d, max(0, c.fit.deadline.Sub(c.now)-need))
	}
	return d
}

// lingered returns why the slots must move now, "" while sessions may stay.
func (c *Core) lingered(left []sa.Slot) string {
	since := c.now.Sub(c.drain.since)
	switch {
	case len(left) == 0:
		return "there is nothing to move"
	case c.fit.counted && c.fit.sessions == 0:
		return "no session is left"
	case since >= c.cfg.DrainTime:
		return fmt.Sprintf("existing sessions had %s", since.Round(100*time.Millisecond))
	case c.linger(left) <= 0 && c.fit.worst.Hard:
		return "the limit is hard: " + c.fit.worst.Reason
	case c.linger(left) <= 0:
		return "the predicted failure leaves no more time"
	}
	return ""
}

// moveEvery is the least time between the beginnings of two moves.
func (c *Core) moveEvery() time.Duration {
	return time.Duration(float64(time.Minute) / c.cfg.DrainRate)
}

// tickMoves moves the next slot, one at a time, to its best successor.
func (c *Core) tickMoves(left []sa.Slot) {
	d := c.drain
	if len(left) == 0 {
		c.enterDrain(DrainVerify, fmt.Sprintf("%d slots moved; waiting until no packet enters here", len(d.account.Slots)))
		return
	}
	for _, n := range left {
		if s := c.slots[n]; s.move != nil || s.role == RoleResuming || s.role == RoleDraining || s.role == RoleTaking {
			return // one is under way
		}
	}
	if c.now.Before(d.nextMove) {
		return
	}
	for _, n := range left {
		s := c.slots[n]
		if s.role != RoleOwner || s.refeeding || s.yieldTo != "" || !s.up {
			continue // moved already, or soon to be decided
		}
		cs := c.candidates(s, nil)
		for _, x := range cs {
			if x.Problem != "" {
				break
			}
			if c.now.Before(d.avoid[x.Node]) {
				continue
			}
			delete(d.stuck, n)
			d.nextMove = c.now.Add(c.moveEvery())
			c.moveAsked(s, EvMove{Slot: n, To: x.Node, Drain: d.id, Reason: "drain of " + string(c.cfg.Self) + " (" + d.reason + "): the best successor is " + x.String()})
			return
		}
		why := problems(cs)
		if len(cs) > 0 && cs[0].Problem == "" {
			why = "every successor failed a move just now"
		}
		if d.stuck[n] != why {
			d.stuck[n] = why
			c.report(ActReport{Kind: "drain", Slot: n, Drain: d.id, Phase: string(d.phase), Warn: true, Text: fmt.Sprintf("slot %d stays here for now", n), Reason: why})
		}
	}
}

// drainMoved notes a slot that has gone; drainFailed a target that failed.
func (c *Core) drainMoved(s *slot, m *move, late uint64) {
	if d := c.drain; d != nil && m.drain == d.id {
		d.account.Slots, d.account.To = append(d.account.Slots, s.cfg.Slot), append(d.account.To, m.to)
		d.account.Sessions += m.sessions
		d.account.Late += late
	}
}

func (c *Core) drainFailed(m *move) {
	if d := c.drain; d != nil && m.drain == d.id {
		d.avoid[m.to] = c.now.Add(avoidFor)
		d.nextMove = c.now.Add(retryMove)
	}
}

// tickLeave waits until nothing enters here, withdraws, and waits again.
func (c *Core) tickLeave() {
	d := c.drain
	if d.phase == DrainDone {
		return
	}
	quiet := d.known && c.now.Sub(d.entryAt) >= entryQuiet && c.now.Sub(d.since) >= entryQuiet
	late := c.now.Sub(d.since) > verifyPatience
	switch {
	case !quiet && !late:
		return
	case !quiet && d.known:
		d.account.Entered = true
		c.drainReport("packets still enter here", "the routers do not follow our preference; what enters is forwarded", true)
	case !quiet:
		c.drainReport("whether packets enter here is unknown", "the steering counters could not be read", true)
	}
	switch {
	case d.phase == DrainWithdraw:
		c.enterDrain(DrainDone, "the VIP is withdrawn")
	case predicted(c.fit.worst):
		c.enterDrain(DrainDone, "the VIP stays as a last resort: a prediction does not withdraw it")
	case c.announcer() == "":
		c.drainReport("the VIP stays announced", "no other appliance that is well announces it", true)
		c.enterDrain(DrainDone, "nobody else announces the VIP")
	default:
		c.enterDrain(DrainWithdraw, "no packet entered for "+entryQuiet.String())
	}
}

// onEntry takes the number of packets that entered at the uplink so far.
func (c *Core) onEntry(e EvEntry) {
	d := c.drain
	if d == nil {
		return
	}
	if !d.known || e.Packets != d.entered {
		d.entryAt = c.now
	}
	d.known, d.entered = true, e.Packets
}

// undrain ends the drain: a move before its flip is given up, slots that went
// return after the hold-down.
func (c *Core) undrain() {
	d := c.drain
	for _, s := range c.list {
		if s.role == RoleOwner && s.move != nil && s.move.drain == d.id && s.move.phase != phaseFlip {
			c.abort(s, "the drain was ended")
		}
	}
	c.stayAll()
	d.account.Phases = append(d.account.Phases, DrainTime{d.phase, c.now.Sub(d.since)})
	d.account.Total = c.now.Sub(d.began)
	acc := d.account
	was := d.phase
	c.drain = nil
	c.report(ActReport{Kind: "drain", Drain: d.id, Phase: "ended", Text: "the drain is over: this appliance serves again", Account: &acc,
		Reason: fmt.Sprintf("its standing is %s again; the drain was in phase %s", c.fit.worst.Standing, was)})
}

// gone reports whether the drain has come so far that the VIP may go.
func (c *Core) gone() bool {
	return c.drain != nil && (c.drain.phase == DrainWithdraw || c.drain.phase == DrainDone) && !predicted(c.fit.worst) && len(c.notLeft()) == 0
}

// WatchesEntry reports whether the shell shall tell by EvEntry, with every
// tick, how many packets enter here.
func (c *Core) WatchesEntry() bool {
	return c.drain != nil && (c.drain.phase == DrainVerify || c.drain.phase == DrainWithdraw)
}

// DrainPlan is what a drain of this appliance would do now.
type DrainPlan struct {
	Slots  []PlannedMove
	Linger time.Duration // at most, while existing sessions may finish
	Took   time.Duration // an estimate for all phases without Linger
	Last   bool          // no other appliance that is well announces the VIP
}

// PlannedMove is one slot of a DrainPlan.
type PlannedMove struct {
	Slot       sa.Slot
	Sessions   int
	To         Node // "" if nobody can take it
	Problem    string
	Candidates []Candidate
}

// Plan returns what a drain would do if nothing changed.
func (c *Core) Plan() DrainPlan {
	p := DrainPlan{Last: c.announcer() == ""}
	extra := map[Node]int{}
	left := c.notLeft()
	for _, n := range left {
		s := c.slots[n]
		if s.role != RoleOwner {
			continue
		}
		m := PlannedMove{Slot: n, Sessions: c.fit.bySlot[n], Candidates: c.candidates(s, extra)}
		if len(m.Candidates) > 0 && m.Candidates[0].Problem == "" {
			m.To = m.Candidates[0].Node
			extra[m.To]++
		} else {
			m.Problem = problems(m.Candidates)
		}
		p.Slots = append(p.Slots, m)
	}
	p.Linger = c.linger(left)
	if k := len(p.Slots); k > 0 {
		p.Took = moveEstimate + time.Duration(k-1)*max(moveEstimate, c.moveEvery())
	}
	p.Took += 2 * entryQuiet
	return p
}

func slotList(ns []sa.Slot) string {
	var b strings.Builder
	for i, n := range ns {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprint(&b, n)
	}
	return b.String()
}
