package lab

import (
	"strings"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// The flap loop: where a router tears BFD down together with BGP, or an appliance does,
// the other side expires and resets BGP again, and one failure never ends. Here a link
// goes silent with its carrier on, so that only BFD can tell, and is cut besides; each
// failure must be one loss of the session, and the session must come back.
func init() {
	for _, x := range []struct {
		name      string
		frr, ipv6 bool
	}{{"routers-flap-bird", false, false}, {"routers-flap-frr", true, false}, {"routers-flap-ipv6", false, true}} {
		o := fleetOptions(ConnSpec{Cert: true}).detecting()
		o.FRR = x.frr
		o.Clients = []ClientSpec{{IPv6: x.ipv6, Conn: o.Conn}}
		Register(Scenario{
			Name: x.name, Doc: "a link goes silent or is cut, four times: each is one loss of the BGP session, and it comes back",
			Need: fleetNeed, Options: o, Bench: true, Timeout: 4 * time.Minute, Run: flapLoop,
		})
	}
}

// backWithin is how soon a session must be up again, BFD included, once its link is:
// connect and error timers of GoBGP, BIRD and FRR together take up to 14 s.
const backWithin = 30 * time.Second

// calmFor is how long nothing may happen then: the loop took a second and a half a turn.
const calmFor = 6 * time.Second

func flapLoop(t *T, l *Lab) {
	s, o := start(t, l)
	k, err := l.Link("r1", o.Name)
	t.Check(err)
	silent := func() (func() error, error) { return k.Blackhole() }
	cut := func() (func() error, error) { return k.Restore, k.Cut() }
	for _, f := range []struct {
		name  string
		for_  time.Duration
		fault func() (func() error, error)
	}{{"silent for 1 s", time.Second, silent}, {"silent for 4 s", 4 * time.Second, silent}, {"cut for 50 ms", 50 * time.Millisecond, cut}, {"cut for 3 s", 3 * time.Second, cut}} {
		from := time.Now()
		var up time.Time
		sc := scene(t, l, s, f.name, func(ob *Observation) {
			ob.Fault(time.Now(), f.name)
			undo, err := f.fault()
			t.Check(err)
			pause(t, f.for_)
			t.Check(undo())
			up = time.Now()
			ctx, cancel := contextOf(t, backWithin)
			defer cancel()
			t.Check(poll(ctx, 100*time.Millisecond, "sessions and BFD of "+o.Name+" with r1", func() (bool, error) { return bothUp(t, o, "r1") }))
		})
		kept(t, sc)
		back := time.Since(up) - settle
		pause(t, calmFor)
		downs := sessionDowns(t, o, "r1", from)
		for _, peer := range []string{"r1", "r1" + peer6} {
			if n := len(downs[peer]); n > 1 {
				t.Errorf("%s: the session of %s with %s was lost %d times, want once: %v", f.name, o.Name, peer, n, downs[peer])
			}
		}
		t.Logf("%s: back after %s, lost %v", f.name, back.Round(time.Millisecond), downs)
		if ok, err := bothUp(t, o, "r1"); err != nil || !ok {
			t.Errorf("%s: the session of %s with r1 did not stay up: %v", f.name, o.Name, err)
		}
	}
}

// bothUp reports whether BGP and BFD of every session with the router are up.
func bothUp(t *T, a *Appliance, router string) (bool, error) {
	api, err := a.API()
	if err != nil {
		return false, err
	}
	r, err := api.GetBGP(t.Context(), &v1.GetBGPRequest{})
	if err != nil {
		return false, err
	}
	for _, p := range r.Peers {
		if strings.TrimSuffix(p.Name, peer6) == router && (p.State != "established" || p.Bfd != "up") {
			return false, nil
		}
	}
	return true, nil
}

// sessionDowns are the reasons of the losses of a router's sessions since from.
func sessionDowns(t *T, a *Appliance, router string, from time.Time) map[string][]string {
	evs, err := a.Events(t.Context())
	t.Check(err)
	out := map[string][]string{}
	for _, e := range evs {
		for _, peer := range []string{router, router + peer6} {
			if e.Kind == "bgp" && e.Message == "BGP session with "+peer+" is down" && e.Time.AsTime().After(from) {
				out[peer] = append(out[peer], e.Reason)
			}
		}
	}
	return out
}
