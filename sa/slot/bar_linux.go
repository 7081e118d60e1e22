package slot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/shadowcast/shadowcast/sa"
)

// Outbound names an outbound SA: clients choose these SPIs, so the address
// belongs to the name.
type Outbound struct {
	SPI sa.SPI
	Dst netip.Addr // the client's outer address
}

func (o Outbound) key() fenceOutbound {
	k := fenceOutbound{Dst: o.Dst.As16()}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(o.SPI))
	k.Spi = binary.NativeEndian.Uint32(b[:])
	return k
}

// Bar makes the fence of a slot drop what these SAs send, also while it is open:
// their sequence numbers may be another owner's. Barring an SA twice, or one that
// does not exist yet, is no error.
func (h *Host) Bar(n sa.Slot, os []Outbound) error {
	return h.with(n, "bar SAs", func(s *state) error { return s.fence.bar(os) })
}

// Unbar lets these SAs send again.
func (h *Host) Unbar(n sa.Slot, os []Outbound) error {
	return h.with(n, "unbar SAs", func(s *state) error { return s.fence.unbar(os) })
}

// UnbarAll forgets every barred SA of a slot whose SAs are being replaced.
func (h *Host) UnbarAll(n sa.Slot) error {
	return h.with(n, "unbar SAs", func(s *state) error {
		old, err := s.fence.barred()
		if err != nil {
			return err
		}
		return s.fence.unbarKeys(old)
	})
}

func (f *fence) bar(os []Outbound) error {
	if len(os) == 0 {
		return nil
	}
	keys, values := make([]fenceOutbound, len(os)), make([]uint8, len(os))
	for i, o := range os {
		keys[i], values[i] = o.key(), 1
	}
	if _, err := f.objs.FenceBarred.BatchUpdate(keys, values, nil); err != nil {
		return fmt.Errorf("add %d barred SAs: %w", len(os), err)
	}
	return nil
}

func (f *fence) unbar(os []Outbound) error {
	keys := make([]fenceOutbound, len(os))
	for i, o := range os {
		keys[i] = o.key()
	}
	return f.unbarKeys(keys)
}

func (f *fence) unbarKeys(keys []fenceOutbound) error {
	for _, k := range keys {
		if err := f.objs.FenceBarred.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove a barred SA: %w", err)
		}
	}
	return nil
}

func (f *fence) barred() (keys []fenceOutbound, err error) {
	var k fenceOutbound
	var v uint8
	it := f.objs.FenceBarred.Iterate()
	for it.Next(&k, &v) {
		keys = append(keys, k)
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list barred SAs: %w", err)
	}
	return keys, nil
}
