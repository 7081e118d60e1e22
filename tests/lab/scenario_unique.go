package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// One user with two machines under unique = replace. The first comes in at ams and lands in
// its slot, the second at fra: whoever connects last goes on, whoever owns the slot of
// the other.
func init() {
	o := fleetOptions(ConnSpec{Unique: "replace"})
	user := o.Conn
	user.As = "user"
	o.Clients = []ClientSpec{{Router: 1, Conn: user}, {Router: 2, Conn: user}}
	Register(Scenario{
		Name: "unique", Doc: "a user's second session, in another slot, ends the first: at its owner, at an heir, and while the slot has no owner",
		Need: fleetNeed, Options: o, Bench: true, Timeout: 5 * time.Minute, Run: unique,
	})
}

func unique(t *T, l *Lab) {
	ctx := t.Context()
	t.Check(enterAt(l, "ams"))
	fleetUp(t, l)
	ams, fra := l.Appliance("ams"), l.Appliance("fra")
	// What comes from the second machine enters at fra, whatever BGP says.
	t.Check(l.Node("r2").route(netip.PrefixFrom(VIP, VIP.BitLen()), netip.Addr{}, host(linkNet(2, fra.N), 2)))

	// Between two owners, there and back.
	a := join(t, l, 0)
	b := replaces(t, l, a, 1, "replaced", nil)
	a = replaces(t, l, b, 0, "replaced_back", nil)

	// The first machine's session goes on at an heir, which ends it.
	cut, victim := powerCut(t, l, a, "power-cut")
	kept(t, cut)
	t.Logf("slot %d: %s -> %s", a.slot, victim.Name, owned(t, l, a.slot, victim).Name)
	b = replaces(t, l, a, 1, "replaced_at_heir", nil)

	// The user comes back while the slot has no owner: whoever takes it over knows.
	t.Check(victim.PowerOn())
	allReady(t, l)
	if o := owned(t, l, a.slot); o != ams {
		_, err := o.Handover(ctx, a.slot, ams.Name, nil)
		t.Check(err)
		allReady(t, l)
	}
	t.Check(l.leads(ctx, "r1", VIP, host(linkNet(1, ams.N), 2)))
	a = replaces(t, l, b, 0, "replaced_again", nil)
	replaces(t, l, a, 1, "replaced_without_owner", func() {
		_, err := ams.PowerCut()
		t.Check(err)
	})
}

// replaces has machine i connect after fault, which may be nil, and waits until the session
// of was has ended for it: at the owner of its slot, which says so, and at the shadows. The
// new one loses nothing.
func replaces(t *T, l *Lab, was *attached, i int, name string, fault func()) *attached {
	ctx := t.Context()
	was.StopSending()
	if fault != nil {
		fault()
	}
	began := time.Now()
	_, err := l.clients[i].Connect(ctx)
	t.Check(err)
	s := attach(t, l, l.clients[i])
	if s.slot == was.slot {
		t.Fatalf("%s and %s are both in slot %d, want two", was.Name, s.Name, s.slot)
	}
	t.Check(poll(ctx, 20*time.Millisecond, fmt.Sprintf("the owner of slot %d to end the session of %s", was.slot, was.Name), func() (bool, error) {
		o := owner(t, l, was.slot)
		if o == nil {
			return false, errors.New("the slot has no owner")
		}
		evs, err := o.Events(ctx)
		j := slices.IndexFunc(evs, func(e *v1.Event) bool {
			return e.Kind == "unique" && e.Slot == was.slot && e.Severity == v1.Severity_SEVERITY_INFO && e.Time.AsTime().After(began)
		})
		if j >= 0 {
			took := evs[j].Time.AsTime().Sub(began)
			t.Metric(name+"_ms", ms(int64(took)))
			t.Logf("%s: %s in slot %d, %s after %s began to connect in slot %d: %s says %s (%s)", name, was.Name, was.slot, took.Round(time.Millisecond),
				s.Name, s.slot, o.Name, evs[j].Message, evs[j].Reason)
		}
		return j >= 0, err
	}))
	held(t, l, was.slot, nil)
	t.Check(was.Stop(0))
	if sa, err := was.SA(); err == nil {
		t.Errorf("%s still has a session: %s", was.Name, sa)
	}
	allReady(t, l)
	// From its first packet on, while the other one ended.
	if r := s.Report(time.Time{}, time.Now().Add(-time.Second)); r.Lost() != 0 || r.Sent() == 0 {
		t.Errorf("%s: %s, want no packet of %s lost since it connected", name, r, s.Name)
	}
	control(t, l, s)
	return s
}

// attach gives a client that is connected its traffic.
func attach(t *T, l *Lab, c *Client) *attached {
	sa, err := c.SA()
	t.Check(err)
	slot, err := slotOfSPI(sa.Installed()[0].Out)
	t.Check(err)
	st, err := l.StartStream(c, Rate{PPS: 125, Size: 200})
	t.Check(err)
	s := &attached{Client: c, Stream: st, slot: slot}
	t.Check(s.WaitReceived(t.Context(), 100))
	return s
}
