package operator

import (
	"context"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// RegistrarSource shows and changes who keeps the ticket log.
type RegistrarSource interface {
	List(ctx context.Context) (*v1.Registrars, error)
	Add(ctx context.Context, appliance string) (*v1.Registrars, error)
	Remove(ctx context.Context, appliance string) (*v1.Registrars, error)
}

// registrars answers RegistrarService.
type registrars struct {
	v1.UnimplementedRegistrarServiceServer
	*service
}

func (r registrars) ListRegistrars(ctx context.Context, _ *v1.ListRegistrarsRequest) (*v1.Registrars, error) {
	return r.backend.Registrars.List(ctx)
}

func (r registrars) AddRegistrar(ctx context.Context, req *v1.AddRegistrarRequest) (*v1.Registrars, error) {
	if req.Appliance == "" {
		return nil, Invalid("APPLIANCE_INVALID", "name of the appliance is missing")
	}
	l, err := r.backend.Registrars.Add(ctx, req.Appliance)
	r.audit(ctx, "registrar.add", 0, err, map[string]string{"appliance": req.Appliance})
	return l, err
}

func (r registrars) RemoveRegistrar(ctx context.Context, req *v1.RemoveRegistrarRequest) (*v1.Registrars, error) {
	if req.Appliance == "" {
		return nil, Invalid("APPLIANCE_INVALID", "name of the appliance is missing")
	}
	l, err := r.backend.Registrars.Remove(ctx, req.Appliance)
	r.audit(ctx, "registrar.remove", 0, err, map[string]string{"appliance": req.Appliance})
	return l, err
}
