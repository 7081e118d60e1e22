package dnsupdate

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Record is what a name should be.
type Record struct {
	Addresses []netip.Addr // A and AAAA
	Owner     string       // appliance
	Ticket    uint64       // with which it owns; the higher one wins
}

// marker is what the TXT record beside a name says.
type marker struct {
	owner  string
	ticket uint64
}

const markerWord = "shadowcast"

func (m marker) String() string {
	return fmt.Sprintf("%s owner=%s ticket=%d", markerWord, m.owner, m.ticket)
}

// parseMarker reads a marker; ok is false for any other text.
func parseMarker(s string) (m marker, ok bool) {
	f := strings.Fields(s)
	if len(f) != 3 || f[0] != markerWord {
		return m, false
	}
	owner, ok1 := strings.CutPrefix(f[1], "owner=")
	ticket, ok2 := strings.CutPrefix(f[2], "ticket=")
	n, err := strconv.ParseUint(ticket, 10, 64)
	if !ok1 || !ok2 || err != nil || owner == "" {
		return m, false
	}
	return marker{owner, n}, true
}

// found is what the server has for a name.
type found struct {
	txt       []dns.RR // the whole RRset: prerequisites compare all of it
	marker    marker
	marked    bool
	addresses []netip.Addr
	ttl       uint32 // lowest of the addresses
}

// errCNAME: addresses beside a CNAME are not possible, and the server drops such an
// update without a word (RFC 2136 section 3.4.2.2).
var errCNAME = errors.New("the name is an alias (CNAME), want it removed")

// take adds the answer to one query to f.
func (f *found) take(name string, rrs []dns.RR) error {
	for _, rr := range rrs {
		if !strings.EqualFold(rr.Header().Name, name) {
			continue
		}
		switch x := rr.(type) {
		case *dns.CNAME:
			return errCNAME
		case *dns.TXT:
			f.txt = append(f.txt, x)
			if m, ok := parseMarker(strings.Join(x.Txt, "")); ok && (!f.marked || m.ticket > f.marker.ticket) {
				f.marker, f.marked = m, true
			}
		case *dns.A:
			f.address(x.A, x.Hdr.Ttl)
		case *dns.AAAA:
			f.address(x.AAAA, x.Hdr.Ttl)
		}
	}
	return nil
}

func (f *found) address(ip []byte, ttl uint32) {
	if a, ok := netip.AddrFromSlice(ip); ok {
		if len(f.addresses) == 0 || ttl < f.ttl {
			f.ttl = ttl
		}
		f.addresses = append(f.addresses, a.Unmap())
	}
}

// verdict is what to do about a name.
type verdict int

const (
	publish verdict = iota
	upToDate
	superseded // somebody with a higher ticket has the name
)

// judge compares what the server has with what is wanted.
func judge(f found, want Record, ttl time.Duration) verdict {
	switch {
	case f.marked && f.marker.ticket > want.Ticket:
		return superseded
	case f.marked && f.marker == marker{want.Owner, want.Ticket} && f.ttl == seconds(ttl) && sameAddresses(f.addresses, want.Addresses):
		return upToDate
	}
	return publish
}

func sameAddresses(a, b []netip.Addr) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.Addr.Compare)
	slices.SortFunc(b, netip.Addr.Compare)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

func seconds(d time.Duration) uint32 { return uint32(d / time.Second) }

// update is the message that makes name what is wanted, provided that its TXT records
// are still those of f. Other TXT records of the name stay.
func update(zone, name string, f found, want Record, ttl time.Duration) *dns.Msg {
	m := new(dns.Msg)
	m.SetUpdate(zone)
	if len(f.txt) > 0 {
		m.Used(f.txt)
	} else {
		m.RRsetNotUsed([]dns.RR{&dns.TXT{Hdr: header(name, dns.TypeTXT, 0)}})
	}
	m.RemoveRRset([]dns.RR{&dns.A{Hdr: header(name, dns.TypeA, 0)}, &dns.AAAA{Hdr: header(name, dns.TypeAAAA, 0)}})
	var old []dns.RR
	for _, rr := range f.txt {
		if _, ours := parseMarker(strings.Join(rr.(*dns.TXT).Txt, "")); ours {
			old = append(old, dns.Copy(rr))
		}
	}
	m.Remove(old)
	var add []dns.RR
	for _, a := range want.Addresses {
		if a.Is4() {
			add = append(add, &dns.A{Hdr: header(name, dns.TypeA, seconds(ttl)), A: a.AsSlice()})
		} else {
			add = append(add, &dns.AAAA{Hdr: header(name, dns.TypeAAAA, seconds(ttl)), AAAA: a.AsSlice()})
		}
	}
	add = append(add, &dns.TXT{Hdr: header(name, dns.TypeTXT, seconds(ttl)), Txt: []string{marker{want.Owner, want.Ticket}.String()}})
	m.Insert(add)
	return m
}

func header(name string, typ uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: typ, Class: dns.ClassINET, Ttl: ttl}
}

// errChanged: somebody changed the name since it was read.
var errChanged = errors.New("somebody else has just changed the name")

// explain turns a response's code into an error; nil for success. zone and key are
// for the text.
func explain(r *dns.Msg, zone string, key Key) error {
	t := r.IsTsig()
	if t != nil {
		switch t.Error {
		case dns.RcodeBadKey:
			return fmt.Errorf("the server does not know %s (BADKEY)", key)
		case dns.RcodeBadSig:
			return fmt.Errorf("the server has another secret or algorithm for %s (BADSIG)", key)
		case dns.RcodeBadTime:
			return fmt.Errorf("the clocks differ by more than %d s (BADTIME)%s", t.Fudge, serverClock(t))
		}
	}
	switch r.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
		return nil
	case dns.RcodeNXRrset, dns.RcodeYXRrset, dns.RcodeYXDomain:
		return errChanged
	case dns.RcodeRefused:
		return fmt.Errorf("the server refuses it: is it the primary of %s, and does its update-policy or allow-update grant %s? (REFUSED)", zone, key)
	case dns.RcodeNotAuth:
		return fmt.Errorf("the server is not the primary of %s, or the key may not be used (NOTAUTH)", zone)
	case dns.RcodeNotZone:
		return fmt.Errorf("the name lies outside %s (NOTZONE)", zone)
	case dns.RcodeServerFailure:
		return errors.New("the server failed: can it write the zone's journal? (SERVFAIL)")
	}
	return fmt.Errorf("the server answers %s", cmp.Or(dns.RcodeToString[r.Rcode], strconv.Itoa(r.Rcode)))
}

// serverClock reads the server's time out of a BADTIME answer (RFC 8945 section
// 5.2.3): 48 bits of seconds in hexadecimal.
func serverClock(t *dns.TSIG) string {
	n, err := strconv.ParseUint(t.OtherData, 16, 64)
	if err != nil || t.OtherLen != 6 {
		return ""
	}
	d := time.Duration(int64(n)-int64(t.TimeSigned)) * time.Second
	if d < 0 {
		return fmt.Sprintf(": ours is %s ahead of the server's", -d)
	}
	return fmt.Sprintf(": the server's is %s ahead of ours", d)
}
