package replica

import (
	"errors"
	"fmt"
	"net/netip"

	peerv1 "github.com/shadowcast/shadowcast/api/peer/v1"
	"github.com/shadowcast/shadowcast/sa"
)

// checkSample reports why x cannot be published.
func checkSample(x *Sample) error {
	if !x.Dst.IsValid() || x.Dst.Zone() != "" || len(x.Bitmap) > maxBitmap || x.SPI == 0 {
		return fmt.Errorf("sample of SPI %s: destination %s or %d words of bitmap out of range", x.SPI, x.Dst, len(x.Bitmap))
	}
	return nil
}

// readSample checks a sample that came from the owner.
func readSample(m *peerv1.Sample) (Sample, error) {
	dst, ok := netip.AddrFromSlice(m.GetDst())
	if !ok {
		return Sample{}, fmt.Errorf("sample of SPI %s: destination has %d octets", sa.SPI(m.GetSpi()), len(m.GetDst()))
	}
	x := Sample{SPI: sa.SPI(m.GetSpi()), Dst: dst, OutSeq: m.GetOutSeq(), InSeq: m.GetInSeq(),
		Window: m.GetWindow(), Bitmap: m.GetBitmap(), ESNVal: m.GetEsnVal()}
	return x, checkSample(&x)
}

// readChange checks a change that came from another appliance.
func readChange(m *peerv1.Change) (Change, error) {
	c := Change{Item: Item{ID: m.GetId()}, Delete: m.GetDelete()}
	if err := checkID(c.ID); err != nil {
		return c, err
	}
	if c.Delete {
		if len(m.GetDoc()) != 0 || len(m.GetHash()) != 0 {
			return c, fmt.Errorf("deletion of %q carries a document", c.ID)
		}
		return c, nil
	}
	if n := len(m.GetDoc()); n == 0 || n > MaxDoc {
		return c, fmt.Errorf("document of %q has %d octets, want 1 to %d", c.ID, n, MaxDoc)
	}
	if len(m.GetHash()) != len(Hash{}) {
		return c, fmt.Errorf("hash of %q has %d octets, want %d", c.ID, len(m.GetHash()), len(Hash{}))
	}
	c.Hash, c.Doc = Hash(m.Hash), m.Doc
	return c, nil
}

// readHello checks a greeting against the name self of the receiver, and
// returns the protocol version to speak.
func readHello(m *peerv1.Hello, self string) (version uint32, err error) {
	if m == nil {
		return 0, errors.New("the first message is not a greeting")
	}
	if v, least := m.GetProtocolVersion(), m.GetMinProtocolVersion(); least > v || least > ProtocolVersion || v < MinProtocolVersion {
		return 0, kindError{KindVersion, fmt.Errorf("owner speaks protocol versions %d to %d, this appliance %d to %d", least, v, MinProtocolVersion, ProtocolVersion)}
	}
	if err := readClaim(m.GetSlot(), m.GetTicket(), m.GetOwner(), m.GetIncarnation()); err != nil {
		return 0, err
	}
	if m.GetEpoch() == 0 {
		return 0, errors.New("epoch is 0")
	}
	if m.GetShadow() != self {
		return 0, kindError{KindName, fmt.Errorf("stream is meant for %.80q, this is %s", m.GetShadow(), self)}
	}
	if m.GetOwner() == self {
		return 0, fmt.Errorf("owner %s shadows itself", self)
	}
	return min(m.ProtocolVersion, ProtocolVersion), nil
}

// readClaim checks what every call of an owner says about itself.
func readClaim(slot uint32, ticket uint64, owner string, incarnation uint64) error {
	if slot > uint32(sa.MaxSlot) || !sa.Slot(slot).Valid() {
		return fmt.Errorf("slot %d is out of range", slot)
	}
	if ticket == 0 || incarnation == 0 {
		return errors.New("ticket or incarnation is 0")
	}
	return checkName(owner)
}
