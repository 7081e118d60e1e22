package xfrm

import "fmt"

// Group is an XFRM multicast group (enum xfrm_nlgroups).
type Group int

const (
	GroupExpire Group = 2
	GroupSA     Group = 3
	GroupReplay Group = 5
)

// EventKind says what an Event reports.
type EventKind uint8

const (
	// NewSA: an SA was added or updated. State is complete.
	NewSA EventKind = iota + 1
	// DelSA: an SA was deleted. State is complete.
	DelSA
	// Flushed: all SAs of State.Proto (0 or 255: of any protocol) are gone.
	Flushed
	// SoftExpire: the soft limit was reached; charon rekeys.
	SoftExpire
	// HardExpire: the hard limit was reached and the SA is gone.
	HardExpire
	// Replay: a sample of the replay state. State has identity, replay state
	// and counters.
	Replay
	// Overrun: the kernel dropped notifications; dump to catch up.
	Overrun
)

func (k EventKind) String() string {
	names := [...]string{"none", "new-sa", "del-sa", "flushed", "soft-expire", "hard-expire", "replay", "overrun"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("event-%d", k)
}

// Cause tells why a Replay event was sent.
type Cause uint32

const (
	CauseThreshold Cause = 16 // XFRM_AE_CR: sequence moved by the threshold
	CauseTimer     Cause = 32 // XFRM_AE_CE: changed since the last report
	CauseWrite     Cause = 64 // XFRM_AE_CU: somebody wrote it

	causeMask = CauseThreshold | CauseTimer | CauseWrite
)

// Event is one notification.
type Event struct {
	Kind  EventKind
	State State
	Cause Cause // of a Replay event
}

// parseEvent decodes a notification; ok is false for a kind that is none of
// Event's.
func parseEvent(m message) (e Event, ok bool, err error) {
	switch m.typ {
	case msgNewSA, msgUpdSA:
		e.Kind = NewSA
		e.State, err = parseSA(m.body)
	case msgDelSA:
		e.Kind = DelSA
		e.State, err = parseDelSA(m.body)
	case msgFlushSA:
		if len(m.body) < 1 {
			return e, false, fmt.Errorf("decode SA flush: %w", errTruncated)
		}
		e.Kind = Flushed
		e.State.Proto = m.body[0]
	case msgExpire:
		if len(m.body) < expireLen {
			return e, false, fmt.Errorf("decode SA expiry: %w", errTruncated)
		}
		e.Kind = SoftExpire
		if m.body[saInfoLen] != 0 {
			e.Kind = HardExpire
		}
		if e.State, err = parseSAInfo(m.body); err == nil {
			err = e.State.parseAttrs(m.body[expireLen:])
		}
		if err != nil {
			err = fmt.Errorf("decode SA expiry: %w", err)
		}
	case msgNewAE:
		e.Kind = Replay
		e.State, e.Cause, err = parseAE(m.body)
	default:
		return e, false, nil
	}
	return e, err == nil, err
}

// parseDelSA reads struct xfrm_usersa_id; the SA as it was lies in XFRMA_SA,
// its attributes beside it.
func parseDelSA(b []byte) (State, error) {
	s, err := parseID(b)
	if err != nil {
		return s, fmt.Errorf("decode SA deletion: %w", err)
	}
	id := s.ID
	err = attributes(b[saIDLen:], func(typ uint16, v []byte) error {
		if typ != attrSA || len(v) < saInfoLen {
			return nil
		}
		s, err = parseSAInfo(v)
		return err
	})
	if err == nil {
		err = s.parseAttrs(b[saIDLen:])
	}
	if err != nil {
		return s, fmt.Errorf("decode deletion of SA %s: %w", id, err)
	}
	return s, nil
}
