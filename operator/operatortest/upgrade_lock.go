package operatortest

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/operator"
)

// UpgradeLock is the fake's UpgradeLockSource: one registrar, itself.
type UpgradeLock struct {
	*Fake
	Other string // somebody else who holds the lock, "" if nobody
	lock  *v1.UpgradeLock
}

func (u *UpgradeLock) Acquire(ctx context.Context, ttl time.Duration, reason string) (*v1.UpgradeLock, error) {
	if u.Other != "" {
		return nil, operator.Refused("UPGRADE_LOCK_HELD", "%s holds the upgrade lock for another 5m0s (test)", u.Other)
	}
	u.lock = &v1.UpgradeLock{Holder: u.Node.GetName(), Reason: reason, Left: durationpb.New(ttl)}
	return u.Show(ctx)
}

func (u *UpgradeLock) Release(ctx context.Context) (*v1.UpgradeLock, error) {
	if u.lock == nil {
		return nil, operator.Refused("UPGRADE_LOCK_NOT_HELD", "%s does not hold the upgrade lock", u.Node.GetName())
	}
	u.lock = nil
	return u.Show(ctx)
}

func (u *UpgradeLock) Show(context.Context) (*v1.UpgradeLock, error) {
	l := &v1.UpgradeLock{}
	if u.lock != nil {
		l.Holder, l.Reason, l.Left = u.lock.Holder, u.lock.Reason, u.lock.Left
	}
	l.Votes = []*v1.UpgradeLockVote{{Registrar: u.Node.GetName(), Holder: l.Holder, Left: l.Left}, {Registrar: "lhr", Silent: true}}
	return l, u.Err
}
