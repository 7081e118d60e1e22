package operator

import (
	"path"
	"sync"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// A person may be refused as often as it asks, but must not push everything else out of
// the event log by that.
const (
	refusedAgain = time.Minute // between two events of one person and call
	refusedRows  = 1024        // persons and calls that are told apart
)

// refusedCall is a call that was refused to somebody. Names are those of certificates of
// the fleet's CA: they are as many as were issued.
type refusedCall struct{ who, method string }

// refusedCalls counts what is not told. The zero value is ready.
type refusedCalls struct {
	mu   sync.Mutex
	rows map[refusedCall]*refusedRow
}

type refusedRow struct {
	told   time.Time
	unsaid int // since then
}

// add calls tell with the number of refusals that were not told, at most once in
// refusedAgain for each call.
func (r *refusedCalls) add(c refusedCall, now time.Time, tell func(unsaid int)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	row := r.rows[c]
	switch {
	case row != nil && now.Sub(row.told) < refusedAgain:
		row.unsaid++
		return
	case row == nil && len(r.rows) >= refusedRows:
		clear(r.rows)
	}
	if r.rows == nil {
		r.rows = map[refusedCall]*refusedRow{}
	}
	unsaid := 0
	if row != nil {
		unsaid = row.unsaid
	}
	r.rows[c] = &refusedRow{told: now}
	tell(unsaid)
}

// callNames are the names that the audit has for calls that change something.
var callNames = map[string]string{
	v1.OperatorService_Handover_FullMethodName:              "slot.handover",
	v1.DrainService_Drain_FullMethodName:                    "drain",
	v1.DrainService_Undrain_FullMethodName:                  "undrain",
	v1.DrainService_Redirect_FullMethodName:                 "redirect",
	v1.UpgradeLockService_AcquireUpgradeLock_FullMethodName: "upgrade-lock.acquire",
	v1.UpgradeLockService_ReleaseUpgradeLock_FullMethodName: "upgrade-lock.release",
	v1.HealthService_ClearHealth_FullMethodName:             "health.clear",
	v1.RegistrarService_AddRegistrar_FullMethodName:         "registrar.add",
	v1.RegistrarService_RemoveRegistrar_FullMethodName:      "registrar.remove",
}

// callName is the audit's name of a method; what only looks goes by the method's own,
// without the service.
func callName(method string) string {
	if n, ok := callNames[method]; ok {
		return n
	}
	return path.Base(method)
}
