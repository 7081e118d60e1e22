package xfrm

import (
	"fmt"
	"net/netip"

	"github.com/shadowcast/shadowcast/sa"
)

// ID names an SA in its network namespace (RFC 4301 section 4.1).
type ID struct {
	Dst   netip.Addr
	SPI   sa.SPI
	Proto uint8 // 50 is ESP
}

func (id ID) String() string { return fmt.Sprintf("%s/%s/%d", id.Dst, id.SPI, id.Proto) }

// Mark restricts an SA to packets with (mark & Mask) == Value.
type Mark struct{ Value, Mask uint32 }

// Encap is the UDP encapsulation of an SA (RFC 3948). Type 2 is ESP in UDP.
type Encap struct {
	Type             uint16
	SrcPort, DstPort uint16
}

// ReplayAttr is the kind of replay attribute an SA carries. The kernel applies
// a write only when it comes in the same kind.
type ReplayAttr uint8

const (
	// ReplayNone: the message carried no replay attribute.
	ReplayNone ReplayAttr = iota
	// ReplayVal is XFRMA_REPLAY_VAL: no ESN and a window of at most 32.
	ReplayVal
	// ReplayESNVal is XFRMA_REPLAY_ESN_VAL: ESN, or a window above 32.
	ReplayESNVal
)

func (a ReplayAttr) String() string {
	switch a {
	case ReplayVal:
		return "VAL"
	case ReplayESNVal:
		return "ESN_VAL"
	}
	return "none"
}

// Sample is the inbound half of an SA's replay state: the highest sequence
// number accepted and which of the numbers just below it were seen.
type Sample struct {
	Seq    uint64 // seq_hi<<32 | seq
	Window uint32 // numbers that Bitmap covers
	Bitmap []uint32
	// Attr tells the layout of Bitmap. With ReplayVal bit d of the only word
	// stands for Seq-d. With ReplayESNVal the words form a ring of Window
	// bits in which bit (n-1) mod Window stands for number n.
	Attr ReplayAttr
}

// Errors are the per-SA counters of packets refused.
type Errors struct {
	Window    uint32 // too old for the replay window
	Replay    uint32 // seen before
	Integrity uint32 // integrity check failed
}

// State is one SA as the kernel reports it, without its keys.
type State struct {
	ID
	Src    netip.Addr
	Family uint16 // AF_INET or AF_INET6
	Reqid  uint32
	Mark   *Mark
	Encap  *Encap
	ESN    bool

	ReplayAttr ReplayAttr
	OSeq       uint64 // last number sent, oseq_hi<<32 | oseq
	Seq        uint64 // highest number accepted, seq_hi<<32 | seq
	Window     uint32
	Bitmap     []uint32

	Packets, Bytes uint64
	HardPackets    uint64 // the SA expires after so many packets; ^0 is never
	Errors         Errors
}

// Sample returns the inbound half of s.
func (s State) Sample() Sample {
	return Sample{Seq: s.Seq, Window: s.Window, Bitmap: s.Bitmap, Attr: s.ReplayAttr}
}
