package operator

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"time"

	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/pki"
)

// roles says which role a method takes, by its full name. A method that is not here
// is refused to everybody who is not on this machine.
var roles = map[string]pki.Role{
	v1.OperatorService_GetStatus_FullMethodName:    pki.Viewer,
	v1.OperatorService_ListSlots_FullMethodName:    pki.Viewer,
	v1.OperatorService_GetSlot_FullMethodName:      pki.Viewer,
	v1.OperatorService_ListSessions_FullMethodName: pki.Viewer,
	v1.OperatorService_GetSession_FullMethodName:   pki.Viewer, // keys: root on this machine only
	v1.OperatorService_WatchEvents_FullMethodName:  pki.Viewer,
	v1.OperatorService_GetPeers_FullMethodName:     pki.Viewer,
	v1.OperatorService_GetBGP_FullMethodName:       pki.Viewer,
	v1.OperatorService_Handover_FullMethodName:     pki.Operator,

	v1.DrainService_GetStanding_FullMethodName: pki.Viewer,
	v1.DrainService_PlanDrain_FullMethodName:   pki.Viewer,
	v1.DrainService_Drain_FullMethodName:       pki.Operator,
	v1.DrainService_Undrain_FullMethodName:     pki.Operator,
	v1.DrainService_Redirect_FullMethodName:    pki.Operator,

	v1.UpgradeLockService_GetUpgradeLock_FullMethodName:     pki.Viewer,
	v1.UpgradeLockService_AcquireUpgradeLock_FullMethodName: pki.Operator,
	v1.UpgradeLockService_ReleaseUpgradeLock_FullMethodName: pki.Operator,

	v1.HealthService_GetHealth_FullMethodName:   pki.Viewer,
	v1.HealthService_ClearHealth_FullMethodName: pki.Operator,

	v1.ShadowSetService_GetShadowSets_FullMethodName: pki.Viewer,

	v1.RegistrarService_ListRegistrars_FullMethodName:  pki.Viewer,
	v1.RegistrarService_AddRegistrar_FullMethodName:    pki.Admin,
	v1.RegistrarService_RemoveRegistrar_FullMethodName: pki.Admin,

	healthv1.Health_Check_FullMethodName:                                   pki.Viewer,
	healthv1.Health_List_FullMethodName:                                    pki.Viewer,
	healthv1.Health_Watch_FullMethodName:                                   pki.Viewer,
	reflectionv1.ServerReflection_ServerReflectionInfo_FullMethodName:      pki.Viewer,
	reflectionv1alpha.ServerReflection_ServerReflectionInfo_FullMethodName: pki.Viewer,
}

// caller is who makes a call: a process at the local socket, or a person with a
// certificate. The zero value may do nothing.
type caller struct {
	local bool
	root  bool // at the local socket
	role  pki.Role
	attrs map[string]string // for the audit
}

// callerOf returns who made the call of ctx.
func callerOf(ctx context.Context) caller {
	unknown := caller{attrs: map[string]string{"uid": "unknown", "pid": "unknown"}}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return unknown
	}
	switch info := p.AuthInfo.(type) {
	case Caller:
		return caller{local: true, root: info.UID == 0, role: pki.Admin, attrs: map[string]string{
			"uid": strconv.FormatUint(uint64(info.UID), 10), "pid": strconv.Itoa(int(info.PID))}}
	case credentials.TLSInfo:
		who, err := pki.PersonAt(info.State)
		if err != nil {
			return unknown
		}
		return caller{role: who.Role, attrs: map[string]string{"operator": who.Name, "role": who.Role.String(), "from": p.Addr.String()}}
	}
	return unknown
}

// who names the caller of ctx for the reasons of events: "operator ann", "operator with uid 0".
func who(ctx context.Context) string {
	c := callerOf(ctx)
	if c.local {
		return "operator with uid " + c.attrs["uid"]
	}
	if name := c.attrs["operator"]; name != "" {
		return "operator " + name
	}
	return "somebody unknown"
}

// permit refuses a call that takes a higher role than its caller has, and leaves an
// audit event of the refusal. Whoever may connect to the local socket may call
// everything: its mode says who that is.
func (s *service) permit(ctx context.Context, method string) error {
	c := callerOf(ctx)
	if c.local {
		return nil
	}
	need, listed := roles[method]
	var err *Error
	switch {
	case !listed:
		err = Denied("LOCAL_ONLY", "%s is answered on the appliance's own socket only", method)
	case c.role < need:
		err = Denied("ROLE_TOO_LOW", "%s takes the role %s, yours is %s", method, need, c.role).With("role", need.String())
	default:
		return nil
	}
	s.refused.add(refusedCall{who: c.attrs["operator"], method: method}, time.Now(), func(since int) {
		attrs := maps.Clone(c.attrs)
		attrs["call"], attrs["outcome"] = callName(method), "refused"
		reason := err.Message
		if since > 0 {
			attrs["unsaid"] = strconv.Itoa(since)
			reason += fmt.Sprintf("; as %d times since this was last told", since)
		}
		s.events.Add(Event{Kind: "audit", Level: slog.LevelWarn, Message: "operator was refused " + method, Reason: reason, Attributes: attrs})
	})
	return err
}
