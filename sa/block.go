package sa

import "fmt"

// Ticket is the right to take a slot over once. Tickets of a slot rise, are
// issued once each, and are never reused; 0 is no ticket.
type Ticket uint64

// BlockBits is log2 of the number of sequence numbers in one block. 64 blocks
// fit into the 32-bit sequence number of RFC 4303 section 2.2.
const BlockBits = 26

// BlockSize is the number of ESP sequence numbers in one block.
const BlockSize uint64 = 1 << BlockBits

// RekeyDistance is the block number past which a child SA must be rekeyed, so
// that the blocks left (64 in all) still cover takeovers that come meanwhile.
const RekeyDistance = 48

// MaxBlock is the last block whose numbers fit into 32 bits. With ESN (RFC 4304)
// a forward jump must stay below 2^32 minus the window, so the same bound holds.
const MaxBlock uint64 = 1<<(32-BlockBits) - 1

// Birth records when an SA came into being.
//
// Base is the lowest ticket held by any shadow at that moment, minus 1 (or the
// owner's own ticket where there was no shadow). Tenure is the ticket under
// which the owner of that moment held the slot.
type Birth struct {
	Base   Ticket `json:"b"`
	Tenure Ticket `json:"tenure"`
}

// Block returns the block of sequence numbers in which the holder of ticket g
// sends on an SA born at birth: the birth tenure in block 0, the holder of a
// later ticket g in block g-b. A holder with g <= b that is not the birth
// tenure must not send at all, and one whose block does not fit into 32 bits
// cannot; both are errors.
func (b Birth) Block(g Ticket) (uint64, error) {
	if g == b.Tenure {
		return 0, nil
	}
	if g <= b.Base {
		return 0, fmt.Errorf("ticket %d is not above %d, the base of the SA: its holder must not send", g, b.Base)
	}
	n := uint64(g - b.Base)
	if n > MaxBlock {
		return 0, fmt.Errorf("ticket %d lies %d blocks above the base of the SA, the last one is %d: rekey it", g, n, MaxBlock)
	}
	return n, nil
}

// FirstSeq returns the value to preset as the last used outbound sequence
// number, so that the first packet carries the first number of block n.
// Block 0 starts at sequence number 1 (RFC 4303 section 3.3.2), hence 0 here.
func FirstSeq(block uint64) uint64 { return block << BlockBits }

// NeedsRekey reports whether the holder of ticket g should rekey an SA born at
// birth before its blocks run out.
func (b Birth) NeedsRekey(g Ticket) bool {
	return g != b.Tenure && g > b.Base && g-b.Base > RekeyDistance
}

// BaseFor returns the Base to record at the birth of an SA: lowest is the
// lowest ticket that any shadow holds, 0 if none does; own is the owner's.
func BaseFor(own, lowest Ticket) Ticket {
	if lowest == 0 || lowest <= own {
		return own
	}
	return lowest - 1
}
