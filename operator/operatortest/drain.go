package operatortest

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/operator"
)

// Drains is the fake's DrainSource: every slot that it owns goes to the first
// ready shadow at once.
type Drains struct{ *Fake }

func (d Drains) Name() string { return d.Node.GetName() }

func (d Drains) Standing(context.Context) (*v1.GetStandingResponse, error) {
	r := &v1.GetStandingResponse{Appliance: d.Node.GetName(), Standing: v1.Standing_STANDING_NORMAL, VipLevel: "normal"}
	if d.drained {
		r.Standing, r.VipLevel, r.DrainPhase = v1.Standing_STANDING_DRAINING, "withdrawn", "done"
	}
	return r, d.Err
}

func (d Drains) Plan(ctx context.Context) (*v1.PlanDrainResponse, error) {
	slots, err := d.Slots(ctx)
	if err != nil {
		return nil, err
	}
	p := &v1.PlanDrainResponse{Appliance: d.Node.GetName(), SessionsMayStay: durationpb.New(time.Minute), Takes: durationpb.New(5 * time.Second)}
	for _, s := range slots {
		if s.Owner != d.Node.GetName() {
			continue
		}
		m := &v1.PlannedMove{Slot: s.Number, Sessions: s.Sessions, Problem: "it has no shadow"}
		for _, sh := range s.Shadows {
			c := &v1.SuccessorCandidate{Appliance: sh.Name, Problem: sh.Reason, Cost: 1.5}
			m.Candidates = append(m.Candidates, c)
			if sh.Ready && m.To == "" {
				m.To, m.Problem = sh.Name, ""
			}
		}
		p.Moves = append(p.Moves, m)
	}
	return p, nil
}

func (d Drains) Drain(ctx context.Context, reason string, _ bool, progress func(*v1.DrainProgress)) (*v1.DrainAccount, error) {
	p, err := d.Plan(ctx)
	if err != nil {
		return nil, err
	}
	acc := &v1.DrainAccount{Appliance: p.Appliance, Drained: true, VipLevel: "withdrawn", Elapsed: durationpb.New(5 * time.Second)}
	progress(&v1.DrainProgress{Phase: "prepare", Message: "drain: prepare", Reason: reason, Elapsed: durationpb.New(0)})
	for _, m := range p.Moves {
		if m.To != "" {
			acc.Slots = append(acc.Slots, &v1.MovedSlot{Slot: m.Slot, To: m.To})
			acc.SessionsMoved += m.Sessions
		}
	}
	acc.Phases = []*v1.DrainPhaseTime{{Phase: "prepare", Elapsed: durationpb.New(time.Second)}, {Phase: "move", Elapsed: durationpb.New(4 * time.Second)}}
	d.drained = true
	return acc, nil
}

func (d Drains) Undrain(context.Context) (*v1.UndrainResponse, error) {
	d.drained = false
	return &v1.UndrainResponse{Standing: v1.Standing_STANDING_NORMAL}, d.Err
}

// Redirect tells every session of the fake, of which the first stays.
func (d Drains) Redirect(ctx context.Context, req *v1.RedirectRequest, progress func(*v1.RedirectProgress)) (*v1.RedirectAccount, error) {
	acc := &v1.RedirectAccount{Appliance: d.Node.GetName(), Gateway: req.Gateway, Elapsed: durationpb.New(time.Second)}
	if d.Err != nil {
		return nil, d.Err
	}
	if acc.Gateway == "" {
		return nil, operator.Invalid("GATEWAY_MISSING", "gateway: neither given nor configured (redirect.gateway): where shall the clients go?")
	}
	of := uint64(len(d.sessions))
	acc.Sessions = of
	for i, s := range d.sessions {
		if req.DryRun {
			continue
		}
		progress(&v1.RedirectProgress{Slot: s.Summary.Slot, Client: s.Summary.Identity, Told: uint64(i + 1), Of: of})
		if i == 0 {
			acc.Stayed++
		} else {
			acc.Went++
		}
	}
	return acc, nil
}
