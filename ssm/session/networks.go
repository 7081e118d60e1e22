package session

import (
	"slices"

	"go4.org/netipx"

	"github.com/shadowcast/shadowcast/sa/charon"
)

// Networks are the addresses on the client's side that the session's children take
// packets for: their remote traffic selectors (RFC 7296 section 3.13.1), whatever ports
// and protocols those are limited to, sorted, each once. For most sessions that is the
// inner address alone, for a site the networks behind it.
func (d *Document) Networks() (out []netipx.IPRange) {
	for _, c := range d.Children {
		for _, a := range c.Add {
			if a.Type != charon.RemoteTS {
				continue
			}
			ts, err := a.TS()
			if r := netipx.IPRangeFrom(ts.From, ts.To); err == nil && r.IsValid() {
				out = append(out, r)
			}
		}
	}
	slices.SortFunc(out, func(a, b netipx.IPRange) int {
		if c := a.From().Compare(b.From()); c != 0 {
			return c
		}
		return a.To().Compare(b.To())
	})
	return slices.Compact(out)
}
