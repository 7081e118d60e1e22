package replica

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// ShadowStatus is how far one shadow is.
type ShadowStatus struct {
	Name        string
	Connected   bool
	Syncing     bool          // a snapshot is under way or due
	Ready       bool          // could take the slot over
	Reason      string        // why not ready, empty where it is
	Lag         int           // sessions changed and not acknowledged
	OldestAge   time.Duration // of the oldest unacknowledged change, 0 for none
	LastAck     time.Time     // zero for never
	DigestEqual bool          // at the last comparison on this stream
	SampleAge   time.Duration // of the newest acknowledged replay samples; -1 for none
	Sessions    int           // the shadow should hold
	Snapshots   uint64        // inventories compared
	Repairs     uint64        // of them because the digests differed
	Connects    uint64        // streams that got past the greeting
	Bytes       uint64        // of documents and names sent
	Version     uint32        // of the protocol, spoken on this stream or the last; 0 for never
	Superseded  sa.Ticket     // a higher ticket this shadow knows of, 0 for none
}

// Status reports every shadow, sorted by name.
func (p *Publisher) Status() []ShadowStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	all := make([]ShadowStatus, 0, len(p.shadows))
	for _, sh := range p.shadows {
		c := sh.cursor
		s := ShadowStatus{
			Name: sh.name, Connected: sh.phase != phaseDown, Syncing: sh.phase != phaseLive || c.snapshot, Reason: sh.reason(now, p.cfg.MaxLag),
			Lag: c.pending, LastAck: sh.lastAck, DigestEqual: sh.digest == digestEqual, SampleAge: -1,
			Sessions: c.sessions, Snapshots: c.snapshots, Repairs: c.repairs, Connects: sh.connects,
			Bytes: sh.bytes, Version: sh.version, Superseded: sh.superseded,
		}
		s.Ready = s.Reason == ""
		if !c.behind.IsZero() {
			s.OldestAge = now.Sub(c.behind)
		}
		if !c.sampledAt.IsZero() {
			s.SampleAge = now.Sub(c.sampledAt)
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b ShadowStatus) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// reason says why the shadow could not take over, empty where it could. The
// caller holds p.mu.
func (sh *shadow) reason(now time.Time, maxLag time.Duration) string {
	c := sh.cursor
	switch {
	case sh.phase == phaseDown:
		return "not connected: " + sh.why
	case sh.phase != phaseLive || c.snapshot:
		return fmt.Sprintf("snapshot under way, %d changes left", c.pending)
	case !c.behind.IsZero() && now.Sub(c.behind) > maxLag:
		return fmt.Sprintf("lags by %d changes, the oldest %v old", c.pending, now.Sub(c.behind).Round(time.Millisecond))
	case sh.digest == digestUnknown:
		return "sessions not compared yet"
	case sh.digest == digestDiffers:
		return "sessions differ"
	case !sh.twinReady:
		return "twin: " + sh.twinReason
	}
	return ""
}
