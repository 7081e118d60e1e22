package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/sa/xfrm"
)

func init() {
	o := fleetOptions(ConnSpec{})
	o.Homes = []string{"ams"} // one slot for all, however busy its owner is
	for range 12 {
		o.Clients = append(o.Clients, ClientSpec{})
	}
	Register(Scenario{
		Name: "ends", Doc: "clients end their sessions while the slot moves and while its owner dies: nobody keeps or brings back what has ended",
		Need: fleetNeed, Options: o.detecting(), Bench: true, Run: ends,
	})
}

// ends lets sessions end before, during and after both ways of changing the owner. The
// moments are spread, so that the DELETE meets every phase.
func ends(t *T, l *Lab) {
	ctx := t.Context()
	t.Check(enterAt(l, "ams"))
	fleetUp(t, l)
	p := joinAll(t, l, l.Clients(), 40)
	slot := p[0].slot
	held(t, l, slot, p)

	// Moves: what ends in one has ended, whoever was told.
	for i, to := range []string{"fra", "lhr"} {
		from := owned(t, l, slot)
		leave := p[:3]
		p = p[3:]
		var g errgroup.Group
		for k, s := range leave {
			g.Go(func() error { return s.end(ctx, time.Duration(k)*70*time.Millisecond) })
		}
		g.Go(func() error { _, err := from.Handover(ctx, slot, to, nil); return err })
		t.Check(g.Wait())
		t.Logf("move %d: %s -> %s while %d sessions ended", i+1, from.Name, to, len(leave))
		held(t, l, slot, p)
	}

	// A power cut: what ended half a second before it is known to every shadow; what ends
	// after it is the heir's to answer. What ends within the last round trip before it may
	// live on until DPD ends it, as README says, and is left out.
	victim := owned(t, l, slot)
	leave := p[:4]
	p = p[4:]
	t.Check(leave[0].end(ctx, 0))
	pause(t, 500*time.Millisecond)
	at, err := victim.PowerCut()
	t.Check(err)
	var g errgroup.Group
	for k, s := range leave[1:] {
		g.Go(func() error { return s.end(ctx, time.Duration(k)*250*time.Millisecond) })
	}
	heir := owned(t, l, slot, victim)
	t.Check(g.Wait())
	t.Logf("power cut: %s -> %s, the last of %d sessions ended after %s", victim.Name, heir.Name, len(leave), time.Since(at).Round(time.Millisecond))
	held(t, l, slot, p)
	p.control(t, l)
	t.Check(p.each(func(s *attached) error { return s.Client.RekeyIKE(ctx) }))

	// The ex-owner comes back with what it had, and brings nothing back.
	t.Check(victim.PowerOn())
	t.Check(victim.WaitReady(ctx))
	allReady(t, l)
	held(t, l, slot, p)
	p.control(t, l)
}

// end has a client end its session after a while.
func (s *attached) end(ctx context.Context, after time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(after):
	}
	s.StopSending()
	return s.Client.Terminate()
}

// held waits until every appliance that keeps the slot has the sessions of these clients
// and no others, and until charon and the kernel of each agree.
func held(t *T, l *Lab, slot uint32, p party) {
	ctx := t.Context()
	var want []string
	for _, s := range p {
		a, err := s.Inner()
		t.Check(err)
		want = append(want, a.String())
	}
	slices.Sort(want)
	for _, a := range l.Appliances() {
		if !a.daemon.Alive() {
			continue
		}
		what := fmt.Sprintf("%s to hold the sessions of %s", a.Name, strings.Join(want, ", "))
		t.Check(poll(ctx, 200*time.Millisecond, what, func() (bool, error) {
			api, err := a.API()
			if err != nil {
				return false, err
			}
			var got []string
			r, err := api.ListSessions(ctx, &v1.ListSessionsRequest{Slot: slot})
			if err != nil {
				return false, err
			}
			for _, x := range r.Sessions {
				got = append(got, x.InnerAddresses...)
			}
			slices.Sort(got)
			return slices.Equal(got, want), fmt.Errorf("it has %s", strings.Join(got, ", "))
		}))
		t.Check(poll(ctx, 200*time.Millisecond, a.Name+"'s kernel to hold their SAs alone", func() (bool, error) {
			c, err := xfrm.Open(slotNetns(t, a, slot))
			if err != nil {
				return false, err
			}
			defer c.Close()
			sas, err := c.Dump()
			if err != nil {
				return false, err
			}
			return len(sas) == 2*len(want), fmt.Errorf("it has %d SAs for %d sessions", len(sas), len(want))
		}))
	}
}
