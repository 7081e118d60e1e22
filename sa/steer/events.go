package steer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/shadowcast/shadowcast/sa"
)

// EventKind tells the two events apart.
type EventKind uint8

// EventIKE comes for every IKE message to a local slot, EventESP once for the
// first ESP packet of a watched SPI.
const (
	EventIKE EventKind = 1
	EventESP EventKind = 2
)

// Event is the header of a packet that went to a local slot. Nothing in it is
// authenticated.
type Event struct {
	Kind EventKind
	Slot sa.Slot
	Src  netip.AddrPort // port 0 for bare ESP
	At   time.Duration  // CLOCK_MONOTONIC

	// EventIKE, RFC 7296 section 3.1.
	IKE       sa.IKEID
	MessageID uint32
	Exchange  uint8
	Flags     uint8
	Length    uint32

	// EventESP.
	SPI sa.SPI
}

// eventSize is that of struct event in bpf/types.h:
//
//	 0 u64 ktime, native         52 u8[2] source port
//	 8 u8[8] initiator SPI       54 u16 slot, native
//	16 u8[8] responder SPI       56 u8 kind
//	24 u8[4] message ID          57 u8 exchange type
//	28 u8[4] IKE length          58 u8 flags
//	32 u8[4] ESP SPI             59 u8 address family, 4 or 6
//	36 u8[16] source (IPv4: 4)   60 u8[4] zero
const eventSize = 64

func decodeEvent(b []byte) (Event, error) {
	if len(b) < eventSize {
		return Event{}, fmt.Errorf("decode event: %d octets, want %d", len(b), eventSize)
	}
	be, ne := binary.BigEndian, binary.NativeEndian
	e := Event{
		At:        time.Duration(ne.Uint64(b)),
		MessageID: be.Uint32(b[24:]),
		Length:    be.Uint32(b[28:]),
		SPI:       sa.SPI(be.Uint32(b[32:])),
		Slot:      sa.Slot(ne.Uint16(b[54:])),
		Kind:      EventKind(b[56]),
		Exchange:  b[57],
		Flags:     b[58],
	}
	e.IKE = sa.IKEID{Initiator: sa.IKESPI(be.Uint64(b[8:])), Responder: sa.IKESPI(be.Uint64(b[16:]))}
	var src netip.Addr
	switch b[59] {
	case 4:
		src = netip.AddrFrom4([4]byte(b[36:40]))
	case 6:
		src = netip.AddrFrom16([16]byte(b[36:52]))
	default:
		return Event{}, fmt.Errorf("decode event: address family %d", b[59])
	}
	e.Src = netip.AddrPortFrom(src, be.Uint16(b[52:]))
	if e.Kind != EventIKE && e.Kind != EventESP {
		return Event{}, fmt.Errorf("decode event: kind %d", e.Kind)
	}
	return e, nil
}

// Run reads events until ctx ends and calls fn with each, one at a time. At most
// one Run may be active for a pin directory. What arrives while none is stays in
// the ring, up to its size; ReasonRingFull counts the rest.
func (s *Steer) Run(ctx context.Context, fn func(Event)) error {
	rd, err := ringbuf.NewReader(s.objs.Events)
	if err != nil {
		return fmt.Errorf("open event ring: %w", err)
	}
	// Flush, not Close: what is in the ring is delivered first.
	woken := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { woken <- rd.Flush() })
	defer func() {
		if !stop() {
			<-woken
		}
		rd.Close()
	}()
	var rec ringbuf.Record
	for {
		if err := rd.ReadInto(&rec); err != nil {
			if errors.Is(err, ringbuf.ErrFlushed) {
				return ctx.Err()
			}
			return fmt.Errorf("read event ring: %w", err)
		}
		e, err := decodeEvent(rec.RawSample)
		if err != nil {
			return err
		}
		fn(e)
	}
}

// Watch asks for one EventESP for the first packet of each inbound SPI.
func (s *Steer) Watch(spis ...sa.SPI) error {
	for _, spi := range spis {
		if err := s.objs.Watch.Put(spiKey(spi), uint8(1)); err != nil {
			return fmt.Errorf("watch spi %s (at most %d): %w", spi, maxWatch, err)
		}
	}
	return nil
}

// Unwatch takes back Watch; SPIs that have fired or were never watched are fine.
func (s *Steer) Unwatch(spis ...sa.SPI) error {
	for _, spi := range spis {
		if err := s.objs.Watch.Delete(spiKey(spi)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("unwatch spi %s: %w", spi, err)
		}
	}
	return nil
}

func spiKey(spi sa.SPI) [4]byte {
	return [4]byte(binary.BigEndian.AppendUint32(nil, uint32(spi)))
}
