package operator_test

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/pki"
)

// fleetPKI makes a CA, an appliance ams with the address of the loopback, and one
// person for each role, called as the role.
func fleetPKI(t *testing.T) (dir string, ams *pki.Identity) {
	t.Helper()
	dir = t.TempDir()
	if _, err := pki.Init(dir, pki.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Issue(dir, "ams", []netip.Addr{netip.MustParseAddr("127.0.0.1")}, pki.Options{}); err != nil {
		t.Fatal(err)
	}
	for r := pki.Viewer; r <= pki.Admin; r++ {
		if _, err := pki.IssuePerson(dir, pki.Person{Name: "the-" + r.String(), Role: r}, pki.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	ams, err := pki.Load(pkiFiles(dir, "ams"), "ams")
	if err != nil {
		t.Fatal(err)
	}
	return dir, ams
}

func pkiFiles(dir, name string) pki.Files {
	return pki.Files{CA: filepath.Join(dir, pki.CACertFile), Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key")}
}

// as connects as a person.
func (d *daemon) as(t *testing.T, dir string, r pki.Role) *grpc.ClientConn {
	t.Helper()
	c, err := pki.PersonTLS(pkiFiles(dir, "the-"+r.String()), "ams")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := operator.DialTLS(d.server.Remote().String(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// call calls a method of any kind with a request and returns what it came to.
func call(ctx context.Context, conn *grpc.ClientConn, method string, req proto.Message) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return err
	}
	if err := st.SendMsg(req); err != nil {
		return err
	}
	st.CloseSend()
	return st.RecvMsg(&emptypb.Empty{})
}

func startRemote(t *testing.T) (*daemon, string) {
	dir, ams := fleetPKI(t)
	d := startWith(t, fleet(2), 100, func(s *operator.Server) {
		s.ListenTLS(netip.MustParseAddrPort("127.0.0.1:0"), ams.PeopleTLS())
	})
	return d, dir
}

func TestEveryMethodHasARole(t *testing.T) {
	d := start(t, fleet(0), 10)
	methods := d.server.Methods()
	if len(methods) < 20 {
		t.Errorf("only %d methods are served", len(methods))
	}
	for m, r := range methods {
		if r == 0 {
			t.Errorf("%s has no role in the table, so nobody may call it over TCP", m)
		}
	}
	for m := range operator.Roles {
		if _, ok := methods[m]; !ok {
			t.Errorf("the table has a role for %s, which is not served", m)
		}
	}
}

func TestRoles(t *testing.T) {
	d, dir := startRemote(t)
	for r := pki.Viewer; r <= pki.Admin; r++ {
		conn := d.as(t, dir, r)
		for method, need := range d.server.Methods() {
			err := call(t.Context(), conn, method, &emptypb.Empty{})
			if r < need {
				wantStatus(t, r.String()+" calls "+method, err, codes.PermissionDenied, "ROLE_TOO_LOW", "takes the role "+need.String()+", yours is "+r.String())
			} else if status.Code(err) == codes.PermissionDenied || status.Code(err) == codes.Unavailable {
				t.Errorf("%s calls %s: %v", r, method, err)
			}
		}
		_, err := v1.NewOperatorServiceClient(conn).GetSession(t.Context(), &v1.GetSessionRequest{Id: "s-0000", RevealKeys: true})
		wantStatus(t, r.String()+" asks for keys", err, codes.PermissionDenied, "KEYS_FOR_ROOT", "root")
	}
}

// TestUnlisted takes a method out of the table, as one that somebody forgot.
func TestUnlisted(t *testing.T) {
	d, dir := startRemote(t)
	const method = v1.OperatorService_GetStatus_FullMethodName
	r := operator.Roles[method]
	delete(operator.Roles, method)
	defer func() { operator.Roles[method] = r }()
	_, err := v1.NewOperatorServiceClient(d.as(t, dir, pki.Admin)).GetStatus(t.Context(), &v1.GetStatusRequest{})
	wantStatus(t, "a method without role", err, codes.PermissionDenied, "LOCAL_ONLY", "socket only")
	if _, err := d.client.GetStatus(t.Context(), &v1.GetStatusRequest{}); err != nil {
		t.Errorf("at the local socket: %v", err)
	}
}

// mutating are good requests to everything that changes something.
var mutating = map[string]proto.Message{
	v1.OperatorService_Handover_FullMethodName:              &v1.HandoverRequest{Slot: 1, To: "fra"},
	v1.DrainService_Drain_FullMethodName:                    &v1.DrainRequest{Appliance: "ams", Reason: "x"},
	v1.DrainService_Undrain_FullMethodName:                  &v1.UndrainRequest{Appliance: "ams"},
	v1.DrainService_Redirect_FullMethodName:                 &v1.RedirectRequest{Appliance: "ams", Gateway: "203.0.113.1"},
	v1.UpgradeLockService_AcquireUpgradeLock_FullMethodName: &v1.AcquireUpgradeLockRequest{Ttl: durationpb.New(3600e9), Reason: "x"},
	v1.UpgradeLockService_ReleaseUpgradeLock_FullMethodName: &v1.ReleaseUpgradeLockRequest{},
	v1.HealthService_ClearHealth_FullMethodName:             &v1.ClearHealthRequest{},
	v1.RegistrarService_AddRegistrar_FullMethodName:         &v1.AddRegistrarRequest{Appliance: "fra"},
	v1.RegistrarService_RemoveRegistrar_FullMethodName:      &v1.RemoveRegistrarRequest{Appliance: "fra"},
}

func TestEveryChangeIsAudited(t *testing.T) {
	d, dir := startRemote(t)
	for method, need := range d.server.Methods() {
		if need == pki.Viewer {
			continue
		}
		req, ok := mutating[method]
		if !ok {
			t.Errorf("no request to %s in this test, which takes the role %s", method, need)
			continue
		}
		names := map[string]bool{} // of the call, refused and carried out
		for _, r := range []pki.Role{pki.Viewer, need} {
			last := d.events.Last()
			// What the fake cannot do is audited too.
			if err := call(t.Context(), d.as(t, dir, r), method, req); (status.Code(err) == codes.PermissionDenied) != (r < need) {
				t.Errorf("%s calls %s: %v", r, method, err)
			}
			evs, _, _ := d.events.After(last, 10)
			seen := 0
			for _, e := range evs {
				a := e.Attributes
				if e.Kind == "audit" && a["operator"] == "the-"+r.String() && a["role"] == r.String() && a["from"] != "" && strings.Contains(e.Reason, "takes the role") == (r < need) {
					seen++
					names[a["call"]] = true
				}
			}
			if seen == 0 {
				t.Errorf("%s calls %s: no audit event that says so among %v", r, method, evs)
			}
		}
		if len(names) != 1 {
			t.Errorf("the audit has several names for %s: %v", method, names)
		}
	}
}

func TestStrangers(t *testing.T) {
	d, _ := startRemote(t)
	conn, err := grpc.NewClient(d.server.Remote().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := v1.NewOperatorServiceClient(conn).GetStatus(t.Context(), &v1.GetStatusRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("without TLS: %v", err)
	}
	dir, _ := fleetPKI(t) // another fleet
	other := d.as(t, dir, pki.Admin)
	if _, err := v1.NewOperatorServiceClient(other).GetStatus(t.Context(), &v1.GetStatusRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("an admin of another fleet: %v", err)
	}
}

// TestPortTaken answers at the socket, says why not elsewhere, and does so when it can.
func TestPortTaken(t *testing.T) {
	_, ams := fleetPKI(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := startWith(t, fleet(0), 10, func(s *operator.Server) {
		s.ListenTLS(netip.MustParseAddrPort(l.Addr().String()), ams.PeopleTLS())
		s.ListenAgain(time.Millisecond)
	})
	if _, err := d.client.GetStatus(t.Context(), &v1.GetStatusRequest{}); err != nil {
		t.Errorf("at the local socket: %v", err)
	}
	time.Sleep(20 * time.Millisecond) // for some tries
	evs, _, _ := d.events.After(0, 10)
	if len(evs) != 1 || evs[0].Kind != "error" || !strings.Contains(evs[0].Reason, "operator.listen: ") || !strings.Contains(evs[0].Reason, "in use") {
		t.Errorf("events %v, want one that says why", evs)
	}
	l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for d.server.Remote() == nil {
		select {
		case <-ctx.Done():
			t.Fatal("it never listened")
		case <-time.After(time.Millisecond):
		}
	}
	if got := d.server.Remote().String(); got != l.Addr().String() {
		t.Errorf("listens at %s, want %s", got, l.Addr())
	}
}

// TestRefusalsAreTold as often as an operator wants to know, not as often as they happen.
func TestRefusalsAreTold(t *testing.T) {
	d, dir := startRemote(t)
	conn, last := d.as(t, dir, pki.Viewer), d.events.Last()
	for range 50 {
		for _, m := range []string{v1.DrainService_Drain_FullMethodName, v1.DrainService_Undrain_FullMethodName} {
			if err := call(t.Context(), conn, m, mutating[m]); status.Code(err) != codes.PermissionDenied {
				t.Fatalf("%s: %v", m, err)
			}
		}
	}
	evs, _, _ := d.events.After(last, 100)
	var calls []string
	for _, e := range evs {
		calls = append(calls, e.Attributes["call"]+" "+e.Attributes["outcome"])
	}
	if want := []string{"drain refused", "undrain refused"}; !slices.Equal(calls, want) {
		t.Errorf("told of %q, want %q", calls, want)
	}
}
