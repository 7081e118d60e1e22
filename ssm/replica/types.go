package replica

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"
	"net/netip"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

const (
	// MinProtocolVersion is the oldest version of the stream that is spoken.
	// Documents are packed since version 2, JSON in version 1; everything else is
	// the same.
	MinProtocolVersion = 1
	packedSince        = 2

	// MaxDoc bounds one session document, MaxID one session's name, in octets.
	MaxDoc = 1 << 20
	MaxID  = 256
	// MaxSessions bounds the sessions of a slot.
	MaxSessions = 1 << 20
	// MaxSamples bounds the samples kept per session, and, beside four for every
	// session, those without one: older SPIs go first.
	MaxSamples = 64
	// MaxShadows bounds the shadows of a slot: one bit each in every entry.
	MaxShadows = 8

	maxName     = 63
	maxBitmap   = 128 // words: the kernel's limit of 4096 packets
	maxMessage  = 4 << 20
	batchBytes  = 128 << 10
	batchItems  = 512
	scanItems   = 4096 // entries looked at while the lock is held
	listItems   = 2000 // inventory items in a message
	sampleItems = 1000
)

// Hash names the content of a document. Equal hashes mean equal documents.
type Hash [16]byte

// HashOf is the usual way to make a Hash: the front half of SHA-256.
func HashOf(doc []byte) Hash {
	sum := sha256.Sum256(doc)
	return Hash(sum[:16])
}

func (h Hash) String() string { return hex.EncodeToString(h[:4]) }

// Digest names a set of (id, hash) pairs. It is kept up by toggling the pairs
// that come and go, so that comparing costs nothing whatever the number.
type Digest [16]byte

// Toggle adds the pair, or removes it where it was in the set.
func (d *Digest) Toggle(id string, h Hash) {
	var buf [2 + MaxID + len(h)]byte
	b := binary.BigEndian.AppendUint16(buf[:0], uint16(len(id)))
	b = append(append(b, id...), h[:]...)
	sum := sha256.Sum256(b)
	for i := range d {
		d[i] ^= sum[i]
	}
}

func (d Digest) String() string { return hex.EncodeToString(d[:4]) }

// Item is one session in an inventory.
type Item struct {
	ID   string
	Hash Hash
}

// Change puts a session's document, or deletes the session.
type Change struct {
	Item
	Delete bool
	Doc    []byte // nil where deleted; carries key material
}

// Format never shows the document.
func (c Change) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "{%s %s delete=%t %d octets}", c.ID, c.Hash, c.Delete, len(c.Doc))
}

// Sample is the sequence state of one kernel SA at the time of sampling.
type Sample struct {
	// Session is the session the SA belongs to, on the owner's side only. The
	// sample goes to the session's shadows and ends with it. Where it is empty,
	// the sample goes to all and stays until too many newer ones came.
	Session string
	SPI     sa.SPI
	Dst     netip.Addr
	OutSeq  uint64 // last number sent, 64 bit with ESN
	InSeq   uint64 // highest number received, 64 bit with ESN
	Window  uint32 // replay window in packets
	Bitmap  []uint32
	ESNVal  bool // layout of Bitmap: XFRMA_REPLAY_ESN_VAL, else XFRMA_REPLAY_VAL
}

// Boundary marks the batches between which a snapshot is applied. What a
// snapshot changes is a mixture of old and new until its end.
type Boundary uint8

// The boundaries.
const (
	NoBoundary Boundary = iota
	SnapshotBegin
	SnapshotEnd
)

// Batch is what a Sink applies at once, in order. One of Changes, Samples and
// Boundary is set; a batch of samples may be empty and then says that nothing
// changed since the last one.
type Batch struct {
	Slot     sa.Slot
	Owner    string
	Ticket   sa.Ticket
	Changes  []Change
	Replay   bool
	Samples  []Sample
	Sampled  time.Time // when, on the local clock
	Boundary Boundary
	// Upto is the owner's change up to which the shadow is complete once this
	// batch is in place; 0 where a batch does not move it.
	Upto uint64
}

// Sink is where a Receiver puts what it is sent.
type Sink interface {
	// Apply takes a batch without waiting for its effects and calls done exactly
	// once, from any goroutine, when they are in place; only then is it
	// acknowledged. Calls for one slot come in order and one at a time. At most
	// maxOutstanding batches of a slot are not done. An error cuts the stream and
	// makes the next one start from an inventory. Apply must not call Raise or
	// Forget.
	Apply(b Batch, done func(error))
	// Inventory lists the sessions held for a slot. It is called when every
	// batch is done.
	Inventory(slot sa.Slot) ([]Item, error)
	// Digest is that of the inventory, and the number of its sessions.
	Digest(slot sa.Slot) (Digest, int)
	// Config tells the digest of connections, credentials and HA version that the
	// owner runs with. The answer goes through Receiver.SetReadiness.
	Config(slot sa.Slot, owner, digest string)
	// Docs reads all sessions of a slot, for an appliance that Authority lets
	// fetch them.
	Docs(slot sa.Slot) iter.Seq[Change]
}

// checkName reports why s is no appliance's name.
func checkName(s string) error {
	if s == "" || len(s) > maxName || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%.80q is no appliance name (1 to %d printable characters)", s, maxName)
	}
	return nil
}

// checkID reports why id cannot name a session.
func checkID(id string) error {
	if id == "" || len(id) > MaxID {
		return fmt.Errorf("session id has %d octets, want 1 to %d", len(id), MaxID)
	}
	return nil
}
