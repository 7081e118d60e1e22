package bgp

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Community is a standard community (RFC 1997): ASN<<16 | value.
type Community uint32

// GracefulShutdown is RFC 8326's 65535:0.
const GracefulShutdown Community = 0xffff0000

func (c Community) String() string { return fmt.Sprintf("%d:%d", uint32(c)>>16, uint32(c)&0xffff) }

// MarshalText renders asn:value.
func (c Community) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads asn:value, both 0..65535.
func (c *Community) UnmarshalText(b []byte) error {
	if len(b) <= len("65535:65535") {
		hi, lo, ok := strings.Cut(string(b), ":")
		h, err1 := strconv.ParseUint(hi, 10, 16)
		l, err2 := strconv.ParseUint(lo, 10, 16)
		if ok && err1 == nil && err2 == nil {
			*c = Community(h<<16 | l)
			return nil
		}
	}
	return fmt.Errorf("parse community %.32q: want asn:value, both 0..65535", b)
}

func packCommunities(cs []Community) string {
	cs = slices.Clone(cs)
	slices.Sort(cs)
	var b []byte
	for _, c := range slices.Compact(cs) {
		b = binary.BigEndian.AppendUint32(b, uint32(c))
	}
	return string(b)
}

func unpackCommunities(s string) (cs []Community) {
	for b := []byte(s); len(b) >= 4; b = b[4:] {
		cs = append(cs, Community(binary.BigEndian.Uint32(b)))
	}
	return cs
}

// LargeCommunity is one of RFC 8092. This package's tags have the fleet's AS number
// as global administrator; the function says what the value is.
type LargeCommunity struct {
	Global   uint32 // AS number
	Function uint32
	Value    uint32
}

// Functions of the tags.
const (
	// TagOwner: the value is the router id of the appliance that announces.
	TagOwner = 1
	// TagSlot: the value is the slot behind an inner prefix.
	TagSlot = 2
)

func (c LargeCommunity) String() string {
	return fmt.Sprintf("%d:%d:%d", c.Global, c.Function, c.Value)
}

func (c LargeCommunity) compare(o LargeCommunity) int {
	return cmp.Or(cmp.Compare(c.Global, o.Global), cmp.Compare(c.Function, o.Function), cmp.Compare(c.Value, o.Value))
}

func packLarge(cs []LargeCommunity) string {
	cs = slices.Clone(cs)
	slices.SortFunc(cs, LargeCommunity.compare)
	var b []byte
	for _, c := range slices.Compact(cs) {
		b = binary.BigEndian.AppendUint32(b, c.Global)
		b = binary.BigEndian.AppendUint32(b, c.Function)
		b = binary.BigEndian.AppendUint32(b, c.Value)
	}
	return string(b)
}

func unpackLarge(s string) (cs []LargeCommunity) {
	for b := []byte(s); len(b) >= 12; b = b[12:] {
		cs = append(cs, LargeCommunity{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])})
	}
	return cs
}
