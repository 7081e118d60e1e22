package lab

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// The drain campaign: an appliance after the other is drained under the traffic of
// many clients, round the fleet.
const (
	campaignClients = 20
	campaignDrains  = 20
	campaignShare   = 0.4 // of the highest rate that the lab carries without loss
	campaignSize    = 200 // octets of UDP payload
)

func init() {
	for _, x := range []struct {
		name, doc       string
		slow, frr, ipv6 bool
	}{
		{name: ""},
		{name: "-slow", doc: "; the way through the drained appliance is 40 ms slower", slow: true},
		{name: "-frr", doc: "; FRR", frr: true},
		{name: "-ipv6", doc: "; IPv6 VIP", ipv6: true},
	} {
		o := fleetOptions(ConnSpec{})
		o.SlotsPerAppliance, o.BFD, o.FRR = 2, patientBFD, x.frr
		for i := range campaignClients {
			o.Clients = append(o.Clients, ClientSpec{Router: 1 + i%2, IPv6: x.ipv6})
		}
		Register(Scenario{Name: "campaign-drain" + x.name, Doc: "20 drains round the fleet under 20 clients with UDP, HTTP and an echo: nothing lost, no TCP timeout" + x.doc,
			Need: fleetNeed, Options: o, Timeout: 9 * time.Minute, Bench: true, Run: func(t *T, l *Lab) { campaignDrain(t, l, x.slow) }})
	}
}

// crowd is the clients of a campaign with their traffic.
type crowd struct {
	t        *T
	l        *Lab
	streams  []*Stream
	download *Download
	echo     *Echo
	inner    map[string]string
	since    time.Time
}

// connectAll brings every client up, a few at a time.
func connectAll(t *T, l *Lab) *crowd {
	c := &crowd{t: t, l: l, inner: map[string]string{}, since: time.Now()}
	var g errgroup.Group
	g.SetLimit(3)
	for _, x := range l.Clients() {
		g.Go(func() error { _, err := x.Connect(t.Context()); return err })
	}
	t.Check(g.Wait())
	for _, x := range l.Clients() {
		a, err := x.Inner()
		t.Check(err)
		c.inner[x.Name] = a.String()
	}
	t.Logf("%d clients connected", len(c.inner))
	return c
}

// flood sends at pps packets a second each way with every client. It returns what
// was sent, both ways together, in the time d in which all of them sent, and what
// was lost at any time.
func (c *crowd) flood(pps int, d time.Duration) (sent, lost int) {
	var ss []*Stream
	for _, x := range c.l.Clients() {
		s, err := c.l.StartStream(x, Rate{PPS: pps, Size: campaignSize, Max: d + 10*time.Second})
		c.t.Check(err)
		ss = append(ss, s)
	}
	from := time.Now()
	pause(c.t, d)
	to := time.Now()
	for _, s := range ss {
		s.StopSending()
	}
	for _, s := range ss {
		c.t.Check(s.Stop(2 * time.Second))
		sent += s.Report(from, to).Sent()
		lost += s.Report(time.Time{}, time.Time{}).Lost()
		c.t.Check(s.free())
	}
	return sent, lost
}

// highest finds the highest rate that loses nothing, in packets a second of all
// clients both ways: doubling until packets are lost or the senders cannot keep
// their pace, which is the limit of the machine.
func (c *crowd) highest() float64 {
	const span = 2 * time.Second
	best := 0.0
	for pps := 4; pps <= 1024; pps *= 2 {
		sent, lost := c.flood(pps, span)
		rate := float64(sent) / span.Seconds()
		c.t.Logf("%d packets/s each way and client: sent %d (%.0f/s), lost %d", pps, sent, rate, lost)
		if lost > 0 {
			break
		}
		best = max(best, rate)
		// A sender that cannot keep its pace has reached the machine's limit.
		if rate < 0.9*float64(2*pps*len(c.l.Clients())) {
			break
		}
	}
	if best == 0 {
		c.t.Fatalf("the lab carries not even 4 packets/s of each client without loss")
	}
	return best
}

// start begins all traffic, at the given rate together.
func (c *crowd) start(rate float64) {
	t, l := c.t, c.l
	// An eighth of it is the download, in packets of about 1200 octets with their
	// acknowledgements; the echo is ten rounds a second.
	octets := int(rate / 8 / 2 * 1200)
	pps := max(1, int((rate*7/8-40)/2/float64(len(l.Clients()))))
	for _, x := range l.Clients() {
		s, err := l.StartStream(x, Rate{PPS: pps, Size: campaignSize})
		t.Check(err)
		c.streams = append(c.streams, s)
	}
	var err error
	c.download, err = l.StartDownload(l.Client(0), octets)
	t.Check(err)
	c.echo, err = l.StartEcho(l.Client(1), 100*time.Millisecond)
	t.Check(err)
	t.Logf("traffic: %d UDP streams of %d packets/s each way, a download of %d kB/s, an echo of 10 rounds/s", len(c.streams), pps, octets/1000)
}

// rtos counts the retransmission timeouts on both sides.
func (c *crowd) rtos() int {
	sum := 0
	for _, n := range []*Netns{c.l.Client(0).ns, c.l.Client(1).ns, c.l.nodes["srv"]} {
		k, err := n.RTOs()
		c.t.Check(err)
		sum += k
	}
	return sum
}

// row is one phase of a campaign.
type row struct {
	Name     string             `json:"name"`
	Sent     int                `json:"sent"`
	Lost     int                `json:"lost"`
	Dups     int                `json:"duplicates"`
	RTOs     int                `json:"tcp_rtos"`
	StallMS  float64            `json:"http_stall_ms"`
	EchoMS   float64            `json:"echo_max_ms"`
	Late     uint64             `json:"late_packets"`
	Sessions uint64             `json:"sessions_moved"`
	To       string             `json:"to,omitempty"`
	Seconds  float64            `json:"seconds"`
	Phases   map[string]float64 `json:"phase_seconds,omitempty"`
	from, to time.Time
}

// phase plays one phase and accounts for the packets sent in it; account fills in
// what only the end of the campaign can know.
func (c *crowd) phase(name string, do func(*row)) *row {
	r := &row{Name: name, from: time.Now()}
	c.download.Take()
	c.echo.Take()
	before := c.rtos()
	do(r)
	r.to = time.Now()
	r.Seconds = r.to.Sub(r.from).Seconds()
	_, stall := c.download.Take()
	_, echo := c.echo.Take()
	r.StallMS, r.EchoMS = ms(int64(stall)), ms(int64(echo))
	r.RTOs = c.rtos() - before
	return r
}

func (c *crowd) account(r *row) {
	for _, s := range c.streams {
		x := s.Report(r.from, r.to)
		r.Sent, r.Lost, r.Dups = r.Sent+x.Sent(), r.Lost+x.Lost(), r.Dups+x.Up.Duplicates+x.Down.Duplicates
		for _, p := range append(x.Up.LostList, x.Down.LostList...) {
			c.t.Logf("%s: packet %d sent at %s is lost", r.Name, p.Seq, p.Sent.Format("15:04:05.000"))
		}
	}
}

// newSessions counts the IKE_SA_INITs of all clients since the traffic began, and
// checks that every client still has its inner address.
func (c *crowd) newSessions() int {
	n := 0
	for _, x := range c.l.Clients() {
		acc, err := x.IKE()
		c.t.Check(err)
		n += acc.Since(c.since).ClientInits()
		if a, err := x.Inner(); err != nil || a.String() != c.inner[x.Name] {
			c.t.Errorf("%s has the inner address %s, had %s, %v", x.Name, a, c.inner[x.Name], err)
		}
	}
	return n
}

func campaignDrain(t *T, l *Lab, slow bool) {
	t.Check(enterAt(l, "ams"))
	fleetUp(t, l)
	c := connectAll(t, l)
	allReady(t, l)
	highest := c.highest()
	rate := campaignShare * highest
	// At its limit the machine may have cost an appliance a slot.
	allReady(t, l)
	t.Metric("highest_loss_free_pps", highest)
	t.Metric("rate_pps", rate)
	c.since = time.Now()
	c.start(rate)
	pause(t, time.Second)
	rows := []*row{c.phase("control", func(*row) { pause(t, 20*time.Second) })}
	for i := range campaignDrains {
		a := nextOwner(t, l, i)
		if slow {
			t.Check(eachUplinkOf(l, a, func(k *Link) error { return k.ImpairFromB(Impairment{Delay: 40 * time.Millisecond}) }))
			pause(t, time.Second)
		}
		r := c.phase(fmt.Sprintf("drain %d: %s", i+1, a.Name), func(r *row) {
			acc, err := a.Drain(t.Context(), nil)
			t.Check(err)
			checkDrain(t, a, acc)
			r.fill(acc)
			pause(t, 300*time.Millisecond)
		})
		if slow { // nothing goes through it now
			t.Check(eachUplinkOf(l, a, func(k *Link) error { return k.ImpairFromB(Impairment{}) }))
		}
		t.Check(a.Undrain(t.Context()))
		covered(t, l)
		rows = append(rows, r)
	}
	pause(t, time.Second)
	for _, s := range c.streams {
		s.StopSending()
	}
	pause(t, settle)
	inits := c.newSessions()
	t.Check(c.download.Stop())
	t.Check(c.echo.Stop())
	var sum row
	for _, r := range rows {
		c.account(r)
		if r != rows[0] {
			sum.Sent, sum.Lost, sum.Dups, sum.RTOs = sum.Sent+r.Sent, sum.Lost+r.Lost, sum.Dups+r.Dups, sum.RTOs+r.RTOs
		}
	}
	t.Metric("rows", rows)
	t.Metric("ike_sa_inits", inits)
	t.Table(drainTable(rows, highest, rate, inits))
	if rows[0].Lost != 0 || rows[0].RTOs != 0 {
		t.Errorf("control: %d packets lost, %d TCP timeouts without a move: the lab lost them", rows[0].Lost, rows[0].RTOs)
	}
	if sum.Lost != 0 || sum.Dups != 0 || sum.RTOs != 0 || inits != 0 {
		t.Errorf("%d drains: %d of %d packets lost, %d duplicates, %d TCP timeouts, %d IKE_SA_INITs, want none", campaignDrains, sum.Lost, sum.Sent, sum.Dups, sum.RTOs, inits)
	}
}

// nextOwner is the i-th appliance round the fleet, or the next one that owns a slot.
func nextOwner(t *T, l *Lab, i int) *Appliance {
	for k := range l.Appliances() {
		a := l.Appliances()[(i+k)%len(l.Appliances())]
		st, err := a.Status(t.Context())
		t.Check(err)
		if st.Appliance.SlotsActive > 0 {
			return a
		}
	}
	t.Fatalf("nobody owns a slot")
	return nil
}

func (r *row) fill(acc *v1.DrainAccount) {
	var to []string
	for _, m := range acc.Slots {
		to = append(to, fmt.Sprintf("%d>%s", m.Slot, m.To))
	}
	r.To, r.Late, r.Sessions = strings.Join(to, " "), acc.PacketsLate, acc.SessionsMoved
	r.Phases = map[string]float64{}
	for _, p := range acc.Phases {
		r.Phases[p.Phase] += p.Elapsed.AsDuration().Seconds()
	}
}

func drainTable(rows []*row, highest, rate float64, inits int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "highest loss-free rate %.0f packets/s, campaign at %.0f; %d new IKE_SAs\n", highest, rate, inits)
	fmt.Fprintf(&b, "%-16s %7s %5s %4s %5s %9s %8s %5s %8s %8s  %s\n", "phase", "sent", "lost", "dup", "RTOs", "stall ms", "echo ms", "late", "sessions", "move s", "slots")
	for _, r := range rows {
		fmt.Fprintf(&b, "%-16s %7d %5d %4d %5d %9.1f %8.1f %5d %8d %8.2f  %s\n", r.Name, r.Sent, r.Lost, r.Dups, r.RTOs, r.StallMS, r.EchoMS, r.Late, r.Sessions, r.Phases["move"], r.To)
	}
	return b.String()
}

// eachUplinkOf applies f to the appliance's links to the outside routers.
func eachUplinkOf(l *Lab, a *Appliance, f func(*Link) error) error {
	for _, r := range []string{"r1", "r2"} {
		k, err := l.Link(r, a.Name)
		if err != nil {
			return err
		}
		if err := f(k); err != nil {
			return err
		}
	}
	return nil
}

// covered waits until every owned slot has all its shadows ready.
func covered(t *T, l *Lab) {
	for _, a := range l.Appliances() {
		t.Check(a.WaitStatus(t.Context(), "every owned slot has all its shadows ready", func(s *v1.GetStatusResponse) bool {
			for _, x := range s.Slots {
				if x.Owner != a.Name {
					continue
				}
				for _, sh := range x.Shadows {
					if !sh.Ready {
						return false
					}
				}
			}
			return true
		}))
	}
}
