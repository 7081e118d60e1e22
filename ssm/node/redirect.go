package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/ssm"
)

const (
	// A client that follows begins a session at the other gateway and then ends the
	// one here; it may take that many tries to reach the gateway.
	redirectWent = 25 * time.Second
	// redirectPatience is half_open_timeout, after which charon ends the session of a
	// client that acknowledged and did not go, and a margin.
	redirectPatience = 35 * time.Second
	redirectLook     = 500 * time.Millisecond
)

// redirectOrder says whom to tell what.
type redirectOrder struct {
	gateway string
	rate    int        // clients a second
	vip     netip.Addr // clients of this VIP only; zero: all
	client  string     // only the one of this outer or inner address, or identity; "": all
}

// concerns reports whether the client of s is to be told. One that is at the gateway
// already would come back: it is not.
func (o redirectOrder) concerns(s charon.IKESA) bool {
	if s.State != "ESTABLISHED" || s.Local.Addr().String() == o.gateway || o.vip.IsValid() && s.Local.Addr() != o.vip {
		return false
	}
	if o.client == "" || o.client == s.Remote.Addr().String() || o.client == s.RemoteID || o.client == s.RemoteEAPID {
		return true
	}
	for _, a := range s.RemoteVIPs {
		if o.client == a.String() {
			return true
		}
	}
	return false
}

// redirectTally is what became of the clients of one slot.
type redirectTally struct{ sessions, went, ended, stayed int }

// viciRedirect is what a redirect asks charon; *charon.Vici.
type viciRedirect interface {
	ListSAs(ctx context.Context, blocking bool) ([]charon.IKESA, error)
	Redirect(ctx context.Context, t charon.Target, gateway string) (int, error)
}

// tellClients tells the clients of one charon, at the order's rate, and waits for what
// becomes of them. turn is held while clients are told. told is called for each.
func tellClients(ctx context.Context, turn chan struct{}, v viciRedirect, o redirectOrder, told func(s charon.IKESA, n, of int)) (t redirectTally, err error) {
	at := map[uint32]time.Time{} // by unique id
	err = func() error {
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-turn }()
		sas, err := clientsOf(ctx, v, o)
		if err != nil {
			return err
		}
		t.sessions = len(sas)
		pace := time.NewTicker(time.Second / time.Duration(o.rate))
		defer pace.Stop()
		for i, s := range sas {
			if i > 0 {
				select {
				case <-pace.C:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			n, err := v.Redirect(ctx, charon.Target{ID: s.UniqueID}, o.gateway)
			if err != nil && !errors.Is(err, charon.ErrRefused) { // refused: it has just ended
				return err
			}
			if n > 0 {
				at[s.UniqueID] = time.Now()
			}
			told(s, i+1, len(sas))
		}
		return nil
	}()
	if err != nil {
		return t, err
	}
	for len(at) > 0 {
		sas, err := v.ListSAs(ctx, true)
		if err != nil {
			return t, err
		}
		here := map[uint32]bool{}
		for _, s := range sas {
			here[s.UniqueID] = true
		}
		for id, since := range at {
			switch took := time.Since(since); {
			case !here[id] && took < redirectWent:
				t.went++
			case !here[id]:
				t.ended++
			case took > redirectPatience:
				t.stayed++
			default:
				continue
			}
			delete(at, id)
		}
		select {
		case <-ctx.Done():
			return t, ctx.Err()
		case <-time.After(redirectLook):
		}
	}
	return t, nil
}

func clientsOf(ctx context.Context, v viciRedirect, o redirectOrder) (out []charon.IKESA, err error) {
	sas, err := v.ListSAs(ctx, true)
	for _, s := range sas {
		if o.concerns(s) {
			out = append(out, s)
		}
	}
	return out, err
}

// redirect carries out what a drain asks for.
func (r *slotRuntime) redirect(x ssm.ActRedirect) {
	r.endRedirect()
	if x.Stop || r.mode != modeOwner {
		return
	}
	ctx, cancel := context.WithCancel(r.ctx)
	r.stay = cancel
	vici, c := r.vici, r.a.cfg.Redirect
	r.group.Go(func() error {
		defer cancel()
		t, err := tellClients(ctx, r.a.redirects, vici, redirectOrder{gateway: c.Gateway, rate: c.Rate}, func(charon.IKESA, int, int) {})
		r.a.post(ssm.EvRedirected{Slot: r.n, Drain: x.Drain, Went: t.went, Ended: t.ended, Stayed: t.stayed, Err: errText(err)})
		return nil
	})
}

func (r *slotRuntime) endRedirect() {
	if r.stay != nil {
		r.stay()
		r.stay = nil
	}
}

// Redirect answers the operator: it tells clients of the slots that are owned here.
func (d drains) Redirect(ctx context.Context, req *v1.RedirectRequest, progress func(*v1.RedirectProgress)) (*v1.RedirectAccount, error) {
	a, began := d.a, time.Now()
	o := redirectOrder{gateway: req.Gateway, rate: int(req.Rate), client: req.Client}
	if o.gateway == "" {
		o.gateway = a.cfg.Redirect.Gateway
	}
	if o.gateway == "" {
		return nil, operator.Invalid("GATEWAY_MISSING", "gateway: neither given nor configured (redirect.gateway): where shall the clients go?")
	}
	if wrong := config.GatewayProblem(o.gateway, &a.cfg.Fleet); wrong != "" {
		return nil, operator.Invalid("GATEWAY_INVALID", "gateway: %s", wrong)
	}
	if o.rate == 0 {
		o.rate = max(a.cfg.Redirect.Rate, 1)
	}
	if req.Vip != "" {
		var err error
		if o.vip, err = netip.ParseAddr(req.Vip); err != nil {
			return nil, operator.Invalid("VIP_INVALID", "vip: %q is no address", req.Vip)
		}
	}
	v, err := a.view(ctx)
	if err != nil {
		return nil, err
	}
	acc := &v1.RedirectAccount{Appliance: a.cfg.Node, Gateway: o.gateway}
	for _, s := range v.Slots {
		if s.Role != ssm.RoleOwner || req.Slot != 0 && sa.Slot(req.Slot) != s.Slot {
			continue
		}
		r := a.places.at(s.Slot)
		if r == nil {
			continue // it was left meanwhile
		}
		vici := ask(ctx, r.queue, func() *charon.Vici { return r.vici })
		if vici == nil {
			continue // the daemon stops
		}
		if req.DryRun {
			sas, err := clientsOf(ctx, vici, o)
			if err != nil {
				return nil, err
			}
			acc.Sessions += uint64(len(sas))
			continue
		}
		t, err := tellClients(ctx, a.redirects, vici, o, func(s charon.IKESA, n, of int) {
			progress(&v1.RedirectProgress{Slot: uint32(r.n), Client: s.RemoteID + " at " + s.Remote.Addr().String(), Told: uint64(n), Of: uint64(of)})
		})
		if t.sessions > 0 {
			x := ssm.EvRedirected{Went: t.went, Ended: t.ended, Stayed: t.stayed}
			a.events.Add(Entry{Slot: r.n, Kind: "redirect", Text: x.String(), Warn: err != nil || t.ended+t.stayed > 0,
				Reason: fmt.Sprintf("the operator told %d clients to go to %s", t.sessions, o.gateway)})
		}
		acc.Sessions, acc.Went, acc.Ended, acc.Stayed = acc.Sessions+uint64(t.sessions), acc.Went+uint64(t.went), acc.Ended+uint64(t.ended), acc.Stayed+uint64(t.stayed)
		if err != nil {
			return nil, fmt.Errorf("redirect clients of slot %d: %w", r.n, err)
		}
	}
	acc.Elapsed = durationpb.New(time.Since(began))
	return acc, nil
}

func redirectOf(c config.Redirect) ssm.Redirect {
	switch c.Drain {
	case config.RedirectUncovered:
		return ssm.RedirectUncovered
	case config.RedirectAll:
		return ssm.RedirectAll
	}
	return ssm.RedirectNever
}
