package node

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/ssm"
)

// drains answers the operator API's DrainService.
type drains struct{ a *Appliance }

func (d drains) Name() string { return d.a.cfg.Node }

func (d drains) Standing(ctx context.Context) (*v1.GetStandingResponse, error) {
	v, err := d.a.view(ctx)
	if err != nil {
		return nil, err
	}
	r := &v1.GetStandingResponse{Appliance: d.a.cfg.Node, Standing: standingProto(v.Standing), Risk: v.Risk, Load: v.Load, Sessions: uint64(v.Sessions),
		VipLevel: string(v.Level), DrainPhase: string(v.DrainPhase)}
	if !v.Since.IsZero() {
		r.Since = timestamppb.New(v.Since)
	}
	if v.Drain != 0 {
		r.DrainSince = timestamppb.New(v.DrainSince)
	}
	for _, s := range v.Sources {
		r.Sources = append(r.Sources, &v1.StandingSource{Source: s.Source, Standing: standingProto(s.Standing), Reason: s.Reason, Causes: s.Causes, Hard: s.Hard})
	}
	return r, nil
}

func standingProto(s ssm.Standing) v1.Standing { return v1.Standing(s) + v1.Standing_STANDING_NORMAL }

func (d drains) Plan(ctx context.Context) (*v1.PlanDrainResponse, error) {
	var p ssm.DrainPlan
	if err := d.a.ask(ctx, func(c *ssm.Core) { p = c.Plan() }); err != nil {
		return nil, err
	}
	r := &v1.PlanDrainResponse{Appliance: d.a.cfg.Node, SessionsMayStay: durationpb.New(p.Linger), Takes: durationpb.New(p.Took), LastAnnouncer: p.Last}
	for _, s := range p.Slots {
		m := &v1.PlannedMove{Slot: uint32(s.Slot), Sessions: uint64(s.Sessions), To: string(s.To), Problem: s.Problem}
		for _, x := range s.Candidates {
			c := &v1.SuccessorCandidate{Appliance: string(x.Node), Problem: x.Problem, Cost: x.Cost, Standing: standingProto(x.Standing), Risk: x.Risk,
				Load: x.Load, Slots: uint32(x.Slots)}
			if x.RTT > 0 {
				c.Rtt = durationpb.New(x.RTT)
			}
			m.Candidates = append(m.Candidates, c)
		}
		r.Moves = append(r.Moves, m)
	}
	return r, nil
}

// Drain asks for a drain, or joins the one under way, and follows it.
func (d drains) Drain(ctx context.Context, reason string, maintenance bool, progress func(*v1.DrainProgress)) (*v1.DrainAccount, error) {
	a := d.a
	reports, leave := a.moves.join()
	defer leave()
	v, err := a.view(ctx)
	if err != nil {
		return nil, err
	}
	id := v.Drain
	began := time.Now()
	if id == 0 {
		id = uint64(began.UnixNano())
	}
	source := ssm.SourceOperator
	if maintenance {
		source = ssm.SourceMaintenance
	}
	if err := a.keepStanding(source, asked{Standing: ssm.StandingDraining, Reason: reason, Since: began}); err != nil {
		return nil, err
	}
	a.post(ssm.EvStanding{Source: source, Standing: ssm.StandingDraining, Reason: reason, Drain: id})
	if v.DrainPhase == ssm.DrainDone {
		// It is over already: there is nothing to wait for.
		return &v1.DrainAccount{Appliance: a.cfg.Node, Drained: true, VipLevel: string(v.Level), Elapsed: durationpb.New(0)}, nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case r := <-reports:
			progress(&v1.DrainProgress{Phase: r.Phase, Slot: uint32(r.Slot), Message: r.Text, Reason: r.Reason, Warning: r.Warn,
				Elapsed: durationpb.New(time.Since(began))})
			if r.Account == nil {
				continue
			}
			// The one before may have ended when this one was asked for.
			if v, err := a.view(ctx); err == nil && r.Phase != string(ssm.DrainDone) && v.Standing >= ssm.StandingDraining {
				continue
			}
			return d.account(ctx, r)
		}
	}
}

// stopDrain drains before the daemon ends, if that is configured.
func (a *Appliance) stopDrain(ctx context.Context) {
	limit := a.cfg.Fleet.Handover.StopDrain
	if limit == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	a.post(ssm.EvStanding{Source: ssm.SourceStop, Standing: ssm.StandingDraining, Reason: "the daemon is about to end", Deadline: limit})
	for {
		v, err := a.view(ctx)
		if err == nil && v.DrainPhase == ssm.DrainDone {
			return
		}
		select {
		case <-ctx.Done():
			a.events.Add(Entry{Kind: "stop", Warn: true, Text: "the daemon ends before it is drained",
				Reason: "stop_drain of " + limit.String() + " is over in phase " + string(v.DrainPhase)})
			return
		case <-time.After(a.tickInterval()):
		}
	}
}

func (d drains) account(ctx context.Context, r ssm.ActReport) (*v1.DrainAccount, error) {
	x := r.Account
	acc := &v1.DrainAccount{Appliance: d.a.cfg.Node, Drained: r.Phase == string(ssm.DrainDone), SessionsMoved: uint64(x.Sessions), PacketsLate: x.Late,
		PacketsStillEnter: x.Entered, ClientsRedirected: uint64(x.Redirected), Elapsed: durationpb.New(x.Total)}
	for i, s := range x.Slots {
		acc.Slots = append(acc.Slots, &v1.MovedSlot{Slot: uint32(s), To: string(x.To[i])})
	}
	for _, p := range x.Phases {
		acc.Phases = append(acc.Phases, &v1.DrainPhaseTime{Phase: string(p.Phase), Elapsed: durationpb.New(p.Took)})
	}
	v, err := d.a.view(ctx)
	if err != nil {
		return nil, err
	}
	acc.VipLevel = string(v.Level)
	return acc, nil
}

// Undrain takes back what an operator asked for.
func (d drains) Undrain(ctx context.Context) (*v1.UndrainResponse, error) {
	for _, source := range []string{ssm.SourceMaintenance, ssm.SourceOperator} {
		if err := d.a.keepStanding(source, asked{}); err != nil {
			return nil, err
		}
		d.a.post(ssm.EvStanding{Source: source, Standing: ssm.StandingNormal, Reason: "the operator ended the drain"})
	}
	v, err := d.a.view(ctx)
	if err != nil {
		return nil, err
	}
	var why []string
	for _, s := range v.Sources {
		why = append(why, s.Source+": "+s.Reason)
	}
	return &v1.UndrainResponse{Standing: standingProto(v.Standing), Reason: strings.Join(why, "; ")}, nil
}
