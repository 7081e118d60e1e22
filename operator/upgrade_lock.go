package operator

import (
	"context"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// UpgradeLockSource is the fleet-wide upgrade lock.
type UpgradeLockSource interface {
	Acquire(ctx context.Context, ttl time.Duration, reason string) (*v1.UpgradeLock, error)
	Release(ctx context.Context) (*v1.UpgradeLock, error)
	Show(ctx context.Context) (*v1.UpgradeLock, error)
}

// upgradeLocks answers UpgradeLockService.
type upgradeLocks struct {
	v1.UnimplementedUpgradeLockServiceServer
	*service
}

func (u upgradeLocks) AcquireUpgradeLock(ctx context.Context, req *v1.AcquireUpgradeLockRequest) (*v1.UpgradeLock, error) {
	if len(req.Reason) > maxReason {
		return nil, Invalid("REASON_INVALID", "reason: at most %d characters", maxReason)
	}
	if req.Ttl.CheckValid() != nil {
		return nil, Invalid("TIME_INVALID", "ttl is no valid time")
	}
	l, err := u.backend.UpgradeLock.Acquire(ctx, req.Ttl.AsDuration(), req.Reason)
	u.audit(ctx, "upgrade-lock.acquire", 0, err, map[string]string{"reason": req.Reason, "ttl": req.Ttl.AsDuration().String()})
	return l, err
}

func (u upgradeLocks) ReleaseUpgradeLock(ctx context.Context, _ *v1.ReleaseUpgradeLockRequest) (*v1.UpgradeLock, error) {
	l, err := u.backend.UpgradeLock.Release(ctx)
	u.audit(ctx, "upgrade-lock.release", 0, err, map[string]string{})
	return l, err
}

func (u upgradeLocks) GetUpgradeLock(ctx context.Context, _ *v1.GetUpgradeLockRequest) (*v1.UpgradeLock, error) {
	return u.backend.UpgradeLock.Show(ctx)
}
