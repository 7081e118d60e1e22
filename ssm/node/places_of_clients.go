package node

import (
	"net/netip"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm/geoip"
)

const (
	// placeEvery is how often an owner looks who its clients are, to ask where.
	placeEvery = 10 * time.Second
	// placeMost is how many of them count: a median does not need more.
	placeMost = 64
)

// noteClients tells who some of the slot's clients are.
func (r *slotRuntime) noteClients(now time.Time) {
	if r.a.geo.Load() == nil || now.Sub(r.noted) < placeEvery {
		return
	}
	r.noted = now
	var addrs []netip.Addr
	for _, d := range r.ledger.Docs() {
		if a, err := netip.ParseAddr(d.ClientIP); err == nil {
			addrs = append(addrs, a)
		}
		if len(addrs) == placeMost {
			break
		}
	}
	r.some.Store(&addrs)
}

// whereabouts are the places of a slot's clients, looked up once for each sample of them.
type whereabouts struct {
	of     *[]netip.Addr
	places []geoip.Place
}

// clientsOf is where clients of slot n are, as far as this appliance knows. The caller
// holds b.mu. Whatever a lookup costs, it costs the choice of shadows alone.
func (b *shadowSets) clientsOf(n sa.Slot) []geoip.Place {
	r, db := b.a.places.at(n), b.a.geo.Load()
	if r == nil || db == nil {
		return nil
	}
	of := r.some.Load()
	if of == nil {
		return nil
	}
	if b.where[n].of != of {
		b.where[n] = whereabouts{of, db.FindAll(*of)}
	}
	return b.where[n].places
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
