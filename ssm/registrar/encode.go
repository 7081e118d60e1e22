package registrar

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/shadowcast/shadowcast/sa"
)

// formatVersion is written into every entry and snapshot. A member that meets
// another one stops (it could not agree with the others any more).
const formatVersion = 1

// maxSnapshot bounds what is read: 4095 slots with a grant of each of 64
// appliances take about 20 MiB.
const maxSnapshot = 32 << 20

type versioned struct {
	V int `json:"v"`
	Command
}

// EncodeCommand returns c as an entry of the log.
func EncodeCommand(c Command) ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(versioned{formatVersion, c})
}

// DecodeCommand reads an entry of the log.
func DecodeCommand(b []byte) (Command, error) {
	var v versioned
	if err := strict(b, &v, &v.V); err != nil {
		return Command{}, fmt.Errorf("read entry of the ticket log: %w", err)
	}
	if err := v.Validate(); err != nil {
		return Command{}, fmt.Errorf("read entry of the ticket log: %w", err)
	}
	return v.Command, nil
}

// strict decodes b into v, whose version field version points to.
func strict(b []byte, v any, version *int) error {
	var head struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return err
	}
	if head.V != formatVersion {
		return fmt.Errorf("version %d, want %d", head.V, formatVersion)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if *version != formatVersion {
		return errors.New("version is given twice")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the end")
	}
	return nil
}

type snapshotText struct {
	V       int        `json:"v"`
	Founded bool       `json:"founded"`
	Slots   []slotText `json:"slots"`
}

type slotText struct {
	Slot   sa.Slot     `json:"slot"`
	Last   sa.Ticket   `json:"last"`
	Grants []grantText `json:"grants,omitempty"`
}

type grantText struct {
	Node        string    `json:"node"`
	Incarnation uint64    `json:"incarnation"`
	ID          uint64    `json:"id"`
	Ticket      sa.Ticket `json:"ticket"`
}

// Encode returns a snapshot of s. Equal states give equal octets.
func (s *State) Encode() ([]byte, error) {
	t := snapshotText{V: formatVersion, Founded: s.founded, Slots: []slotText{}}
	for _, n := range slices.Sorted(maps.Keys(s.slots)) {
		c := s.slots[n]
		x := slotText{Slot: n, Last: c.last}
		for _, name := range slices.Sorted(maps.Keys(c.grants)) {
			g := c.grants[name]
			x.Grants = append(x.Grants, grantText{name, g.incarnation, g.id, g.ticket})
		}
		t.Slots = append(t.Slots, x)
	}
	return json.Marshal(t)
}

// DecodeState reads a snapshot.
func DecodeState(b []byte) (*State, error) {
	var t snapshotText
	if err := strict(b, &t, &t.V); err != nil {
		return nil, fmt.Errorf("read snapshot of the ticket log: %w", err)
	}
	s := &State{founded: t.Founded, slots: map[sa.Slot]*counter{}}
	for _, x := range t.Slots {
		if !x.Slot.Valid() || s.slots[x.Slot] != nil {
			return nil, fmt.Errorf("read snapshot of the ticket log: slot %d is out of range 1..%d or comes twice", x.Slot, sa.MaxSlot)
		}
		c := &counter{last: x.Last, grants: map[string]grant{}}
		for _, g := range x.Grants {
			i := Issue{Slot: x.Slot, Node: g.Node, Incarnation: g.Incarnation, ID: g.ID}
			if err := i.Validate(); err != nil {
				return nil, fmt.Errorf("read snapshot of the ticket log: %w", err)
			}
			if _, again := c.grants[g.Node]; again || g.Ticket == 0 || g.Ticket > x.Last {
				return nil, fmt.Errorf("read snapshot of the ticket log: slot %d: the ticket %d of %s comes twice or is not one of 1 to %d", x.Slot, g.Ticket, g.Node, x.Last)
			}
			c.grants[g.Node] = grant{g.Incarnation, g.ID, g.Ticket}
		}
		s.slots[x.Slot] = c
	}
	return s, nil
}
