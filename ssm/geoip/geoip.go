// Package geoip estimates round-trip times from where client addresses are: a MaxMind DB
// (https://maxmind.github.io/MaxMind-DB/) tells the place, the great circle the distance.
// It serves where nothing has been measured.
package geoip

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"

	"github.com/shadowcast/shadowcast/ssm/shadowset"
)

// DB is an open database. Its methods may be called from any goroutine.
type DB struct{ r *maxminddb.Reader }

// Place is a location on earth in degrees, north and east positive.
type Place struct{ Lat, Lon float64 }

// maxFile bounds a database in octets: the largest published ones have some 130 MB.
const maxFile = 1 << 30

// Open reads a database into memory: a file that is replaced or cut meanwhile hurts nobody.
func Open(path string) (*DB, error) {
	st, err := os.Stat(path)
	if err == nil && st.Size() > maxFile {
		err = fmt.Errorf("it has %d octets, at most %d are read", st.Size(), maxFile)
	}
	if err != nil {
		return nil, fmt.Errorf("open GeoIP database %s: %w", path, err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("open GeoIP database: %w", err)
	}
	db, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("open GeoIP database %s: %w", path, err)
	}
	return db, nil
}

func parse(b []byte) (db *DB, err error) {
	defer func() {
		if p := recover(); p != nil { // of a library that reads offsets from the file
			err = fmt.Errorf("damaged: %v", p)
		}
	}()
	r, err := maxminddb.OpenBytes(b)
	if err != nil {
		return nil, err
	}
	return &DB{r}, nil
}

// Find returns where a is; false where the database does not know, or says what cannot be.
func (d *DB) Find(a netip.Addr) (p Place, ok bool) {
	defer func() {
		if recover() != nil {
			p, ok = Place{}, false
		}
	}()
	var record struct {
		Location struct {
			Latitude  *float64 `maxminddb:"latitude"`
			Longitude *float64 `maxminddb:"longitude"`
		} `maxminddb:"location"`
	}
	if err := d.r.Lookup(a.Unmap()).Decode(&record); err != nil {
		return Place{}, false
	}
	lat, lon := record.Location.Latitude, record.Location.Longitude
	if lat == nil || lon == nil || !(*lat >= -90 && *lat <= 90) || !(*lon >= -180 && *lon <= 180) {
		return Place{}, false
	}
	return Place{*lat, *lon}, true
}

// FindAll are the places of those addresses that are known.
func (d *DB) FindAll(as []netip.Addr) (out []Place) {
	for _, a := range as {
		if p, ok := d.Find(a); ok {
			out = append(out, p)
		}
	}
	return out
}

// Estimate is the median of the round-trip times that light in fibre takes from an
// appliance to the places; 0 where there are none.
func Estimate(from shadowset.Member, to []Place) time.Duration {
	if len(to) == 0 {
		return 0
	}
	ds := make([]time.Duration, 0, len(to))
	for _, p := range to {
		ds = append(ds, shadowset.Travel(shadowset.Distance(from, shadowset.Member{Lat: p.Lat, Lon: p.Lon})))
	}
	slices.Sort(ds)
	return max(ds[len(ds)/2], time.Microsecond) // 0 would mean unknown
}
