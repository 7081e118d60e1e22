package steer

import (
	"fmt"
	"slices"

	"github.com/shadowcast/shadowcast/sa"
)

// Share says who takes what names no slot. It is the part of Desired that
// changes with every takeover.
type Share struct {
	NewClients  []sa.Slot // share new clients, by hash; empty = refused
	Default     sa.Slot   // takes ICMP echo; 0 = nobody
	LocalActive []sa.Slot // get ICMP errors
}

// SetShare changes the share at once: a few map writes, where Set looks at every
// link. The rest of the state is that of the last Set, which must have been made.
func (s *Steer) SetShare(sh Share) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.desired.Slots == nil {
		return fmt.Errorf("set share: no steering is set yet")
	}
	d := s.desired
	d.NewClients, d.Default, d.LocalActive = slices.Clone(sh.NewClients), sh.Default, slices.Clone(sh.LocalActive)
	if err := d.check(); err != nil {
		return fmt.Errorf("check steering: %w", err)
	}
	var old steerSettings
	if err := s.objs.Config.Lookup(uint32(0), &old); err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	if err := s.objs.Config.Put(uint32(0), d.settings(int(old.Tunnel4), int(old.Tunnel6))); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	now := newClientTable(d.NewClients)
	for b, slot := range newClientTable(s.desired.NewClients) {
		if slot == now[b] {
			continue
		}
		if err := s.objs.NewClients.Put(uint32(b), now[b]); err != nil {
			return fmt.Errorf("write new-client bucket %d: %w", b, err)
		}
	}
	s.desired = d
	return nil
}
