package registrar

import (
	"errors"
	"fmt"

	"github.com/shadowcast/shadowcast/sa"
)

// maxLead bounds how far a ticket that somebody claims to have seen may lie above
// what the log has issued. Tickets come from the log alone, so an honest lead is
// small and comes from a log that was founded anew; a large one would use up the
// 64 blocks of every SA.
const maxLead = 1 << 20

// maxName bounds the name of an appliance.
const maxName = 63

// The refusals of State.Apply.
var (
	ErrNotFounded  = errors.New("the ticket log is not founded yet")
	ErrPastLife    = errors.New("a later life of the appliance has asked already")
	ErrImplausible = errors.New("the ticket said to have been seen is implausible")
)

// Command is one entry of the log: exactly one of its fields is set.
type Command struct {
	Found *Found `json:"found,omitempty"`
	Issue *Issue `json:"issue,omitempty"`
}

// Found begins the log: every slot goes on above these tickets. A second one
// raises what lies below it and lowers nothing.
type Found struct {
	Last map[sa.Slot]sa.Ticket `json:"last"`
}

// Issue asks for the next ticket of a slot.
type Issue struct {
	Slot sa.Slot `json:"slot"`
	// Node and Incarnation are whom the ticket is bound to.
	Node        string `json:"node"`
	Incarnation uint64 `json:"incarnation"`
	// ID names the request: repeated, it gets the same ticket.
	ID uint64 `json:"id"`
	// Floor is a ticket seen elsewhere; the new one lies above it.
	Floor sa.Ticket `json:"floor,omitempty"`
}

// Validate reports what is wrong with c, whoever sent it.
func (c Command) Validate() error {
	switch {
	case (c.Found == nil) == (c.Issue == nil):
		return errors.New("command must be one of found and issue")
	case c.Issue != nil:
		return c.Issue.Validate()
	}
	for s := range c.Found.Last {
		if !s.Valid() {
			return fmt.Errorf("found: slot %d, want 1 to %d", s, sa.MaxSlot)
		}
	}
	return nil
}

// Validate reports what is wrong with i.
func (i Issue) Validate() error {
	switch {
	case !i.Slot.Valid():
		return fmt.Errorf("issue: slot %d, want 1 to %d", i.Slot, sa.MaxSlot)
	case i.Node == "" || len(i.Node) > maxName:
		return fmt.Errorf("issue: appliance %.80q, want a name of 1 to %d octets", i.Node, maxName)
	case i.Incarnation == 0 || i.ID == 0:
		return errors.New("issue: incarnation or request number is missing")
	}
	return nil
}

// State is what the entries of a log come to. The zero value is a log without
// entries. It is not safe for concurrent use.
type State struct {
	founded bool
	slots   map[sa.Slot]*counter
}

// counter is one slot: the last ticket and, by appliance, the last one given to it.
type counter struct {
	last   sa.Ticket
	grants map[string]grant
}

type grant struct {
	incarnation uint64
	id          uint64
	ticket      sa.Ticket
}

// Founded reports whether tickets may be issued.
func (s *State) Founded() bool { return s.founded }

// Last returns the last ticket issued for each slot.
func (s *State) Last() map[sa.Slot]sa.Ticket {
	m := make(map[sa.Slot]sa.Ticket, len(s.slots))
	for n, c := range s.slots {
		m[n] = c.last
	}
	return m
}

func (s *State) slot(n sa.Slot) *counter {
	c := s.slots[n]
	if c == nil {
		if s.slots == nil {
			s.slots = map[sa.Slot]*counter{}
		}
		c = &counter{grants: map[string]grant{}}
		s.slots[n] = c
	}
	return c
}

// Apply carries out a valid command. The ticket is 0 but for an issue. A refusal
// leaves s as it was.
func (s *State) Apply(c Command) (sa.Ticket, error) {
	if c.Found != nil {
		for n, t := range c.Found.Last {
			x := s.slot(n)
			x.last = max(x.last, t)
		}
		s.founded = true
		return 0, nil
	}
	i := *c.Issue
	if !s.founded {
		return 0, ErrNotFounded
	}
	var last sa.Ticket
	var was grant
	if x := s.slots[i.Slot]; x != nil {
		last, was = x.last, x.grants[i.Node]
	}
	switch {
	case was.incarnation > i.Incarnation:
		return 0, fmt.Errorf("slot %d, %s: %w", i.Slot, i.Node, ErrPastLife)
	case was.incarnation == i.Incarnation && was.id == i.ID:
		return was.ticket, nil
	case i.Floor > last+maxLead:
		return 0, fmt.Errorf("slot %d, %s: %w: %d, but %d is the last one issued", i.Slot, i.Node, ErrImplausible, i.Floor, last)
	}
	x := s.slot(i.Slot)
	x.last = max(last, i.Floor) + 1
	x.grants[i.Node] = grant{i.Incarnation, i.ID, x.last}
	return x.last, nil
}
