package node

import (
	"net/netip"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm/geoip"
)

const (
	// placeEvery is how often an owner looks where its clients are.
	placeEvery = 10 * time.Second
	// placeMost is how many of them it looks up: a median does not need more.
	placeMost = 64
)

// placeClients notes where some of the slot's clients are.
func (r *slotRuntime) placeClients(now time.Time) {
	db := r.a.geo.Load()
	if db == nil || now.Sub(r.placed) < placeEvery {
		return
	}
	r.placed = now
	var addrs []netip.Addr
	for _, d := range r.ledger.Docs() {
		if a, err := netip.ParseAddr(d.ClientIP); err == nil {
			addrs = append(addrs, a)
		}
		if len(addrs) == placeMost {
			break
		}
	}
	places := db.FindAll(addrs)
	r.where.Store(&places)
}

// clientsOf is where clients of slot n are, as far as this appliance knows.
func (a *Appliance) clientsOf(n sa.Slot) []geoip.Place {
	r := a.places.at(n)
	if r == nil {
		return nil
	}
	if p := r.where.Load(); p != nil {
		return *p
	}
	return nil
}

// openGeoIP reads the database that the configuration names; without one, places are
// unknown.
func (a *Appliance) openGeoIP(path string) error {
	if path == "" {
		a.geo.Store(nil)
		return nil
	}
	db, err := geoip.Open(path)
	if err == nil {
		a.geo.Store(db)
	}
	return err
}
