package sa

import (
	"encoding/binary"
	"fmt"
)

// Slot numbers a virtual gateway fleet-wide. Valid slots are 1..MaxSlot; 0
// means "no slot".
type Slot uint16

// MaxSlot is the highest slot number: 12 bits of the ESP SPI name the slot.
const MaxSlot Slot = 4095

// spiRandomBits is the part of an ESP SPI that charon chooses at random.
const spiRandomBits = 20

// Valid reports whether s can name a slot.
func (s Slot) Valid() bool { return s >= 1 && s <= MaxSlot }

// SPI is the Security Parameters Index of an ESP SA (RFC 4303 section 2.1) in
// host order.
type SPI uint32

func (s SPI) String() string { return fmt.Sprintf("%08x", uint32(s)) }

// Slot returns the slot whose gateway allocated the inbound SPI s.
func (s SPI) Slot() Slot { return Slot(s >> spiRandomBits) }

// SPIRange returns the lowest and highest inbound SPI that the gateway of slot
// s may allocate (charon's spi_min and spi_max).
func (s Slot) SPIRange() (lo, hi SPI) {
	lo = SPI(s) << spiRandomBits
	return lo, lo | (1<<spiRandomBits - 1)
}

// IKESPI is one of the two SPIs of an IKE_SA (RFC 7296 section 3.1): the eight
// octets of the header read as a big-endian number.
type IKESPI uint64

func (s IKESPI) String() string { return fmt.Sprintf("%016x", uint64(s)) }

// IKELabel and IKEMask are charon's spi_label and spi_mask: the top 16 bits of
// every IKE SPI that the gateway of a slot chooses carry the slot number.
const IKEMask uint64 = 0xffff << 48

// IKELabel returns the spi_label of slot s.
func (s Slot) IKELabel() uint64 { return uint64(s) << 48 }

// Slot returns the slot whose gateway chose the IKE SPI s, or 0 where the
// label is no slot number.
func (s IKESPI) Slot() Slot {
	if n := Slot(s >> 48); n.Valid() {
		return n
	}
	return 0
}

// IKEID names an IKE_SA by its two SPIs, initiator's first as on the wire.
// Responder is 0 in the first message of an IKE_SA_INIT exchange.
type IKEID struct {
	Initiator IKESPI `json:"spi_i"`
	Responder IKESPI `json:"spi_r"`
}

// String renders the pair the way swanctl does: spi_i_spi_r.
func (id IKEID) String() string { return id.Initiator.String() + "_" + id.Responder.String() }

// MarshalText renders an IKE SPI as 16 hexadecimal digits; a JSON number would
// lose its low bits in readers that use float64.
func (s IKESPI) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads 16 hexadecimal digits.
func (s *IKESPI) UnmarshalText(b []byte) error {
	v, err := parseHex(b, 16)
	if err != nil {
		return fmt.Errorf("parse IKE SPI: %w", err)
	}
	*s = IKESPI(v)
	return nil
}

// MarshalText renders an ESP SPI as 8 hexadecimal digits.
func (s SPI) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads 8 hexadecimal digits.
func (s *SPI) UnmarshalText(b []byte) error {
	v, err := parseHex(b, 8)
	if err != nil {
		return fmt.Errorf("parse ESP SPI: %w", err)
	}
	*s = SPI(v)
	return nil
}

// parseHex reads exactly digits hexadecimal digits, lower case only, so that a
// value has one spelling.
func parseHex(b []byte, digits int) (uint64, error) {
	if len(b) != digits {
		return 0, fmt.Errorf("%q has %d characters, want %d hexadecimal digits", clip(b), len(b), digits)
	}
	var v uint64
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | uint64(c-'0')
		case c >= 'a' && c <= 'f':
			v = v<<4 | uint64(c-'a'+10)
		default:
			return 0, fmt.Errorf("%q is not hexadecimal (lower case)", clip(b))
		}
	}
	return v, nil
}

func clip(b []byte) []byte { return b[:min(len(b), 32)] }

// SPIFromWire reads an ESP SPI from the first four octets of b (network order).
func SPIFromWire(b []byte) SPI { return SPI(binary.BigEndian.Uint32(b)) }
