package operator_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/operator/operatortest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// buffer is a bytes.Buffer for concurrent writers.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type daemon struct {
	fake   *operatortest.Fake
	events *operator.Events
	server *operator.Server
	client v1.OperatorServiceClient
	conn   *grpc.ClientConn
	socket string
	log    *buffer
	stop   func() error // ends the daemon, returns what Run did
}

func fleet(sessions int) *operatortest.Fake {
	var ss []operatortest.Session
	for i := range sessions {
		ss = append(ss, operatortest.Session{
			Summary:  &v1.Session{Id: fmt.Sprintf("s-%04d", i), Slot: uint32(1 + i%2)},
			Redacted: `{"shared_secret":"[redacted]"}`, Revealed: `{"shared_secret":"aGk="}`,
		})
	}
	return operatortest.New(&v1.Appliance{Name: "ams"}, []*v1.Slot{
		{Number: 1, Home: "ams", Owner: "ams", OwnerTicket: 5, Sessions: 2, Shadows: []*v1.Shadow{
			{Name: "fra", Ticket: 6, Ready: true}, {Name: "lhr", Reason: "replication lags by 3000 messages"}}},
		{Number: 2, Home: "fra", Owner: "fra", OwnerTicket: 2},
	}, ss)
}

func start(t *testing.T, fake *operatortest.Fake, capacity int) *daemon {
	t.Helper()
	return startWith(t, fake, capacity, func(*operator.Server) {})
}

// startWith lets more be set before the server runs.
func startWith(t *testing.T, fake *operatortest.Fake, capacity int, more func(*operator.Server)) *daemon {
	t.Helper()
	d := &daemon{fake: fake, log: &buffer{}, socket: filepath.Join(t.TempDir(), "shadowcast.sock")}
	d.events = operator.NewEvents("ams", capacity, slog.New(slog.NewTextHandler(d.log, nil)))
	d.server = operator.NewServer(d.socket, fake.Backend(), d.events)
	more(d.server)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.server.Run(ctx) }()
	d.stop = sync.OnceValue(func() error { cancel(); return <-done })
	select {
	case <-d.server.Ready():
	case err := <-done:
		t.Fatalf("Run: %v", err)
	}
	conn, err := operator.Dial(d.socket)
	if err != nil {
		t.Fatal(err)
	}
	d.conn, d.client = conn, v1.NewOperatorServiceClient(conn)
	t.Cleanup(func() {
		conn.Close()
		if err := d.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return d
}

// wantStatus checks code, reason, and a part of the message.
func wantStatus(t *testing.T, what string, err error, code codes.Code, reason, part string) {
	t.Helper()
	s := status.Convert(err)
	got := ""
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == "shadowcast" {
			got = info.Reason
		}
	}
	if s.Code() != code || got != reason || !strings.Contains(s.Message(), part) {
		t.Errorf("%s: %v %q %q, want %v %q %q", what, s.Code(), got, s.Message(), code, reason, part)
	}
}

func TestQuestions(t *testing.T) {
	d := start(t, fleet(0), 16)
	ctx := t.Context()
	st, err := d.client.GetStatus(ctx, &v1.GetStatusRequest{})
	if err != nil || st.Appliance.Name != "ams" || len(st.Slots) != 2 {
		t.Errorf("GetStatus: %v, %v", st, err)
	}
	slot, err := d.client.GetSlot(ctx, &v1.GetSlotRequest{Number: 2})
	if err != nil || slot.Slot.Home != "fra" {
		t.Errorf("GetSlot: %v, %v", slot, err)
	}
	for n, reason := range map[uint32]string{0: "SLOT_INVALID", 4096: "SLOT_INVALID", 3: "SLOT_UNKNOWN"} {
		_, err := d.client.GetSlot(ctx, &v1.GetSlotRequest{Number: n})
		code := codes.InvalidArgument
		if reason == "SLOT_UNKNOWN" {
			code = codes.NotFound
		}
		wantStatus(t, fmt.Sprint("slot ", n), err, code, reason, fmt.Sprint("slot ", n))
	}
	if bgp, err := d.client.GetBGP(ctx, &v1.GetBGPRequest{}); err != nil || bgp.Enabled {
		t.Errorf("GetBGP: %v, %v", bgp, err)
	}
	d.fake.Err = fmt.Errorf("ask core: %w", errors.New("queue is full"))
	_, err = d.client.ListSlots(ctx, &v1.ListSlotsRequest{})
	wantStatus(t, "plain error", err, codes.Internal, "", "ask core: queue is full")
	d.fake.Err = fmt.Errorf("ask core: %w", operator.Refused("NOT_STARTED", "slots are not set up yet"))
	_, err = d.client.GetPeers(ctx, &v1.GetPeersRequest{})
	wantStatus(t, "wrapped refusal", err, codes.FailedPrecondition, "NOT_STARTED", "slots are not set up yet")
}

func TestHealthAndReflection(t *testing.T) {
	d := start(t, fleet(0), 16)
	hc := healthv1.NewHealthClient(d.conn)
	check := func(want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		for _, svc := range []string{"", "shadowcast.v1.OperatorService"} {
			r, err := hc.Check(t.Context(), &healthv1.HealthCheckRequest{Service: svc})
			if err != nil || r.Status != want {
				t.Errorf("health of %q: %v, %v, want %v", svc, r, err, want)
			}
		}
	}
	check(healthv1.HealthCheckResponse_NOT_SERVING)
	d.server.SetServing(true)
	check(healthv1.HealthCheckResponse_SERVING)

	rc, err := reflectionv1.NewServerReflectionClient(d.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := rc.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := rc.Recv()
	if err != nil || !strings.Contains(resp.String(), "shadowcast.v1.OperatorService") {
		t.Errorf("reflection: %v, %v", resp, err)
	}
	rc.CloseSend()
	rc.Recv()
}

func TestListSessionsPages(t *testing.T) {
	d := start(t, fleet(25), 16)
	for _, tc := range []struct {
		slot, size uint32
		pages      []int
	}{{0, 10, []int{10, 10, 5}}, {0, 25, []int{25}}, {0, 0, []int{25}}, {0, 4000000000, []int{25}}, {1, 6, []int{6, 6, 1}}, {2, 12, []int{12}}} {
		token, seen := "", map[string]bool{}
		for i, want := range tc.pages {
			r, err := d.client.ListSessions(t.Context(), &v1.ListSessionsRequest{Slot: tc.slot, PageSize: tc.size, PageToken: token})
			if err != nil || len(r.Sessions) != want {
				t.Fatalf("%+v page %d: %d sessions, %v, want %d", tc, i, len(r.GetSessions()), err, want)
			}
			for _, s := range r.Sessions {
				if seen[s.Id] || tc.slot != 0 && s.Slot != tc.slot {
					t.Errorf("%+v: session %s of slot %d again or wrong", tc, s.Id, s.Slot)
				}
				seen[s.Id] = true
			}
			if token = r.NextPageToken; (token == "") != (i == len(tc.pages)-1) {
				t.Errorf("%+v page %d: token %q", tc, i, token)
			}
		}
	}
	r, err := d.client.ListSessions(t.Context(), &v1.ListSessionsRequest{PageSize: 2, ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"id", "slot"}}})
	if err != nil || len(r.Sessions) != 2 || r.NextPageToken == "" {
		t.Fatalf("a page of two: %v, %v", r, err)
	}
	for _, x := range r.Sessions {
		if want := (&v1.Session{Id: x.Id, Slot: x.Slot}); x.Id == "" || x.Slot == 0 || !proto.Equal(x, want) {
			t.Errorf("masked to id and slot: %v", x)
		}
	}
	_, err = d.client.ListSessions(t.Context(), &v1.ListSessionsRequest{ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"id", "established.seconds"}}})
	wantStatus(t, "bad mask", err, codes.InvalidArgument, "READ_MASK_INVALID", `"established.seconds"`)
	_, err = d.client.ListSessions(t.Context(), &v1.ListSessionsRequest{PageToken: "!"})
	wantStatus(t, "bad token", err, codes.InvalidArgument, "PAGE_TOKEN_INVALID", "page_token")
	_, err = d.client.ListSessions(t.Context(), &v1.ListSessionsRequest{Slot: 70000})
	wantStatus(t, "bad slot", err, codes.InvalidArgument, "SLOT_INVALID", "slot 70000")
}

func TestGetSessionRedacts(t *testing.T) {
	d := start(t, fleet(3), 16)
	r, err := d.client.GetSession(t.Context(), &v1.GetSessionRequest{Id: "s-0001"})
	if err != nil || !strings.Contains(string(r.Document), "[redacted]") {
		t.Errorf("GetSession: %v, %v", r, err)
	}
	r, err = d.client.GetSession(t.Context(), &v1.GetSessionRequest{Id: "s-0001", RevealKeys: true})
	if os.Getuid() == 0 {
		if err != nil || !strings.Contains(string(r.Document), "aGk=") {
			t.Errorf("GetSession with keys as root: %v, %v", r, err)
		}
	} else {
		wantStatus(t, "keys", err, codes.PermissionDenied, "KEYS_FOR_ROOT", "root only")
	}
	if !strings.Contains(d.log.String(), "call=session.reveal-keys") || !strings.Contains(d.log.String(), fmt.Sprint("uid=", os.Getuid())) {
		t.Errorf("no audit in the log:\n%s", d.log)
	}
	if strings.Contains(d.log.String(), "aGk=") {
		t.Error("the log shows the key")
	}
	_, err = d.client.GetSession(t.Context(), &v1.GetSessionRequest{Id: "s-9"})
	wantStatus(t, "unknown", err, codes.NotFound, "SESSION_UNKNOWN", `"s-9"`)
	_, err = d.client.GetSession(t.Context(), &v1.GetSessionRequest{Id: strings.Repeat("x", 300)})
	wantStatus(t, "long id", err, codes.InvalidArgument, "SESSION_ID_INVALID", "256")
}

// drain reads a handover to its end.
func drain(s grpc.ServerStreamingClient[v1.HandoverResponse]) (phases []v1.HandoverPhase, account *v1.HandoverAccount, err error) {
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return phases, account, nil
		}
		if err != nil {
			return phases, account, err
		}
		if p := m.GetProgress(); p != nil {
			phases = append(phases, p.Phase)
		}
		if a := m.GetAccount(); a != nil {
			account = a
		}
	}
}

func TestHandover(t *testing.T) {
	d := start(t, fleet(0), 16)
	call := func(slot uint32, to string) ([]v1.HandoverPhase, *v1.HandoverAccount, error) {
		s, err := d.client.Handover(t.Context(), &v1.HandoverRequest{Slot: slot, To: to})
		if err != nil {
			t.Fatal(err)
		}
		return drain(s)
	}
	phases, account, err := call(1, "fra")
	if err != nil || len(phases) != 5 || account.GetTo() != "fra" || account.GetSessionsMoved() != 2 {
		t.Errorf("handover: %v %v %v", phases, account, err)
	}
	_, _, err = call(1, "lhr")
	wantStatus(t, "not ready", err, codes.FailedPrecondition, "SHADOW_NOT_READY", "lags by 3000")
	_, _, err = call(9, "fra")
	wantStatus(t, "unknown", err, codes.NotFound, "SLOT_UNKNOWN", "slot 9")
	_, _, err = call(1, "")
	wantStatus(t, "no target", err, codes.InvalidArgument, "APPLIANCE_INVALID", "name of an appliance")
	var outcomes []string
	events, _, _ := d.events.After(0, 100)
	for _, e := range events {
		if e.Kind == "audit" && e.Attributes["call"] == "slot.handover" {
			outcomes = append(outcomes, e.Attributes["outcome"])
		}
	}
	if got := strings.Join(outcomes, " "); got != "asked done asked refused asked refused" {
		t.Errorf("audit: %s", got)
	}
}

// A handover goes on when its caller hangs up, and is told when the daemon stops.
func TestHandoverOutlivesCaller(t *testing.T) {
	for _, stops := range []bool{false, true} {
		fake, gate := fleet(0), make(chan struct{})
		fake.Gate = gate
		d := start(t, fake, 16)
		ctx, hangUp := context.WithCancel(t.Context())
		s, err := d.client.Handover(ctx, &v1.HandoverRequest{Slot: 1, To: "fra"})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // prepare, new sessions, drain
			if _, err := s.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		want := "done"
		if stops {
			want = "failed"
			go d.stop()
			if _, _, err := drain(s); status.Code(err) != codes.Unavailable {
				t.Errorf("daemon stops: %v", err)
			}
		} else {
			hangUp()
			if _, _, err := drain(s); status.Code(err) != codes.Canceled {
				t.Errorf("hung up: %v", err)
			}
			close(gate)
		}
		events, _, changed := d.events.After(1, 1) // 1 is the audit of asking
		if len(events) == 0 {
			<-changed
			events, _, _ = d.events.After(1, 1)
		}
		if got := events[0].Attributes["outcome"]; got != want {
			t.Errorf("outcome %q, want %q", got, want)
		}
		hangUp()
	}
}

func TestSocket(t *testing.T) {
	d := start(t, fleet(0), 16)
	st, err := os.Lstat(d.socket)
	if err != nil || st.Mode().Type() != os.ModeSocket || st.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v, %v", st.Mode(), err)
	}
	second := operator.NewServer(d.socket, d.fake.Backend(), d.events)
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another daemon answers there") {
		t.Errorf("second daemon: %v", err)
	}
	if _, err := d.client.GetStatus(t.Context(), &v1.GetStatusRequest{}); err != nil {
		t.Errorf("the first daemon lost its socket: %v", err)
	}
	if err := d.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := os.Lstat(d.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket left behind: %v", err)
	}

	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	again := operator.NewServer(stale, d.fake.Backend(), d.events)
	done := make(chan error, 1)
	go func() { done <- again.Run(ctx) }()
	<-again.Ready()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("stale socket: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := operator.NewServer(file, d.fake.Backend(), d.events).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("file in the way: %v", err)
	}
	if err := operator.NewServer(filepath.Join(dir, "none", "s"), d.fake.Backend(), d.events).Run(t.Context()); err == nil {
		t.Error("no directory: no error")
	}
}

// collect reads n responses.
func collect(t *testing.T, d *daemon, req *v1.WatchEventsRequest, n int) (got []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := d.client.WatchEvents(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	for len(got) < n || n < 0 {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(m.Event.Id)
		if m.Missed > 0 {
			text = fmt.Sprintf("(%d)%s", m.Missed, text)
		}
		got = append(got, text)
	}
	return got
}

func TestWatchEvents(t *testing.T) {
	d := start(t, fleet(0), 4)
	for i := 1; i <= 6; i++ {
		d.events.Add(operator.Event{Kind: "test", Slot: 1, Message: "x"})
	}
	d.events.Add(operator.Event{Kind: "test", Slot: 2, Level: slog.LevelError, Message: "slot claimed", Reason: "owner dead", Attributes: map[string]string{"peer": "fra"}})
	// 7 events, the last 4 kept.
	for name, tc := range map[string]struct {
		req  *v1.WatchEventsRequest
		want string
	}{
		"all":              {&v1.WatchEventsRequest{}, "4 5 6 7"},
		"from the lost":    {&v1.WatchEventsRequest{FromId: 2}, "(2)4 5 6 7"},
		"from the first":   {&v1.WatchEventsRequest{FromId: 1}, "(3)4 5 6 7"},
		"from the kept":    {&v1.WatchEventsRequest{FromId: 6}, "6 7"},
		"from the next":    {&v1.WatchEventsRequest{FromId: 8}, ""},
		"after a restart":  {&v1.WatchEventsRequest{FromId: 99}, "4 5 6 7"},
		"one slot":         {&v1.WatchEventsRequest{Slot: 2}, "7"},
		"since the future": {&v1.WatchEventsRequest{Since: timestamppb.New(time.Now().Add(time.Hour))}, ""},
		"since the past":   {&v1.WatchEventsRequest{Since: timestamppb.New(time.Now().Add(-time.Hour))}, "4 5 6 7"},
	} {
		if got := strings.Join(collect(t, d, tc.req, -1), " "); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	if !strings.Contains(d.log.String(), `level=ERROR msg="slot claimed" event=test slot=2 peer=fra reason="owner dead"`) {
		t.Errorf("log:\n%s", d.log)
	}
	done := make(chan []string, 1)
	go func() { done <- collect(t, d, &v1.WatchEventsRequest{FromId: 7, Follow: true}, 3) }()
	d.events.Add(operator.Event{Kind: "test", Message: "x"})
	d.events.Add(operator.Event{Kind: "test", Message: "x"})
	if got := strings.Join(<-done, " "); got != "7 8 9" {
		t.Errorf("follow: %q", got)
	}
}

// Readers see every id once, in order, or are told how many they missed.
func TestEventsConcurrent(t *testing.T) {
	const writers, each, readers = 4, 500, 8
	e := operator.NewEvents("ams", 64, slog.New(slog.DiscardHandler))
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for cursor := uint64(0); cursor < writers*each; {
				events, missed, changed := e.After(cursor, 16)
				cursor += missed
				for _, ev := range events {
					if cursor++; ev.Id != cursor {
						t.Errorf("event %d, want %d", ev.Id, cursor)
						return
					}
				}
				if len(events) == 0 {
					<-changed
				}
			}
		})
	}
	for range writers {
		wg.Go(func() {
			for range each {
				e.Add(operator.Event{Kind: "test", Message: "x"})
			}
		})
	}
	wg.Wait()
	if e.Last() != writers*each {
		t.Errorf("last %d", e.Last())
	}
}

// Watchers that wait end when the daemon stops.
func TestStopEndsWatchers(t *testing.T) {
	d := start(t, fleet(0), 4)
	d.events.Add(operator.Event{Kind: "test", Message: "x"})
	s, err := d.client.WatchEvents(t.Context(), &v1.WatchEventsRequest{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := d.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("watcher: %v", err)
	}
}
