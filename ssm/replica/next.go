package replica

import (
	"fmt"
	"time"

	peerv1 "github.com/shadowcast/shadowcast/api/peer/v1"
)

// translate makes the documents of m those of the stream's protocol version.
func (sh *shadow) translate(m *peerv1.ToShadow) error {
	if sh.version >= packedSince {
		return nil
	}
	for _, c := range m.GetChanges().GetChanges() {
		if c.Delete {
			continue
		}
		doc, err := sh.p.cfg.Legacy(c.Doc)
		if err != nil {
			return fmt.Errorf("translate session %s for protocol version %d: %w", c.Id, sh.version, err)
		}
		c.Doc = doc
	}
	return nil
}

// next decides what to send: a message, or nothing for at most wait.
func (sh *shadow) next(now time.Time) (m *peerv1.ToShadow, wait time.Duration, err error) {
	sh.p.mu.Lock()
	defer sh.p.mu.Unlock()
	if sh.removed {
		return nil, 0, errRemoved
	}
	if sh.ticket != sh.p.ticket {
		return nil, 0, errTicket
	}
	if !sh.configSent || sh.config != sh.p.config {
		sh.config, sh.configSent = sh.p.config, true
		return &peerv1.ToShadow{Kind: &peerv1.ToShadow_Config{Config: &peerv1.Config{Digest: sh.config}}}, 0, nil
	}
	switch sh.phase {
	case phaseList:
		sh.phase, sh.listed = phaseListing, map[string]Hash{}
		sh.digest, sh.asked, sh.queued = digestUnknown, false, false
		return &peerv1.ToShadow{Kind: &peerv1.ToShadow_InventoryRequest{InventoryRequest: &peerv1.InventoryRequest{}}}, 0, nil
	case phaseListing:
		return nil, time.Hour, nil
	case phaseStrays:
		return sh.nextStray(), 0, nil
	}
	m = sh.nextLive(now)
	if sh.asked {
		return m, time.Hour, nil // the answer wakes us
	}
	return m, max(time.Millisecond, sh.askedAt.Add(sh.p.cfg.DigestEvery).Sub(now)), nil
}

// nextStray begins a snapshot: first the boundary, then the deletions.
func (sh *shadow) nextStray() *peerv1.ToShadow {
	if !sh.begun {
		sh.begun = true
		return &peerv1.ToShadow{Kind: &peerv1.ToShadow_SnapshotBegin{SnapshotBegin: &peerv1.SnapshotBegin{Seq: sh.cursor.base}}}
	}
	sh.out.reset()
	for len(sh.strays) > 0 && !sh.out.full() {
		sh.out.remove(sh.strays[0], 0)
		sh.strays = sh.strays[1:]
	}
	if len(sh.strays) == 0 {
		sh.phase, sh.begun, sh.strays = phaseLive, false, nil
	}
	return sh.changes()
}

func (sh *shadow) changes() *peerv1.ToShadow {
	sh.bytes += uint64(sh.out.bytes)
	return &peerv1.ToShadow{Kind: &peerv1.ToShadow_Changes{Changes: &sh.out.msg}}
}

// nextLive returns the next changes, samples or question; nil for none.
func (sh *shadow) nextLive(now time.Time) *peerv1.ToShadow {
	s, c := sh.p.state, sh.cursor
	if sh.queued {
		sh.queued, sh.asked = false, true
		return &peerv1.ToShadow{Kind: &peerv1.ToShadow_DigestRequest{DigestRequest: &peerv1.DigestRequest{Number: sh.number}}}
	}
	if s.lost(c) {
		// Too many deletions while the shadow lagged: only comparing helps.
		sh.phase = phaseList
		sh.poke()
		return nil
	}
	if sh.replayTurn {
		sh.replayTurn = false
		if m := s.collectSamples(c, now); m != nil {
			return &peerv1.ToShadow{Kind: &peerv1.ToShadow_Replay{Replay: m}}
		}
	}
	sh.out.reset()
	s.collect(c, &sh.out)
	sh.replayTurn = true
	var m *peerv1.ToShadow
	switch {
	case sh.out.used > 0:
		m = sh.changes()
	case s.endSnapshot(c):
		m = &peerv1.ToShadow{Kind: &peerv1.ToShadow_SnapshotEnd{SnapshotEnd: &peerv1.SnapshotEnd{Seq: c.base}}}
	case !c.snapshot && c.sentSeq > c.ackedSeq && c.ackedSeq >= c.flightSeq:
		// Nothing of it was for this shadow, and nothing is under way.
		_ = s.ack(c, c.sentSeq, now) // sentSeq can be acknowledged
		sh.stir()
	}
	if s.caughtUp(c) && !sh.asked && (sh.digest == digestUnknown || now.Sub(sh.askedAt) >= sh.p.cfg.DigestEvery) {
		// What the shadow holds once it has applied everything sent so far.
		sh.number++
		sh.queued, sh.askedAt, sh.expect, sh.sessions = true, now, c.digest, c.sessions
	}
	if m == nil && (sh.queued || !s.caughtUp(c) || c.ssentSeq < s.sseq) {
		sh.poke()
	}
	return m
}
