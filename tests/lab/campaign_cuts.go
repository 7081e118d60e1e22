package lab

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// The power-cut campaign: the machine that owns most sessions loses power at a
// random moment, again and again, while half of the clients rekey all the time. It
// is told in parts, so that each fits into a few minutes; tests/summary adds them up.
const (
	cutParts = 5
	cutsEach = 10
)

// patientBFD is for campaigns whose faults take the carrier away, which routers see
// at once: there BFD only notices what the guest's one processor did not get done.
var patientBFD = BFD{Interval: 100 * time.Millisecond, Multiplier: 10}

func init() {
	add := func(name, doc string, seed uint64, frr, ipv6 bool) {
		o := fleetOptions(ConnSpec{}).detecting()
		o.FRR = frr
		for i := range 6 {
			c := ClientSpec{Router: 1 + i%2, IPv6: ipv6}
			switch i {
			case 1, 3:
				c.Conn.ChildRekey = "5s"
			case 5:
				c.Conn.IKERekey = "8s"
			}
			o.Clients = append(o.Clients, c)
		}
		Register(Scenario{
			Name: "campaign-cuts-" + name, Doc: fmt.Sprintf("%d power cuts at random moments, clients rekeying, %s", cutsEach, doc),
			Need: fleetNeed, Options: o, Timeout: 9 * time.Minute, Bench: true,
			Run: func(t *T, l *Lab) { campaignCuts(t, l, seed) },
		})
	}
	for part := 1; part <= cutParts; part++ {
		add(fmt.Sprint(part), fmt.Sprintf("part %d of %d", part, cutParts), uint64(part), false, false)
	}
	add("frr", "FRR", 6, true, false)
	add("ipv6", "IPv6 VIP", 7, false, true)
}

// Cut is what one power cut did to one client.
type Cut struct {
	Cut         int     `json:"cut"`
	Victim      string  `json:"victim"`
	Heir        string  `json:"heir"`
	Client      string  `json:"client"`
	OutageMS    float64 `json:"outage_ms"`    // the longer of both directions
	DetectionMS float64 `json:"detection_ms"` // from the fault to the claim
	Kept        bool    `json:"session_kept"`
	// QuietMS is the time from the client's last IKE message to the fault: what is
	// newer than the last replication round trip is not guaranteed.
	QuietMS float64 `json:"quiet_ms"`
}

// replicationTrip is how long a loaded guest may take to replicate a rekey.
const replicationTrip = 500.0

// Excused reports whether a session was lost that had rekeyed right before the fault.
func (c Cut) Excused() bool { return !c.Kept && c.QuietMS < replicationTrip }

func campaignCuts(t *T, l *Lab, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	t.Check(enterAt(l, "ams"))
	fleetUp(t, l)
	c := connectAll(t, l)
	for _, x := range l.Clients() {
		s, err := l.StartStream(x, Rate{PPS: 50, Size: campaignSize})
		t.Check(err)
		c.streams = append(c.streams, s)
	}
	allReady(t, l)
	var cuts []Cut
	for i := range cutsEach {
		victim, slots := busiest(t, l)
		pause(t, time.Duration(rng.IntN(2500))*time.Millisecond)
		begin := time.Now()
		// What a machine without cables does nobody sees. Its processes are ended only
		// afterwards: that takes the guest's one processor from those that live.
		at := time.Now()
		t.Check(victim.Unplug())
		whole := time.Now()
		detection := map[uint32]time.Duration{}
		heirs := map[uint32]string{}
		for n := range slots {
			heir := owned(t, l, n, victim)
			claim, err := claimTime(t, heir, n)
			t.Check(err)
			detection[n], heirs[n] = claim.Sub(at), heir.Name
		}
		for _, s := range c.streams { // whoever cannot go on is found below
			_ = waitBriefly(t, s)
		}
		var lost []int
		for k, x := range l.Clients() {
			n := slotOf4(t, c.inner[x.Name])
			if _, hit := slots[n]; !hit {
				continue
			}
			cut := Cut{Cut: i + 1, Victim: victim.Name, Heir: heirs[n], Client: x.Name, OutageMS: -1, DetectionMS: ms(int64(detection[n]))}
			if up, down := c.streams[k].Outage(whole); up >= 0 && down >= 0 {
				cut.OutageMS = ms(int64(whole.Sub(at) + max(up, down)))
			}
			acc, err := x.IKE()
			t.Check(err)
			inner, err := x.Inner()
			cut.Kept = cut.OutageMS >= 0 && acc.Since(begin).ClientInits() == 0 && err == nil && inner.String() == c.inner[x.Name]
			cut.QuietMS = quietBefore(acc, at)
			if !cut.Kept {
				t.Logf("cut %d of %s: %s lost its session: outage %.0f ms, its last IKE message was %.0f ms before, %s, %v", i+1, victim.Name, x.Name,
					cut.OutageMS, cut.QuietMS, acc.Since(begin), err)
				if !cut.Excused() {
					t.Errorf("cut %d of %s: %s lost its session", i+1, victim.Name, x.Name)
				}
				lost = append(lost, k)
			}
			cuts = append(cuts, cut)
		}
		t.Logf("cut %d: %s went to %v", i+1, victim.Name, heirs)
		t.Check(victim.killAll())
		t.Check(victim.wipe())
		t.Check(victim.PowerOn())
		for _, k := range lost {
			t.Check(c.again(k, Rate{PPS: 50, Size: campaignSize}))
		}
		allReady(t, l)
	}
	t.Metric("seed", seed)
	t.Metric("cuts", cuts)
	t.Table(CutTable(cuts))
}

// CutTable sums up power cuts.
func CutTable(cuts []Cut) string {
	var outage, rest []float64
	lost, excused, n := 0, 0, 0
	for i, c := range cuts {
		if i == 0 || c.Cut != cuts[i-1].Cut {
			n++
		}
		if !c.Kept {
			if lost++; c.Excused() {
				excused++
			}
			continue
		}
		outage = append(outage, c.OutageMS)
		rest = append(rest, c.OutageMS-c.DetectionMS)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d power cuts, %d sessions hit, %d lost, %d of these within %.0f ms of an exchange with the client\n%-26s %8s %8s %8s\n", n, len(cuts), lost, excused,
		replicationTrip, "", "p50", "p95", "max")
	for _, x := range []struct {
		name string
		v    []float64
	}{{"outage, ms", outage}, {"outage - detection, ms", rest}} {
		if len(x.v) > 0 {
			fmt.Fprintf(&b, "%-26s %8.0f %8.0f %8.0f\n", x.name, quantile(x.v, 0.5), quantile(x.v, 0.95), quantile(x.v, 1))
		}
	}
	return b.String()
}

// quietBefore is the time from the last IKE message before t to t, in milliseconds.
func quietBefore(acc *IKEAccount, t time.Time) float64 {
	quiet := math.MaxFloat64
	for _, m := range acc.Messages {
		if m.At.Before(t) {
			quiet = ms(int64(t.Sub(m.At)))
		}
	}
	return min(quiet, 1e9)
}

// again gives a client that lost its session a new one.
func (c *crowd) again(k int, r Rate) error {
	x := c.l.Client(k)
	if err := c.streams[k].Stop(0); err != nil {
		return err
	}
	if _, err := x.SA(); err == nil { // half dead
		if err := x.Terminate(); err != nil {
			return err
		}
	}
	if _, err := x.Connect(c.t.Context()); err != nil {
		return err
	}
	a, err := x.Inner()
	if err != nil {
		return err
	}
	c.inner[x.Name] = a.String()
	c.streams[k], err = c.l.StartStream(x, r)
	return err
}

// quantile is the smallest value that at least the share q of v does not exceed.
func quantile(v []float64, q float64) float64 {
	v = slices.Sorted(slices.Values(v))
	i := int(q*float64(len(v))+0.999999) - 1
	return v[min(max(i, 0), len(v)-1)]
}

// busiest returns the appliance that owns most sessions and its slots that have any.
func busiest(t *T, l *Lab) (*Appliance, map[uint32]uint64) {
	type load struct {
		a     *Appliance
		slots map[uint32]uint64
		sum   uint64
	}
	var all []load
	for _, a := range l.Appliances() {
		st, err := a.Status(t.Context())
		t.Check(err)
		x := load{a: a, slots: map[uint32]uint64{}}
		for _, s := range st.Slots {
			if s.Owner == a.Name && s.Role == v1.Role_ROLE_OWNER && s.Sessions > 0 {
				x.slots[s.Number] = s.Sessions
				x.sum += s.Sessions
			}
		}
		all = append(all, x)
	}
	best := slices.MaxFunc(all, func(a, b load) int { return cmp.Compare(a.sum, b.sum) })
	if best.sum == 0 {
		t.Fatalf("nobody owns a session")
	}
	return best.a, best.slots
}

// slotOf4 is the slot whose pool holds an inner address.
func slotOf4(t *T, inner string) uint32 {
	var a, b, c, d uint32
	if _, err := fmt.Sscanf(inner, "%d.%d.%d.%d", &a, &b, &c, &d); err != nil {
		t.Fatalf("read inner address %q: %v", inner, err)
	}
	return (b-112)<<8 | c
}

// waitBriefly waits until the stream flows again both ways, but not for ever.
func waitBriefly(t *T, s *Stream) error {
	ctx, cancel := contextOf(t, 10*time.Second)
	defer cancel()
	return s.WaitReceived(ctx, 50)
}
