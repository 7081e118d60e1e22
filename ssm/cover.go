package ssm

import (
	"fmt"
	"slices"
	"time"
)

// Where sessions have tiers, some shadows hold but a part of them. The shell decides who
// holds what (EvCover); the owner tells the order with its probes, so that of several
// shadows the one that holds the most claims first, and a planned move waits until its
// target holds all.

// coverPatience is how long a move waits, beyond the patience of its phase, until its
// target holds every session.
const coverPatience = 20 * time.Second

// rankOf is how many shadows of s hold more of its sessions than n, as far as is known.
func (s *slot) rankOf(n Node) int {
	if i := slices.Index(s.cover, n); i >= 0 {
		return i
	}
	return len(s.cover) // not told of yet
}

func (c *Core) onCover(s *slot, order []Node) {
	if !c.holds(s) || slices.Equal(order, s.cover) {
		return
	}
	s.cover = slices.Clone(order)
	c.probeAt = c.now
}

// toldCover takes the order that the owner of s tells.
func (c *Core) toldCover(s *slot, from Node, order []Node) bool {
	for _, n := range order {
		if n != c.cfg.Self && c.peers[n] == nil || n == from {
			c.refuse(from, s.cfg.Slot, RefuseSet, fmt.Sprintf("slot %d: %s says that %s holds its sessions", s.cfg.Slot, from, n))
			return false
		}
	}
	if !slices.Equal(order, s.cover) {
		s.cover = slices.Clone(order)
	}
	return true
}

// whole reports whether n holds every session of s.
func (s *slot) whole(n Node) bool { return s.rankOf(n) == 0 }

// coverMove has the target of the move of s, if there is one, hold every session.
func (c *Core) coverMove(s *slot) {
	a := ActCover{Slot: s.cfg.Slot}
	if s.move != nil {
		a.First = s.move.to
	}
	c.emit(a)
}

// coverRoom is what the order of s takes in a report, in octets of JSON.
func (c *Core) coverRoom(s *slot) (room int) {
	if len(s.cover) == 0 || !c.holds(s) {
		return 0
	}
	room = reportVersion
	for _, n := range s.cover {
		room += len(n) + reportName
	}
	return room
}

// knowMore lists the living shadows of s, which is about to be claimed here, that may
// hold sessions which are missing here: by the owner's order, by how much of its changes
// they have, or because the twin here is not complete.
func (c *Core) knowMore(s *slot) []Node {
	return slices.DeleteFunc(c.living(c.seen(s)), func(n Node) bool {
		t := c.peers[n].slots[s.cfg.Slot]
		if n == s.owner || t.OwnerTicket != s.ticket {
			return true // what it holds is not what this owner told
		}
		return s.ready && s.rankOf(n) >= s.rankOf(c.cfg.Self) && t.Seen <= s.seen
	})
}

// living returns those of ns that are heard.
func (c *Core) living(ns []Node) (out []Node) {
	for _, n := range ns {
		if c.alive(n) {
			out = append(out, n)
		}
	}
	return out
}
