package metrics

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/operator"
)

// silent is an event log in which nothing happens.
type silent struct{}

func (silent) After(uint64, int) ([]*v1.Event, uint64, <-chan struct{}) { return nil, 0, nil }

var began = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func event(ms int, slot uint32, kind string, attrs ...string) *v1.Event {
	ev := &v1.Event{Time: timestamppb.New(began.Add(time.Duration(ms) * time.Millisecond)), Slot: slot, Kind: kind, Severity: v1.Severity_SEVERITY_INFO, Attributes: map[string]string{}}
	for i := 0; i+1 < len(attrs); i += 2 {
		ev.Attributes[attrs[i]] = attrs[i+1]
	}
	return ev
}

// story is a takeover, a completed, an aborted and a refused move, the target's
// word about one that ended, a drain and two calls.
func story() []*v1.Event {
	return []*v1.Event{
		event(0, 1, "claim"),
		event(10, 1, "active"),
		event(1000, 2, "claim", "detection", "220ms"),
		event(1400, 2, "active"),
		event(1500, 3, "claim", "detection", "300ms"),
		event(1600, 3, "lost"),
		event(1700, 3, "active"),
		event(2000, 1, "move", "move", "5", "phase", "prepare"),
		event(2020, 1, "move", "move", "5", "phase", "quiesce"),
		event(2120, 1, "move", "move", "5", "phase", "flush"),
		event(2130, 1, "move", "move", "5", "phase", "take"),
		event(2140, 1, "move", "move", "5", "phase", "flip"),
		event(2140, 1, "move", "move", "5", "phase", "drain"),
		event(2240, 1, "move", "move", "5", "phase", "close"),
		event(2250, 1, "move", "move", "5", "phase", "done"),
		event(3000, 2, "move", "move", "6", "phase", "prepare"),
		event(3500, 2, "move", "move", "6", "phase", "aborted"),
		event(3600, 2, "move", "move", "7", "phase", "refused"),
		event(3700, 4, "move", "move", "8", "phase", "aborted"),
		event(4000, 0, "drain", "drain", "1", "phase", "prepare"),
		event(5000, 0, "drain", "drain", "1", "phase", "done"),
		event(6000, 0, "audit", "call", "slot.handover", "outcome", "done"),
		event(6001, 0, "audit", "call", "slot.handover", "outcome", "refused"),
	}
}

func TestRecorder(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	r := NewRecorder(silent{}, reg)
	// ShadowcastTakeover and ShadowcastTakeoverSlow must see the first takeover.
	for _, line := range []string{`shadowcast_takeovers_total{cause="owner-died"} 0`, `shadowcast_takeover_duration_seconds_count{phase="detection"} 0`} {
		if !strings.Contains(gather(t, reg), line+"\n") {
			t.Errorf("before anything happened there is no %s", line)
		}
	}
	for _, ev := range story() {
		r.Add(ev)
	}
	want := `
# HELP shadowcast_drains_total Drains of this appliance by outcome.
# TYPE shadowcast_drains_total counter
shadowcast_drains_total{outcome="done"} 1
shadowcast_drains_total{outcome="ended"} 0
# HELP shadowcast_handovers_total Planned moves of slots owned here by outcome.
# TYPE shadowcast_handovers_total counter
shadowcast_handovers_total{outcome="aborted"} 1
shadowcast_handovers_total{outcome="done"} 1
shadowcast_handovers_total{outcome="refused"} 1
# HELP shadowcast_operator_calls_total Calls of the operator API that change something or reveal keys, by outcome.
# TYPE shadowcast_operator_calls_total counter
shadowcast_operator_calls_total{call="slot.handover",outcome="done"} 1
shadowcast_operator_calls_total{call="slot.handover",outcome="refused"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "shadowcast_drains_total", "shadowcast_handovers_total", "shadowcast_operator_calls_total"); err != nil {
		t.Error(err)
	}
	if got := testutil.ToFloat64(r.takeovers.WithLabelValues(causeDeath)); got != 2 {
		t.Errorf("%v takeovers from a dead owner, want 2", got)
	}
	text := gather(t, reg)
	for _, line := range []string{
		`shadowcast_takeover_duration_seconds_sum{phase="detection"} 0.52`,
		`shadowcast_takeover_duration_seconds_sum{phase="activation"} 0.4`,
		`shadowcast_takeover_duration_seconds_sum{phase="total"} 0.62`,
		`shadowcast_takeover_duration_seconds_count{phase="total"} 1`, // the lost claim has no end
		`shadowcast_handover_duration_seconds_sum 0.25`,
		`shadowcast_handover_phase_duration_seconds_sum{phase="quiesce"} 0.1`,
		`shadowcast_handover_phase_duration_seconds_sum{phase="close"} 0.01`,
		`shadowcast_events_total{kind="move",severity="info"} 12`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	if len(r.moves) != 0 || len(r.claims) != 0 {
		t.Errorf("%d moves and %d claims are still open", len(r.moves), len(r.claims))
	}
}

// Events that were overwritten before they were counted are told.
func TestRecorderMisses(t *testing.T) {
	log := operator.NewEvents("ams", 4, slog.New(slog.DiscardHandler))
	for range 10 {
		log.Add(operator.Event{Kind: "owner"})
	}
	r := NewRecorder(log, prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	deadline := time.Now().Add(10 * time.Second)
	for testutil.ToFloat64(r.events.WithLabelValues("owner", "info")) < 4 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := testutil.ToFloat64(r.missed); got != 6 {
		t.Errorf("%v events missed, want 6", got)
	}
	if got := testutil.ToFloat64(r.events.WithLabelValues("owner", "info")); got != 4 {
		t.Errorf("%v events counted, want 4", got)
	}
}

func TestServer(t *testing.T) {
	log := operator.NewEvents("ams", 16, slog.New(slog.DiscardHandler))
	s := NewServer(netip.MustParseAddrPort("127.0.0.1:0"), fixed{s: fleetSnapshot(1)}, log, slog.New(slog.DiscardHandler))
	s.Handle("GET /hello", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	get := func(method, path string) (int, string) {
		req, _ := http.NewRequestWithContext(t.Context(), method, "http://"+s.Addr().String()+path, nil)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	if code, body := get("GET", "/metrics"); code != 200 || !strings.Contains(body, `shadowcast_slot_owned{slot="1"} 1`) || !strings.Contains(body, "go_goroutines") {
		t.Errorf("GET /metrics: %d\n%s", code, body)
	}
	if code, body := get("GET", "/hello"); code != 200 || body != "hello" {
		t.Errorf("GET /hello: %d %s", code, body)
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{{"POST", "/metrics", 405}, {"GET", "/nothing", 404}, {"GET", "/../metrics/x", 404}} {
		if code, _ := get(c.method, c.path); code != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, code, c.want)
		}
	}
	other := NewServer(s.Addr(), fixed{}, log, slog.New(slog.DiscardHandler))
	if err := other.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "metrics.listen") {
		t.Errorf("a second server on the same port: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The first errors count too: a rule on the rate must see the zero before them.
func TestErrorsCountFromTheFirst(t *testing.T) {
	reg := prometheus.NewRegistry()
	NewRecorder(nil, reg)
	if got := gather(t, reg); !strings.Contains(got, `shadowcast_events_total{kind="error",severity="warning"} 0`) {
		t.Errorf("no error is no zero:\n%s", got)
	}
}
