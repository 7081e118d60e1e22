package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
)

// otherGateway is where clients are sent: another VIP of the same fleet, as when the
// first one is to be given up.
var otherGateway = netip.MustParseAddr("198.51.100.2")

// IKEv2 REDIRECT (RFC 5685) with real clients: one that follows, one after it rekeyed
// its IKE_SA, one that never said that it follows, one whose session was moved to
// another owner, and one whose slot nobody can take over when its owner is drained.
func init() {
	o := fleetOptions(ConnSpec{Cert: true})
	o.BFD, o.VIPs = patientBFD, []netip.Addr{otherGateway}
	for i := range 5 {
		c := ClientSpec{Conn: o.Conn}
		c.Conn.NoRedirect = i == 2
		o.Clients = append(o.Clients, c)
	}
	Register(Scenario{
		Name: "redirect", Doc: "clients that must leave are told where to go: who follows, who stays, what a drain does", Need: fleetNeed, Options: o,
		Bench: true, Timeout: 5 * time.Minute, Run: redirectScenario,
	})
}

func redirectScenario(t *T, l *Lab) {
	t.Check(enterAt(l, "ams"))
	for _, a := range l.Appliances() {
		a.Config.Redirect = config.Redirect{Gateway: otherGateway.String(), Drain: config.RedirectUncovered, Rate: 20}
	}
	fleetUp(t, l)
	c := connectAll(t, l)
	allReady(t, l)
	ams, follows, rekeyed, deaf, moved, uncovered := l.Appliance("ams"), l.Client(0), l.Client(1), l.Client(2), l.Client(3), l.Client(4)

	// One that follows: a new session there, the old one ended, all by itself.
	went := redirectClient(t, ams, follows)
	t.Metric("redirect_ms", ms(int64(went)))
	t.Check(rekeyed.RekeyIKE(t.Context()))
	t.Metric("redirect_after_ike_rekey_ms", ms(int64(redirectClient(t, ams, rekeyed))))

	// One that cannot be told stays, and notices nothing.
	stays(t, ams, deaf, c.inner[deaf.Name])

	// The new owner of a moved slot tells its clients too.
	slot := slotOf4(t, c.inner[moved.Name])
	_, err := ams.Handover(t.Context(), slot, "fra", nil)
	t.Check(err)
	t.Metric("redirect_after_move_ms", ms(int64(redirectClient(t, l.Appliance("fra"), moved))))
	_, err = l.Appliance("fra").Handover(t.Context(), slot, "ams", nil)
	t.Check(err)
	drainAlone(t, l, ams, uncovered)
}

// stays tells one client to leave that cannot be told, and checks that it noticed
// nothing.
func stays(t *T, a *Appliance, x *Client, innerWas string) {
	before := time.Now()
	acc, err := a.Redirect(t, &v1.RedirectRequest{Client: x.ID()})
	t.Check(err)
	if acc.Sessions != 1 || acc.Stayed != 1 {
		t.Errorf("redirect of %s at %s: %v, want one session that stayed", x.Name, a.Name, acc)
	}
	seen, err := x.IKE()
	t.Check(err)
	inner, err := x.Inner()
	if n := seen.Since(before).ClientInits(); n != 0 || err != nil || inner.String() != innerWas {
		t.Errorf("%s could not be told, and has %d new IKE_SA_INITs, inner address %v, want %s: %v", x.Name, n, inner, innerWas, err)
	}
	t.Logf("%s stayed at %s: %s", x.Name, a.Name, seen.Since(before))
}

// redirectClient tells one client to leave and returns how long it was from the call
// to its session at the other gateway.
func redirectClient(t *T, a *Appliance, x *Client) time.Duration {
	before, err := x.SA()
	t.Check(err)
	began := time.Now()
	acc, err := a.Redirect(t, &v1.RedirectRequest{Client: x.ID()})
	t.Check(err)
	if acc.Sessions != 1 || acc.Went != 1 {
		t.Errorf("redirect of %s: %v, want one client that went", x.Name, acc)
	}
	return redirected(t, x, before, began)
}

// redirected waits until x has a session at the other gateway instead of before, and
// returns how long after began its first IKE_AUTH there was answered.
func redirected(t *T, x *Client, before IKESA, began time.Time) time.Duration {
	ctx, cancel := contextOf(t, 30*time.Second)
	defer cancel()
	t.Check(poll(ctx, 100*time.Millisecond, x.Name+" at "+otherGateway.String(), func() (bool, error) {
		now, err := x.SA()
		return err == nil && now.SPIi != before.SPIi && now.RemoteHost == otherGateway.String(), err
	}))
	acc, err := x.IKE()
	t.Check(err)
	since := acc.Since(began)
	took := time.Duration(-1)
	for _, m := range since.Messages {
		if m.Exchange == IKEAuth && m.Response {
			took = m.At.Sub(began)
		}
	}
	if took < 0 {
		t.Errorf("%s: no IKE_AUTH after the redirect: %s", x.Name, since)
	}
	inner, err := x.Inner()
	t.Check(err)
	t.Logf("%s went to %s within %s: %s, inner address now %s", x.Name, otherGateway, took.Round(time.Millisecond), since, inner)
	return took
}

// drainAlone drains an appliance whose shadows are gone: nobody can take its slots, so
// the drain tells their clients where to go, and undrain ends it.
func drainAlone(t *T, l *Lab, a *Appliance, x *Client) {
	for _, o := range l.Appliances() {
		if o != a {
			_, err := o.PowerCut()
			t.Check(err)
		}
	}
	before, err := x.SA()
	t.Check(err)
	began := time.Now()
	go func() { _, _ = a.Drain(t.Context(), nil) }() // never done: its slots stay; ends with the lab
	took := redirected(t, x, before, began)
	t.Metric("redirect_by_drain_ms", ms(int64(took)))
	for _, want := range []string{"clients are told to go to another gateway", "1 clients went to the other gateway"} {
		t.Check(poll(t.Context(), 200*time.Millisecond, a.Name+" to say "+want, func() (bool, error) {
			evs, err := a.Events(t.Context())
			return slices.ContainsFunc(evs, func(e *v1.Event) bool { return e.Kind == "redirect" && strings.HasPrefix(e.Message, want) }), err
		}))
	}
	t.Check(a.Undrain(t.Context()))
	st, err := a.Standing(t.Context())
	t.Check(err)
	if st.Standing != v1.Standing_STANDING_NORMAL {
		t.Errorf("%s is %s after undrain", a.Name, strings.ToLower(st.Standing.String()))
	}
	if _, err := x.SA(); err != nil {
		t.Errorf("%s has no session after the drain was ended: %v", x.Name, err)
	}
}

// Redirect asks the appliance to tell clients to leave, and returns the account.
func (a *Appliance) Redirect(t *T, req *v1.RedirectRequest) (*v1.RedirectAccount, error) {
	c, err := a.drains()
	if err != nil {
		return nil, err
	}
	req.Appliance = a.Name
	st, err := c.Redirect(t.Context(), req)
	for err == nil {
		var r *v1.RedirectResponse
		if r, err = st.Recv(); err == nil && r.GetAccount() != nil {
			return r.GetAccount(), nil
		}
	}
	return nil, fmt.Errorf("redirect clients of %s: %w", a.Name, err)
}
