package ssm

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// A probe is a datagram of at most 1,200 octets (peer.MaxPayload): the slots that
// find no room follow in the next probes.
const (
	maxReported = 8
	// In octets of JSON: what slots and names share, the fields of a probe without
	// either, one slot without its owner's name, and quotes and comma of a name.
	reportRoom, reportFixed, reportSlot, reportName = 1200, 220, 128, 3
	// A set without its names, and its version.
	reportVersion = 24
)

// peer is another appliance as this one hears it.
type peer struct {
	heard       time.Time // zero: never
	spoke       time.Time // of the last report; heard is moved forward by a thaw
	incarnation uint64
	suspect     bool
	routeLost   bool // its BGP liveness route was withdrawn
	hears       []Node
	deaf        time.Time // since when it says that it does not hear us; zero: it does
	deafTold    bool
	slots       map[sa.Slot]told
	back        time.Time // since when it is heard without a break
	standing    Standing
	wish        *Wish
	level       Level
	risk, load  float64
	sessions    int
	tunnelDown  bool // packets cannot be forwarded to it
	flaps       flaps
}

// told is what a peer said last of one slot.
type told struct {
	SlotReport
	at time.Time
}

func (c *Core) suspected(n Node) bool {
	p := c.peers[n]
	return p != nil && p.suspect
}

// alive reports whether n was heard within the suspicion bound.
func (c *Core) alive(n Node) bool {
	p := c.peers[n]
	return p != nil && !p.heard.IsZero() && !p.suspect
}

func (c *Core) bound() time.Duration {
	return c.cfg.ProbeInterval*time.Duration(c.cfg.ProbeLost) + c.cfg.ProbeInterval/2
}

// suspect updates who is silent; a change is told to everyone at once, because
// others wait for it before they claim.
func (c *Core) suspect() {
	for _, n := range c.cfg.Appliances {
		p := c.peers[n]
		c.tellDeaf(n)
		if p == nil || p.heard.IsZero() || p.suspect || c.now.Sub(p.heard) <= c.bound() {
			continue
		}
		p.suspect = true
		c.probeAt = c.now
		c.report(ActReport{Kind: "suspect", Warn: true, Text: "appliance " + string(n) + " is silent",
			Reason: "no probe for " + c.now.Sub(p.heard).Round(time.Millisecond).String()})
	}
}

func (c *Core) onLiveness(e EvLiveness) {
	p := c.peers[e.Node]
	if p == nil || p.routeLost == !e.Up {
		return
	}
	p.routeLost = !e.Up
	text := "liveness route of " + string(e.Node) + " is back"
	if !e.Up {
		text = "liveness route of " + string(e.Node) + " was withdrawn"
	}
	c.report(ActReport{Kind: "liveness", Warn: !e.Up, Text: text})
	for _, s := range c.list {
		c.tickSlot(s)
	}
}

func (c *Core) onReport(from Node, p *peer, r Report) {
	if r.Incarnation < p.incarnation {
		return // a late datagram of an earlier life
	}
	if r.Incarnation > p.incarnation {
		if p.incarnation != 0 {
			c.report(ActReport{Kind: "reboot", Warn: true, Text: "appliance " + string(from) + " lost its memory: its tickets are void"})
			c.noteFailure(from)
		}
		for _, s := range c.list {
			if slices.Contains(c.holders(s), from) {
				c.memberRebooted(s, from)
			}
		}
		p.incarnation = r.Incarnation
		clear(p.slots)
	}
	if p.suspect || p.heard.IsZero() {
		p.back = c.now
	}
	if p.suspect {
		c.report(ActReport{Kind: "heard", Text: "appliance " + string(from) + " is heard again"})
		c.probeAt = c.now
	}
	p.heard, p.spoke, p.suspect = c.now, c.now, false
	c.noteHears(p, r.Hears)
	p.standing, p.level, p.risk, p.load, p.sessions, p.wish = r.Standing, r.Level, r.Risk, r.Load, r.Sessions, r.Wish
	for _, sr := range r.Slots {
		s := c.slots[sr.Slot]
		if s == nil {
			continue
		}
		if sr.Armed != 0 && !c.arms(from, s, sr.Armed) {
			sr.Armed = 0
		}
		if sr.Owner != "" && !c.believes(from, s, sr.Owner, sr.OwnerTicket) {
			continue
		}
		p.slots[sr.Slot] = told{sr, c.now}
		life := sr.OwnerLife
		if sr.Owner == from {
			life = r.Incarnation
		}
		switch {
		case sr.Owner != "":
			c.onClaim(s, sr.Owner, sr.OwnerTicket, life)
		case sr.OwnerTicket > s.ticket: // an earlier life of from held it
			c.spent(s, sr.OwnerTicket)
		}
		if sr.Spent > s.ticket {
			c.spent(s, sr.Spent)
		}
		if sr.Armed != 0 {
			s.held[from] = heldTicket{r.Incarnation, sr.Armed}
		}
		if sr.Owner == from && s.owner == from && !c.toldCover(s, from, sr.Cover) {
			continue
		}
		c.noteOrphan(s, from, sr)
		c.onSet(s, from, sr)
	}
}

// noteOrphan records since when the owner of s says that it is not.
func (c *Core) noteOrphan(s *slot, from Node, sr SlotReport) {
	switch {
	case from != s.owner:
	case sr.Owner == from:
		s.orphan = time.Time{}
	case s.orphan.IsZero() && sr.OwnerTicket <= s.ticket:
		s.orphan = c.now
	}
}

// memberRebooted runs when the memory of n is gone, or n is heard for the first
// time: it may have claimed s, unheard, by any ticket that was issued before. Who
// owns s by a ticket that is not newer than that must rise above it, and so must a
// shadow whose turn comes.
func (c *Core) memberRebooted(s *slot, n Node) {
	s.outbid = max(s.outbid, s.ticket, s.armed, s.granted, s.held[n].ticket)
	delete(s.held, n)
	delete(s.replicas, n)
	delete(s.leaving, n)
}

// spent notes a claim by ticket t that nobody holds s by any more: what lies below
// it is behind numbers that clients may have seen.
func (c *Core) spent(s *slot, t sa.Ticket) {
	s.spent, s.outbid, s.floor = max(s.spent, t), max(s.outbid, t), max(s.floor, t)
	if s.granted <= t {
		s.granted = 0
	}
	if s.armed > t {
		return
	}
	s.armed = 0
	if s.role == RoleTaking {
		c.stopTaking(s, fmt.Sprintf("ticket %d was claimed by a life that has ended", t))
	}
}

// ended reports whether the life of n's memory that made a claim is over.
func (c *Core) ended(n Node, life uint64) bool {
	if n == c.cfg.Self {
		return life != c.cfg.Incarnation
	}
	p := c.peers[n]
	return p != nil && life != 0 && p.incarnation > life
}

// livesBelow returns the incarnations of the members of s, as far as they are
// known, if none has changed since the ticket of s was issued.
func (c *Core) livesBelow(s *slot) map[Node]uint64 {
	if s.outbid >= s.ticket {
		return nil
	}
	lives := map[Node]uint64{}
	for _, n := range c.holders(s) {
		if p := c.peers[n]; p != nil && p.incarnation != 0 {
			lives[n] = p.incarnation
		}
	}
	return lives
}

// everybodySpoke reports whether every appliance that is not suspected has sent
// a report since t, and at least one has.
func (c *Core) everybodySpoke(t time.Time) bool {
	n := 0
	for _, p := range c.peers {
		if p.suspect {
			continue
		}
		if !p.spoke.After(t) {
			return false
		}
		n++
	}
	return n > 0
}

// hearer returns an appliance other than the two that says it hears n.
func (c *Core) hearer(n Node) Node {
	for _, q := range c.cfg.Appliances {
		if q != c.cfg.Self && q != n && c.alive(q) && slices.Contains(c.peers[q].hears, n) {
			return q
		}
	}
	return ""
}

// probe sends a report to everyone.
func (c *Core) probe() {
	r := Report{Incarnation: c.cfg.Incarnation, Hears: []Node{}, Standing: c.fit.worst.Standing, Risk: round3(c.fit.risk), Load: round3(c.fit.load),
		Sessions: c.fit.sessions, Wish: c.fit.wish}
	if c.announced != nil {
		r.Level = c.announced.Level
	}
	room := reportRoom - reportFixed
	for _, n := range c.cfg.Appliances {
		if c.alive(n) {
			r.Hears = append(r.Hears, n)
			room -= len(n) + reportName
		}
	}
	r.Slots = make([]SlotReport, 0, min(maxReported, len(c.list)))
	for i, n := 0, len(c.list); i < n && len(r.Slots) < maxReported; i++ {
		s := c.list[(c.rotate+i)%n]
		if s.placed && !s.known {
			continue // denying now what is found a moment later would cost the slot
		}
		if room -= reportSlot + len(s.owner) + c.setRoom(s) + c.coverRoom(s); room < 0 && i > 0 {
			break
		}
		r.Slots = append(r.Slots, c.slotReport(s))
	}
	if n := len(c.list); n > len(r.Slots) {
		c.rotate = (c.rotate + len(r.Slots)) % n
	}
	c.broadcast(Message{Kind: KindProbe, Report: &r})
}

// round3 keeps a share short on the wire.
func round3(x float64) float64 { return math.Round(x*1000) / 1000 }

func (c *Core) slotReport(s *slot) SlotReport {
	r := SlotReport{Slot: s.cfg.Slot, Owner: s.owner, OwnerTicket: s.ticket, Armed: s.armed, Ready: s.ready && s.role == RoleShadow, Up: s.up, RTT: s.path.low()}
	if s.role == RoleShadow {
		r.Seen = s.seen
	}
	if s.spent > s.ticket {
		r.Spent = s.spent
	}
	if c.holds(s) {
		r.Cover = s.cover
	}
	if s.cfg.Dynamic {
		r.Version = c.heeds(s)
		if c.holds(s) {
			r.Set = s.set
		}
	}
	switch {
	case s.owner != c.cfg.Self:
		r.OwnerLife = s.life
	case !c.holds(s):
		r.Owner = "" // an earlier life held it
	}
	return r
}

// holds reports whether this appliance is the owner, not merely named so by a
// claim of an earlier life.
func (c *Core) holds(s *slot) bool {
	return s.role == RoleOwner || s.role == RoleResuming
}

// armedShadows returns the members that could take s over, lowest ticket first.
func (c *Core) armedShadows(s *slot) []Node {
	var out []Node
	for _, n := range c.holders(s) {
		if n == c.cfg.Self || !c.alive(n) {
			continue
		}
		if r := c.peers[n].slots[s.cfg.Slot]; r.Ready && r.Armed > s.ticket {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b Node) int {
		return int(c.peers[a].slots[s.cfg.Slot].Armed) - int(c.peers[b].slots[s.cfg.Slot].Armed)
	})
	return out
}

// readyShadows returns the armed shadows that have acknowledged everything, but for
// those that are about to go.
func (c *Core) readyShadows(s *slot) []Node {
	return slices.DeleteFunc(c.armedShadows(s), func(n Node) bool {
		_, out := s.leaving[n]
		return out || !s.replicas[n]
	})
}

// hasReadyShadow counts those that are about to go: they may still claim.
func (c *Core) hasReadyShadow(s *slot) bool {
	return slices.ContainsFunc(c.armedShadows(s), func(n Node) bool { return s.replicas[n] })
}
