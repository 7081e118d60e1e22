package shadowset

import "math"

// Domain is how much two appliances share: the more, the more single failures
// take both.
type Domain int

// The overlaps, in rising order.
const (
	DomainNone  Domain = iota // different sites
	DomainSite                // one site; rack and power feed differ
	DomainLabel               // one site and one rack, or one site and one power feed
	DomainAll                 // site, rack and power feed
)

func (d Domain) String() string {
	return [...]string{"nothing", "site", "site and a label", "site, rack and power"}[d]
}

// Shared returns what a and b share.
func Shared(a, b Member) Domain {
	if a.Site != b.Site {
		return DomainNone
	}
	d := DomainSite
	if same(a.Rack, b.Rack) {
		d++
	}
	if same(a.Power, b.Power) {
		d++
	}
	return d
}

// same takes an unknown label for a shared one.
func same(a, b string) bool { return a == "" || b == "" || a == b }

// earth is the mean radius in km.
const earth = 6371.0

// Distance is the great-circle distance between a and b in km (haversine).
func Distance(a, b Member) float64 {
	const rad = math.Pi / 180
	lat1, lat2 := a.Lat*rad, b.Lat*rad
	sLat, sLon := math.Sin((lat2-lat1)/2), math.Sin((b.Lon-a.Lon)*rad/2)
	h := sLat*sLat + math.Cos(lat1)*math.Cos(lat2)*sLon*sLon
	return 2 * earth * math.Asin(math.Sqrt(math.Min(1, h)))
}
