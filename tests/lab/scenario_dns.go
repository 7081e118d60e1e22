package lab

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/config"
)

// Names that follow the owners, with a real BIND: a power cut, a client that looks the
// name up afterwards, and a server that hangs while the slot returns.
func init() {
	o := fleetOptions(ConnSpec{Cert: true})
	o.VIPs = []netip.Addr{netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("198.51.100.3")}
	o.Clients = []ClientSpec{{Conn: o.Conn}, {Conn: o.Conn, Router: 2}}
	Register(Scenario{
		Name: "dns-follow", Doc: "per-site names follow the owner through a power cut; a hanging DNS server delays nothing", Need: fleetNeed, Options: o,
		Bench: true, Timeout: 3 * time.Minute, Run: dnsFollow,
	})
}

// followWithin bounds the time from a change of owner to the name: one look each
// second, two exchanges, and what the lab's one processor takes.
const followWithin = 15 * time.Second

// namesOf starts a name server and gives each appliance a name in it, with an address of
// its own where there are enough VIPs.
func (l *Lab) namesOf(t *T) (*nameServer, map[string]netip.Addr) {
	if _, err := os.Stat("/usr/sbin/named"); err != nil {
		t.Skipf("needs named (Debian's bind9): %v", err)
	}
	srv, err := l.startNamed(t.Context(), 2)
	t.Check(err)
	dns := config.DNS{Server: srv.Addr, Zone: srv.Zone, KeyFile: srv.KeyFile, TTL: 5 * time.Second}
	address := map[string]netip.Addr{}
	for i, a := range l.Appliances() {
		address[a.Name] = l.vips()[i%len(l.vips())]
		dns.Names = append(dns.Names, config.DNSName{Name: a.Name, Appliance: a.Name, Addresses: []netip.Addr{address[a.Name]}})
	}
	for _, a := range l.Appliances() {
		t.Check(a.Prepare())
		a.Config.DNS = dns
	}
	return srv, address
}

func dnsFollow(t *T, l *Lab) {
	srv, address := l.namesOf(t)
	points := func(name, to string) time.Duration {
		began := time.Now()
		ctx, cancel := contextOf(t, followWithin)
		defer cancel()
		t.Check(poll(ctx, 50*time.Millisecond, "the name "+name+" to point to "+to, func() (bool, error) {
			got, err := srv.lookup(l.Client(1).ns, name)
			if err == nil && !slices.Equal(got, []netip.Addr{address[to]}) {
				err = fmt.Errorf("%s is %v, want %s", name, got, address[to])
			}
			return err == nil, err
		}))
		return time.Since(began)
	}
	s, o := start(t, l)
	for _, a := range l.Appliances() {
		points(a.Name, a.Name)
	}
	cut, victim := powerCut(t, l, s, "power-cut")
	kept(t, cut)
	heir := owned(t, l, s.slot, victim)
	t.Logf("%s pointed to %s %s after the scene", victim.Name, heir.Name, points(victim.Name, heir.Name).Round(time.Millisecond))

	// A new client finds a gateway by the dead site's name.
	addrs, err := srv.lookup(l.Client(1).ns, victim.Name)
	t.Check(err)
	l.Client(1).Gateway = addrs[0]
	ike, err := l.Client(1).Connect(t.Context())
	t.Check(err)
	t.Logf("the second client connected to %s.%s, %s: %s", victim.Name, srv.Zone, addrs[0], ike)

	t.Check(victim.PowerOn())
	allReady(t, l)
	t.Check(srv.proc.Freeze())
	handover(t, l, s, "return while the server hangs", victim.Name)
	ctx, cancel := contextOf(t, followWithin)
	defer cancel()
	t.Check(poll(ctx, 100*time.Millisecond, "an event that says why the name is not updated", func() (bool, error) {
		evs, err := victim.Events(t.Context())
		for _, e := range evs {
			if e.Kind == "dns" && strings.Contains(e.Reason, "no answer") {
				return true, nil
			}
		}
		return false, err
	}))
	t.Check(srv.proc.Thaw())
	points(victim.Name, victim.Name)
	if o != victim {
		t.Errorf("the power cut hit %s, the owner was %s", victim.Name, o.Name)
	}
}
