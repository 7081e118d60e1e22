package fabric

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa/charon"
)

// Times of the table.
const (
	// yield is how long the higher address of a pair leaves the first try to the
	// lower one.
	yield = 300 * time.Millisecond
	// firstRetry doubles with every try, up to maxRetry.
	firstRetry = 250 * time.Millisecond
	maxRetry   = 2 * time.Second
	// doubled is how long a pair may have two tunnels: the peer may be using
	// either, and what is in flight shall arrive.
	doubled = 10 * time.Second
	// patience is how long a tunnel may lack an SA at the start without a warning.
	patience = 10 * time.Second
	// idle is how often charon is asked when nothing happens.
	idle = 5 * time.Second
)

// table knows the state of each peer and decides what to do about it. It is pure:
// the time and what charon lists come in, actions and notices go out.
type table struct {
	local   netip.Addr
	peers   []*peer
	whole   bool // all tunnels are up
	notices []Notice
}

type peer struct {
	Peer
	status   PeerStatus
	known    bool // status is of this life of charon
	warned   bool // about the lack of an SA
	tries    int  // since it was up
	nextTry  time.Time
	twoSince time.Time // of two tunnels; zero for one
}

// act is what Run shall ask of charon; one field is set.
type act struct {
	initiate string // connection
	endIKE   uint32
	endChild uint32
}

func newTable(c *Config) *table {
	t := &table{local: c.Local}
	for _, p := range c.Peers {
		t.peers = append(t.peers, &peer{Peer: p, status: PeerStatus{Peer: p.Name, Addr: p.Addr}})
	}
	return t
}

// begin starts a life of charon: every peer may be tried.
func (t *table) begin(now time.Time) {
	for _, p := range t.peers {
		p.tries, p.nextTry, p.twoSince, p.known = 0, now, time.Time{}, false
		if t.local.Compare(p.Addr) > 0 {
			p.nextTry = now.Add(yield)
		}
	}
}

// look takes in what charon lists.
func (t *table) look(now time.Time, sas []charon.IKESA) []act {
	var acts []act
	whole := true
	for _, p := range t.peers {
		acts = append(acts, p.look(t, now, slices.DeleteFunc(slices.Clone(sas), func(s charon.IKESA) bool { return s.Name != p.Name }))...)
		whole = whole && p.status.Up
	}
	if whole && !t.whole {
		t.notices = append(t.notices, Notice{Text: "all peer tunnels are protected"})
	}
	t.whole = whole
	return acts
}

// installed is a CHILD_SA that carries packets.
type installed struct {
	charon.ChildSA
	ike uint32
}

func (p *peer) look(t *table, now time.Time, sas []charon.IKESA) []act {
	var kids []installed
	var ikes []uint32
	trying := false
	for _, s := range sas {
		trying = trying || s.State == "CONNECTING" && s.Initiator
		if s.State != "ESTABLISHED" && s.State != "REKEYING" {
			continue
		}
		ikes = append(ikes, s.UniqueID)
		for _, c := range s.Children {
			if c.State == "INSTALLED" || c.State == "REKEYING" {
				kids = append(kids, installed{c, s.UniqueID})
			}
		}
	}
	// Newest first, as the kernel prefers them.
	slices.SortFunc(kids, func(a, b installed) int {
		return cmp.Or(cmp.Compare(a.Installed, b.Installed), cmp.Compare(b.UniqueID, a.UniqueID))
	})
	p.turn(t, now, kids)
	if len(kids) == 0 {
		return p.try(now, trying)
	}
	p.tries, p.nextTry = 0, now
	return p.single(t, now, kids, ikes)
}

// turn updates the status and notices changes. A new life of charon begins without
// SAs and without a word: those of the last life still carry packets.
func (p *peer) turn(t *table, now time.Time, kids []installed) {
	s := &p.status
	up := len(kids) > 0
	s.In, s.Out = 0, 0
	if up {
		s.In, s.Out = kids[0].In, kids[0].Out
	}
	was, known := s.Up, p.known
	p.known, s.Up = true, up
	if !known || was != up {
		s.Since, p.warned = now, false
	}
	switch {
	case up && (!known || !was):
		s.Since = now.Add(-kids[len(kids)-1].Installed)
		t.notices = append(t.notices, Notice{Peer: p.Name, Text: fmt.Sprintf("the tunnel to %s is protected", p.Name)})
	case !up && !p.warned && (known && was || now.Sub(s.Since) >= patience):
		p.warned = true
		t.notices = append(t.notices, Notice{Peer: p.Name, Warn: true, Text: fmt.Sprintf("the tunnel to %s drops everything", p.Name), Reason: "it has no SA; charon.log of the fabric says why"})
	}
}

func (p *peer) try(now time.Time, trying bool) []act {
	if trying || now.Before(p.nextTry) {
		return nil
	}
	p.nextTry = now.Add(min(firstRetry<<min(p.tries, 10), maxRetry))
	p.tries++
	return []act{{initiate: p.Name}}
}

// single ends what a pair has twice, at the lower address only: both would end what
// the other one keeps. The newest child stays, and so does its IKE_SA.
func (p *peer) single(t *table, now time.Time, kids []installed, ikes []uint32) []act {
	if len(kids) == 1 && len(ikes) == 1 || t.local.Compare(p.Addr) > 0 {
		p.twoSince = time.Time{}
		return nil
	}
	if p.twoSince.IsZero() {
		p.twoSince = now
	}
	// A rekeying one is two for a moment, and has no business being ended.
	if now.Sub(p.twoSince) < doubled || slices.ContainsFunc(kids, func(c installed) bool { return c.State == "REKEYING" }) {
		return nil
	}
	p.twoSince = time.Time{}
	var acts []act
	for _, id := range ikes {
		if id != kids[0].ike {
			acts = append(acts, act{endIKE: id})
		}
	}
	for _, c := range kids[1:] {
		if c.ike == kids[0].ike {
			acts = append(acts, act{endChild: c.UniqueID})
		}
	}
	return acts
}

// wait is how long nothing needs to be done, unless charon says otherwise.
func (t *table) wait(now time.Time) time.Duration {
	d := idle
	for _, p := range t.peers {
		if !p.status.Up {
			d = min(d, max(p.nextTry.Sub(now), firstRetry/4))
		}
	}
	return d
}

func (t *table) status() []PeerStatus {
	out := make([]PeerStatus, len(t.peers))
	for i, p := range t.peers {
		out[i] = p.status
	}
	return out
}

// take returns the notices since the last call.
func (t *table) take() []Notice {
	n := t.notices
	t.notices = nil
	return n
}
