package operator

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/sa"
)

// maxRedirectRate bounds the clients told in a second.
const maxRedirectRate = 1000

// maxReason bounds what a caller may give as a reason.
const maxReason = 256

// DrainSource drains this appliance.
type DrainSource interface {
	// Name is the appliance's own.
	Name() string
	Standing(ctx context.Context) (*v1.GetStandingResponse, error)
	Plan(ctx context.Context) (*v1.PlanDrainResponse, error)
	// Drain begins or joins a drain and returns when it is over. Until then it
	// calls progress, never concurrently. ctx ends when the daemon stops.
	Drain(ctx context.Context, reason string, maintenance bool, progress func(*v1.DrainProgress)) (*v1.DrainAccount, error)
	Undrain(ctx context.Context) (*v1.UndrainResponse, error)
	// Redirect tells clients to go to another gateway and returns when it is known
	// what became of them, or when ctx ends. It calls progress, never concurrently.
	Redirect(ctx context.Context, req *v1.RedirectRequest, progress func(*v1.RedirectProgress)) (*v1.RedirectAccount, error)
}

// maxBehind bounds the steps that a caller may lag behind; later ones are left out.
const maxBehind = 256

// relay hands what is reported to send, so that a caller who does not read holds up
// nobody but itself. said waits until everything is sent or the caller is gone, and must
// be called before anything else is sent.
func relay[T any](send func(T) error) (report func(T), said func()) {
	queue, done := make(chan T, maxBehind), make(chan struct{})
	go func() {
		defer close(done)
		for x := range queue {
			_ = send(x) // who hangs up stops hearing, no more
		}
	}()
	return func(x T) {
			select {
			case queue <- x:
			default:
			}
		}, func() {
			close(queue)
			<-done
		}
}

// drains answers DrainService.
type drains struct {
	v1.UnimplementedDrainServiceServer
	*service
}

// here refuses a call that is meant for another appliance.
func (d drains) here(name string) error {
	if own := d.backend.Drains.Name(); name != own {
		return Refused("NOT_HERE", "this is %s: ask the daemon of %s itself", own, name).With("appliance", own)
	}
	return nil
}

func (d drains) named(name string) error {
	if name == "" || len(name) > maxID {
		return Invalid("APPLIANCE_INVALID", "appliance: want its name")
	}
	return d.here(name)
}

func (d drains) GetStanding(ctx context.Context, _ *v1.GetStandingRequest) (*v1.GetStandingResponse, error) {
	return d.backend.Drains.Standing(ctx)
}

func (d drains) PlanDrain(ctx context.Context, req *v1.PlanDrainRequest) (*v1.PlanDrainResponse, error) {
	if req.Appliance != "" {
		if err := d.named(req.Appliance); err != nil {
			return nil, err
		}
	}
	return d.backend.Drains.Plan(ctx)
}

func (d drains) Drain(req *v1.DrainRequest, stream grpc.ServerStreamingServer[v1.DrainResponse]) error {
	if err := d.named(req.Appliance); err != nil {
		return err
	}
	if len(req.Reason) > maxReason {
		return Invalid("REASON_INVALID", "reason: at most %d characters", maxReason)
	}
	attrs := map[string]string{"reason": req.Reason, "outcome": "asked"}
	if req.Maintenance {
		attrs["maintenance"] = "true"
	}
	d.audit(stream.Context(), "drain", 0, nil, attrs)
	why := who(stream.Context()) + " asked for it"
	if req.Reason != "" {
		why = req.Reason + ", asked for by " + who(stream.Context())
	}
	// A caller that hangs up stops hearing, not the drain.
	progress, said := relay(func(p *v1.DrainProgress) error {
		return stream.Send(&v1.DrainResponse{Event: &v1.DrainResponse_Progress{Progress: p}})
	})
	account, err := d.backend.Drains.Drain(d.life, why, req.Maintenance, progress)
	if err != nil && d.life.Err() != nil && errors.Is(err, context.Canceled) {
		err = status.Errorf(codes.Unavailable, "the daemon stopped in the middle of the drain: %v", err)
	}
	d.audit(stream.Context(), "drain", 0, err, map[string]string{"reason": req.Reason})
	said()
	if err != nil {
		return err
	}
	return stream.Send(&v1.DrainResponse{Event: &v1.DrainResponse_Account{Account: account}})
}

func (d drains) Undrain(ctx context.Context, req *v1.UndrainRequest) (*v1.UndrainResponse, error) {
	if err := d.named(req.Appliance); err != nil {
		return nil, err
	}
	r, err := d.backend.Drains.Undrain(ctx)
	d.audit(ctx, "undrain", 0, err, map[string]string{})
	return r, err
}

func (d drains) Redirect(req *v1.RedirectRequest, stream grpc.ServerStreamingServer[v1.RedirectResponse]) error {
	if err := d.named(req.Appliance); err != nil {
		return err
	}
	if req.Slot != 0 {
		if _, err := slotNumber(req.Slot); err != nil {
			return err
		}
	}
	if len(req.Gateway) > maxID || len(req.Client) > maxID || len(req.Vip) > maxID {
		return Invalid("REDIRECT_INVALID", "gateway, vip and client have at most %d characters", maxID)
	}
	if req.Rate > maxRedirectRate {
		return Invalid("RATE_INVALID", "rate: %d clients a second, want at most %d", req.Rate, maxRedirectRate)
	}
	progress, said := relay(func(p *v1.RedirectProgress) error {
		return stream.Send(&v1.RedirectResponse{Event: &v1.RedirectResponse_Progress{Progress: p}})
	})
	account, err := d.backend.Drains.Redirect(stream.Context(), req, progress)
	if !req.DryRun {
		d.audit(stream.Context(), "redirect", sa.Slot(req.Slot), err, map[string]string{"gateway": account.GetGateway(), "vip": req.Vip, "client": req.Client})
	}
	said()
	if err != nil {
		return err
	}
	return stream.Send(&v1.RedirectResponse{Event: &v1.RedirectResponse_Account{Account: account}})
}
