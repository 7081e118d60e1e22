package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"slices"
)

// digestVersion starts the digested text, so that a change of form cannot look
// like agreement.
const digestVersion = "shadowcast fleet 1\n"

// Digest is a hexadecimal SHA-256 over what all appliances must agree on. It
// does not depend on the order of appliances, VIPs, registrars, slots, networks
// and pools; it does depend on the order of shadows, which says who claims first.
func (f *Fleet) Digest() string {
	c := *f
	c.Appliances = slices.SortedFunc(slices.Values(f.Appliances), func(a, b Appliance) int { return cmp.Compare(a.Name, b.Name) })
	c.VIPs = slices.SortedFunc(slices.Values(f.VIPs), netip.Addr.Compare)
	c.Registrars = slices.Sorted(slices.Values(f.Registrars))
	c.Slots = slices.SortedFunc(slices.Values(f.Slots), func(a, b Slot) int { return cmp.Compare(a.Number, b.Number) })
	c.Networks = slices.SortedFunc(slices.Values(f.Networks), netip.Prefix.Compare)
	for i := range c.Slots {
		s := &c.Slots[i]
		s.Pools = slices.SortedFunc(slices.Values(s.Pools), func(a, b netip.Prefix) int { return cmp.Compare(a.String(), b.String()) })
		s.Shadows = slices.Concat([]string{}, s.Shadows) // null and [] are one
	}
	text, err := json.Marshal(c)
	if err != nil {
		panic("encode fleet: " + err.Error()) // no field can fail but a NaN location, which Parse refuses
	}
	sum := sha256.Sum256(append([]byte(digestVersion), text...))
	return hex.EncodeToString(sum[:])
}
