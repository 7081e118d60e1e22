package lab

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/docs"
	"github.com/shadowcast/shadowcast/preflight"
)

func init() {
	o := fleetOptions(ConnSpec{})
	o.BFD, o.PPS = BFD{Interval: 300 * time.Millisecond, Multiplier: 10}, 125 // as in install
	Register(Scenario{
		Name: "migrate", Doc: "docs/operations.md turns a plain strongSwan gateway into a fleet, block by block; its client, whose configuration stays, comes back by itself",
		Need: fleetNeed, Options: o, Timeout: 12 * time.Minute, Memory: "1G", Bench: true, Run: migrate,
	})
}

// migrateHeading is where the document tells it.
const migrateHeading = "### From a strongSwan gateway that runs already"

const officeConf = "/etc/swanctl/conf.d/office.conf"

// officePool are the inner addresses of the old gateway.
var officePool = netip.MustParsePrefix("10.200.0.0/24")

// officeClient is the configuration of its client.
const officeClient = `connections {
  office {
    version = 2
    remote_addrs = 198.51.100.1
    vips = 0.0.0.0
    dpd_delay = 60s
    keyingtries = 0
    local {
      auth = psk
      id = c1.example
    }
    remote {
      auth = psk
      id = gw.example
    }
    children {
      net {
        remote_ts = 10.99.0.0/24
        start_action = start
        close_action = start
      }
    }
  }
}
secrets {
  ike-office {
    secret = "` + psk + `"
  }
}
`

// migration is a run of the section.
type migration struct {
	*installation
	client *Client
	home   *machine     // the client's
	before *Observation // while the old gateway serves
	s      *attached    // afterwards
}

func migrate(t *T, l *Lab) {
	text, err := docSection(docs.Operations, migrateHeading)
	t.Check(err)
	x := &migration{installation: newInstallation(t, l, "operations.md", text), client: l.Client(0)}
	x.oldGateway()
	x.connectOld()
	x.playAll(map[string]func(play func()){
		"":                       func(play func()) { play() },
		"certificates are there": func(play func()) { x.asInInstall(); play() },
		"it serves": func(play func()) {
			x.complains(play)
			x.fatal("ams", "connections.office: accepts IKEv1, which cannot be shadowed: want version = 2",
				"connections.office.local_addrs: %any is no address, want addresses of 198.51.100.1", "connections.office.pools: office, want only shadowcast4 and shadowcast6",
				": pools: own address pools would hand out addresses twice", "pools.office.dns: 10.99.0.53, want client_dns: [10.99.0.53] in the section fleet", "net.replay_window: 64, want 1024 or more", "net.dpd_action: restart, want none", portFinding, vipFinding)
		},
		"it is mended": func(play func()) {
			x.complains(play)
			x.fatal("ams", portFinding, vipFinding)
			x.fatal("fra")
			x.fatal("lhr")
		},
		"the others wait": x.change,
		"the static routes are gone": func(play func()) {
			lossless(t, scene(t, l, x.s, "static routes removed", func(*Observation) {
				x.staticRoutes((*Netns).unroute)
				pause(t, time.Second)
			}))
			play()
			x.fatal("ams")
			x.shadowed(x.s, "office")
		},
	})
	x.account()
	x.installed()
	x.unchanged()
	control(t, l, x.s)
	handover(t, l, x.s, "move", "fra")
	allReady(t, l)
	cut, _ := powerCut(t, l, x.s, "power-cut")
	kept(t, cut)
	x.unchanged()
}

// What preflight says of a gateway that serves.
const (
	portFinding = "charon-systemd has bound udp"
	vipFinding  = "this machine has the VIP 198.51.100.1"
)

// oldGateway makes the first machine what the section begins with.
func (x *migration) oldGateway() {
	x.must("ams", "ip addr add "+single(VIP).String()+" dev lo")
	x.staticRoutes(func(n *Netns, dst netip.Prefix, via netip.Addr) error { return n.route(dst, netip.Addr{}, via) })
	x.must("ams", "editor "+officeConf)
	x.must("ams", "systemctl restart strongswan")
}

// staticRoutes does something with the routes to the old gateway.
func (x *migration) staticRoutes(do func(n *Netns, dst netip.Prefix, via netip.Addr) error) {
	a := x.l.Appliance("ams")
	for _, r := range []struct {
		router string
		net    int
		dst    netip.Prefix
	}{{"r1", 1, single(VIP)}, {"r2", 2, single(VIP)}, {"in", insideLink, officePool}} {
		x.t.Check(do(x.l.Node(r.router), r.dst, host(linkNet(r.net, a.N), 2)))
	}
}

// connectOld starts the client, a machine with Debian's strongSwan, and its traffic.
func (x *migration) connectOld() {
	t, c := x.t, x.client
	var err error
	x.home, err = x.l.newMachine(t.Context(), c.Name, c.ns)
	t.Check(err)
	t.Check(x.home.write(officeConf, officeClient, 0o600))
	c.cap, err = startCapture(c.ns, devClient, c.Addr)
	t.Check(err)
	x.l.onClose(c.cap.close)
	t.Check(x.home.startService(t.Context(), "strongswan"))
	c.charon = &charon{name: c.Name, sock: x.home.path("/run/charon.vici"), proc: x.home.running("strongswan").proc}
	x.session("the client's session with the old gateway", func(IKESA) bool { return true })
	st, err := x.l.StartStream(c, Rate{PPS: x.l.opt.PPS, Size: 200})
	t.Check(err)
	t.Check(st.WaitReceived(t.Context(), 200))
	inner, err := c.Inner()
	t.Check(err)
	if !officePool.Contains(inner) {
		t.Errorf("the old gateway gave %s, want one of %s", inner, officePool)
	}
	x.toldNameServer()
	x.before, err = x.l.Observe(c, st)
	t.Check(err)
}

// session waits until the client has one.
func (x *migration) session(what string, is func(IKESA) bool) {
	ctx, cancel := context.WithTimeoutCause(x.t.Context(), 3*time.Minute, errors.New("none within 3 min"))
	defer cancel()
	x.t.Check(poll(ctx, 50*time.Millisecond, what, func() (bool, error) {
		sa, err := x.client.SA()
		if err != nil || !is(sa) {
			return false, err
		}
		x.t.Logf("%s: %s", what, sa)
		return true, nil
	}))
}

// asInInstall does what the section takes from install.md: the certificates, and what an
// editor leaves of the configuration.
func (x *migration) asInInstall() {
	blocks, err := docBlocks(docs.Install)
	x.t.Check(err)
	for _, b := range blocks {
		if slices.Equal(b.On, []string{safe}) {
			x.play(b)
		}
	}
	x.editorKnows(slices.DeleteFunc(blocks, func(b docBlock) bool { return b.File != "/etc/shadowcast/shadowcast.yaml" }))
}

// complains carries a block out in which preflight may find what is fatal.
func (x *migration) complains(play func()) {
	x.uneasy = true
	play()
	x.uneasy = false
}

// fatal checks that what preflight last found fatal on a machine is this and nothing else.
func (x *migration) fatal(name string, want ...string) {
	found, err := parseFindings(x.said[name+"# "+preflightCommand])
	x.t.Check(err)
	for _, w := range want {
		if f := find(found, w); f == nil || f.severity != preflight.Fatal.String() {
			x.t.Errorf("preflight on %s does not find fatal %q: %+v", name, w, f)
		}
	}
	for _, f := range found {
		if f.severity == preflight.Fatal.String() && !slices.ContainsFunc(want, func(w string) bool { return strings.Contains(f.what, w) }) {
			x.t.Errorf("preflight on %s finds besides: %+v", name, f)
		}
	}
}

// change carries out the steps in which the old gateway ends, and waits until the client
// is back.
func (x *migration) change(play func()) {
	t, c, old := x.t, x.client, x.before.Stream
	sc, err := x.before.End(t.Context(), "beside the old gateway")
	t.Check(err)
	t.Scene(sc)
	kept(t, sc)
	lossless(t, sc)
	was, err := c.SA()
	t.Check(err)
	o, err := x.l.Observe(c, old)
	t.Check(err)
	began := time.Now()
	o.Fault(began, "the old gateway stops")
	play()
	started := time.Since(began)
	t.Check(x.l.Appliance("ams").WaitReady(t.Context()))
	at := time.Now()
	served := at.Sub(began)
	o.Mark(at, "the fleet serves")
	x.session("the client's session with the fleet", func(now IKESA) bool { return now.SPIi != was.SPIi })
	old.StopSending()
	x.s = attach(t, x.l, c)
	sc, err = o.End(t.Context(), "change")
	t.Check(err)
	up, down := x.s.First(began)
	sc.OutageUpMS, sc.OutageMS = o.outageMS(up), o.outageMS(down)
	t.Scene(sc)
	if down < 0 || up < 0 || sc.InnerAddressKept {
		t.Errorf("the client is not served after the change, or has its old address: %s", sc.Long())
	}
	acc, err := c.IKE()
	t.Check(err)
	if n := acc.Since(at).ClientInits(); n > 1 {
		t.Errorf("the client tried %d times after the fleet served, want its first try to succeed", n)
	}
	for name, d := range map[string]time.Duration{"daemon_started_s": started, "fleet_serves_s": served, "without_service_s": max(up, down)} {
		t.Metric(name, d.Seconds())
	}
	t.Logf("the daemon is there after %s, the fleet serves after %s, the client is served after %s", started, served, max(up, down))
	inner, err := c.Inner()
	t.Check(err)
	if x.s.slot != 1 || !SlotPool(1).Contains(inner) {
		t.Errorf("the client is in slot %d with address %s, want slot 1, which is at home where it entered", x.s.slot, inner)
	}
	x.toldNameServer()
	x.serving()
}

// toldNameServer checks that the client has the name server of the gateway's pool.
func (x *migration) toldNameServer() {
	b, err := os.ReadFile(x.home.path("/etc/resolv.conf"))
	x.t.Check(err)
	if !strings.Contains(string(b), "nameserver 10.99.0.53 ") {
		x.t.Errorf("the client has not learned of the name server 10.99.0.53:\n%s", b)
	}
}

// unchanged checks that nobody touched the client.
func (x *migration) unchanged() {
	b, err := os.ReadFile(x.home.path(officeConf))
	x.t.Check(err)
	if string(b) != officeClient || !x.client.Proc().Alive() || x.home.running("strongswan").proc != x.client.Proc() {
		x.t.Errorf("the client's configuration or its charon is another one: %s", b)
	}
}
