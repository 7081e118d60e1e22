package statuspage

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/metrics"
	"github.com/shadowcast/shadowcast/operator"
)

type source struct {
	s     *metrics.Snapshot
	err   error
	asked atomic.Int32
}

func (s *source) Snapshot(context.Context) (*metrics.Snapshot, error) {
	s.asked.Add(1)
	return s.s, s.err
}

// nasty is what a router or a disk might put into a reason.
const nasty = `<img src=x onerror="document.title='broken'">`

func fleet() *source {
	at := time.Now().Add(-time.Hour)
	slot := func(n uint32, home, owner string, ready bool) *v1.Slot {
		s := &v1.Slot{Number: n, Home: home, Owner: owner, OwnerTicket: 7, Role: v1.Role_ROLE_SHADOW, State: v1.SlotState_SLOT_STATE_PASSIVE, Sessions: 1200}
		for _, name := range []string{"ams", "fra", "lhr"} {
			if name != owner {
				s.Shadows = append(s.Shadows, &v1.Shadow{Name: name, Ticket: 8, Ready: ready || name == "fra", Reason: map[bool]string{false: "sessions differ"}[ready || name == "fra"]})
			}
		}
		if owner == "ams" {
			s.Role, s.State = v1.Role_ROLE_OWNER, v1.SlotState_SLOT_STATE_ACTIVE
		}
		return s
	}
	h := &v1.GetHealthResponse{Enabled: true, State: v1.Standing_STANDING_WATCH, Risk_30D: 0.021, Risk_1H: 0.002, Causes: []*v1.HealthCause{{Device: "disk sda", Detail: "Current_Pending_Sector 72, +16 6h ago", Share: .8, Horizon: "30d"}}}
	for i := range 48 {
		h.Trend = append(h.Trend, &v1.HealthPoint{At: timestamppb.New(at.Add(time.Duration(i) * time.Minute)), Risk_30D: float64(i) * .0004, Risk_1H: .001})
	}
	first := slot(1, "ams", "ams", true)
	first.OwnedReason = "planned move from fra: operator ann asked for it: " + nasty
	return &source{s: &metrics.Snapshot{
		Appliance: &v1.Appliance{Name: "ams", Site: "amsterdam", Version: "1.2.3", SlotsActive: 2, Sessions: 2400},
		Slots:     []*v1.Slot{first, slot(2, "fra", "fra", true), slot(3, "lhr", "ams", false)},
		Peers:     []*v1.Peer{{Name: "fra", State: v1.PeerState_PEER_STATE_UP, Rtt: durationpb.New(8 * time.Millisecond)}, {Name: "lhr", State: v1.PeerState_PEER_STATE_SUSPECT, Reason: nasty}},
		BGP:       &v1.GetBGPResponse{Peers: []*v1.BGPPeer{{Name: "edge1", State: "established", Bfd: "up", Announced: 2}}}, Health: h,
	}}
}

func events() *operator.Events {
	log := operator.NewEvents("ams", 1000, slog.New(slog.DiscardHandler))
	log.Add(operator.Event{Kind: "error", Message: "publish session secret-client failed"})
	log.Add(operator.Event{Kind: "claim", Slot: 3, Level: slog.LevelWarn, Message: "ams owns the slot by ticket 7", Reason: "lhr silent for 306ms, its liveness route withdrawn, heard by nobody", Attributes: map[string]string{"detection": "306ms"}})
	for _, p := range []string{"prepare", "quiesce", "flush", "take", "flip", "drain", "close", "done"} {
		log.Add(operator.Event{Kind: "move", Slot: 1, Message: "move to fra", Reason: "operator ann asked for it", Attributes: map[string]string{"move": "5", "phase": p}})
		time.Sleep(3 * time.Millisecond) // so that phases have a length
	}
	return log
}

func serve(t *testing.T, src *source) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	Register(mux.Handle, src, events(), slog.New(slog.DiscardHandler))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(b)
}

func TestServe(t *testing.T) {
	src := fleet()
	s := serve(t, src)
	for path, want := range map[string]string{"/": "<title>shadowcast</title>", "/status.js": "fetch(", "/status.css": "--ok", "/map.js": "fleetMap"} {
		r, body := get(t, s.URL+path)
		if r.StatusCode != 200 || !strings.Contains(body, want) || r.Header.Get("Content-Security-Policy") != policy {
			t.Errorf("GET %s: %s, policy %q", path, r.Status, r.Header.Get("Content-Security-Policy"))
		}
		if strings.Contains(strings.ReplaceAll(body, svgNamespace, ""), "http") {
			t.Errorf("GET %s names something outside", path)
		}
	}
	_, body := get(t, s.URL+"/status.json")
	var d struct {
		Status struct{ Slots []any }
		Events []struct{ Kind, Message string }
	}
	if err := json.Unmarshal([]byte(body), &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Status.Slots) != 3 || len(d.Events) != 9 || strings.Contains(body, "secret-client") {
		t.Errorf("%d slots, %d events: %s", len(d.Status.Slots), len(d.Events), body)
	}
	before := src.asked.Load()
	for range 20 {
		get(t, s.URL+"/status.json")
	}
	if n := src.asked.Load() - before; n > 10 {
		t.Errorf("20 readings at once took %d snapshots", n)
	}
	for _, path := range []string{"/page/", "/page/index.html", "/handler.go", "/doc.go"} {
		if r, _ := get(t, s.URL+path); r.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s: %s", path, r.Status)
		}
	}
	if r, err := http.Post(s.URL+"/status.json", "text/plain", strings.NewReader("x")); err != nil || r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v", r)
	}
}

// svgNamespace is a name, not an address.
const svgNamespace = "http://www.w3.org/2000/svg"

func TestNoAnswer(t *testing.T) {
	if r, body := get(t, serve(t, &source{err: errors.New("gone")}).URL+"/status.json"); r.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "gone") {
		t.Errorf("%s: %s", r.Status, body)
	}
}

// A real browser shows what the daemon tells, and nothing that it is told is markup.
func TestBrowser(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed: scripts/deps.sh")
	}
	s := serve(t, fleet())
	browse := func(args ...string) string {
		args = append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
			"--user-data-dir=" + t.TempDir(), "--window-size=1400,1300", "--virtual-time-budget=3000"}, append(args, s.URL+"/")...)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, chromium, args...).Output()
		if err != nil {
			t.Fatalf("chromium: %v", err)
		}
		return string(out)
	}
	dom := browse("--dump-dom")
	for _, want := range []string{`data-ready="yes"`, "ams in amsterdam, version 1.2.3", "every slot owned here has a ready shadow", "takeover by ams", "detected after 306ms", "move to fra", "quiesce", "done: ", "operator ann asked for it: &lt;img",
		"Current_Pending_Sector 72", "not ready: sessions differ", "edge1", `class="machine self"`, `class="machine down"`, "slot 3", "2.10 % within 30 days", "<title>shadowcast</title>", "&lt;img src=x"} {
		if !strings.Contains(dom, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(dom)
	}
	out := os.Getenv("SHADOWCAST_SCREENSHOTS")
	if out == "" {
		out = t.TempDir()
	}
	picture := filepath.Join(out, "status.png")
	browse("--screenshot=" + picture)
	if st, err := os.Stat(picture); err != nil || st.Size() < 20_000 {
		t.Errorf("screenshot: %v, %v", st, err)
	}
}
