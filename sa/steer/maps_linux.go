package steer

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/shadowcast/shadowcast/sa"
)

// readActions reads what a former daemon may have left.
func readActions(m *ebpf.Map) ([]steerAction, error) {
	slots, all := make([]uint32, m.MaxEntries()), make([]steerAction, m.MaxEntries())
	var cursor ebpf.MapBatchCursor
	n, err := m.BatchLookup(&cursor, slots, all, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) { // that is the end of the map
		return nil, fmt.Errorf("read actions: %w", err)
	}
	if n != len(all) {
		return nil, fmt.Errorf("read actions: %d of %d came", n, len(all))
	}
	return all, nil
}

// writeAction makes the entry of slot say a. Array updates are not atomic for
// readers on other CPUs, but the aligned 8 octets of Kind and Target are. So the
// details, which a reader uses only if those say local, are written before, and
// kept when the slot leaves.
func writeAction(m *ebpf.Map, now []steerAction, slot sa.Slot, a Action) error {
	old, e := now[slot], a.encode()
	if a.Kind != Local {
		e = old.detail().decide(e.Kind, e.Target)
	}
	if e == old {
		return nil
	}
	first := e.decide(old.Kind, old.Target)
	for _, v := range []steerAction{first, e} {
		if v == now[slot] {
			continue
		}
		if err := m.Put(uint32(slot), v); err != nil {
			return fmt.Errorf("write action of slot %d: %w", slot, err)
		}
		now[slot] = v
	}
	return nil
}

// syncSet makes the keys of m those of want, adding before removing.
func syncSet[K comparable](m *ebpf.Map, want map[K]bool) error {
	have, err := keys[K](m)
	if err != nil {
		return err
	}
	// A set that is replaced whole may not fit beside the old one.
	full := len(have)+len(want) > int(m.MaxEntries())
	drop := func() error {
		for k := range have {
			if want[k] {
				continue
			}
			if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("delete from %s: %w", m, err)
			}
		}
		return nil
	}
	if full {
		if err := drop(); err != nil {
			return err
		}
	}
	for k := range want {
		if have[k] {
			continue
		}
		if err := m.Put(k, uint8(1)); err != nil {
			return fmt.Errorf("add to %s: %w", m, err)
		}
	}
	if full {
		return nil
	}
	return drop()
}

func keys[K comparable](m *ebpf.Map) (map[K]bool, error) {
	have := map[K]bool{}
	var k K
	var v uint8
	it := m.Iterate()
	for it.Next(&k, &v) {
		have[k] = true
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", m, err)
	}
	return have, nil
}
