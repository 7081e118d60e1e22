package metrics

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/steer"
)

var update = flag.Bool("update", false, "write the golden files")

type fixed struct {
	s   *Snapshot
	err error
}

func (f fixed) Snapshot(context.Context) (*Snapshot, error) { return f.s, f.err }

// fleetSnapshot is an appliance with slots slots of two shadows each.
func fleetSnapshot(slots int) *Snapshot {
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	s := &Snapshot{
		Appliance: &v1.Appliance{Name: "ams", Site: "amsterdam", Version: "1.2.3", FleetDigest: "d1", Started: timestamppb.New(at), Shadowing: true, Sessions: 42, SlotsActive: 1, SlotsShadowed: 1},
		Standing:  v1.Standing_STANDING_WATCH,
		Peers: []*v1.Peer{{Name: "fra", State: v1.PeerState_PEER_STATE_UP, Rtt: durationpb.New(8 * time.Millisecond), Loss: math.NaN()},
			{Name: "lhr", State: v1.PeerState_PEER_STATE_SUSPECT, Loss: 0.25}},
		BGP: &v1.GetBGPResponse{Enabled: true, Level: v1.BGPLevel_BGP_LEVEL_NORMAL, Peers: []*v1.BGPPeer{
			{Name: "edge1", Role: "outside", State: "established", Bfd: "up", Announced: 2, Flaps: 1}, {Name: "core1", Role: "inside", State: "active", Bfd: "off"}}},
		Health: &v1.GetHealthResponse{Enabled: true, State: v1.Standing_STANDING_WATCH, Risk_30D: 0.02, Evidence_30D: 0.01, Risk_1H: 0.001, Confidence: 0.9,
			Causes: []*v1.HealthCause{{Device: "disk sda", Signal: "smart.187", Term: "187>=1", Horizon: "30d", Share: 0.5}, {Device: "disk sda", Signal: "smart.187", Term: "187>=1", Horizon: "30d", Share: 0.25}},
			Limits: []*v1.HealthLimit{{Redundant: true}}, Refused: 3},
		Steering:     map[string]uint64{},
		Unique:       &Unique{Ended: map[string]uint64{"replace": 2, "keep": 1}, Untold: 5},
		Certificates: map[string]time.Time{"ca": at.Add(time.Hour), "cert": at},
	}
	for i, r := range steer.Reasons() {
		s.Steering[r.String()] = uint64(i)
	}
	for n := uint32(1); n <= uint32(slots); n++ {
		x := &v1.Slot{Number: n, Home: "ams", Role: v1.Role_ROLE_OWNER, State: v1.SlotState_SLOT_STATE_ACTIVE, OwnerTicket: 7, Ticket: 7, Sessions: 42, Charon: &v1.Charon{Pid: 9},
			Fence:    &v1.Fence{State: v1.FenceState_FENCE_STATE_DEADLINE},
			Counters: map[string]uint64{"packets_uplink_local": 5, "packets_peer_local": 6, "packets_tunnelled": 7, "ha_received": 8, "ha_dropped": 1, "ha_sent": 9, "ha_undecodable": 0, "fence_dropped_in": 2, "fence_dropped_out": 3, "fence_dropped_barred": 4},
			Shadows: []*v1.Shadow{{Name: "fra", Ticket: 8, Ready: true, Connected: true, Sessions: 42, ReplayAge: durationpb.New(time.Second)},
				{Name: "lhr", Ticket: 6, LagMessages: 3, Lag: durationpb.New(2 * time.Second)}}}
		s.Slots = append(s.Slots, x)
		s.Replication = append(s.Replication, Replication{Slot: sa.Slot(n), Shadow: "fra", Bytes: 1000, Connects: 1}, Replication{Slot: sa.Slot(n), Shadow: "lhr", Bytes: 10, Connects: 4, Repairs: 1})
		s.Sequences = append(s.Sequences, Sequence{Slot: sa.Slot(n), SAs: 42, Headroom: 0.5, BlocksLeft: 60})
	}
	return s
}

func registry(t *testing.T, s *Snapshot) *prometheus.Registry {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(NewCollector(fixed{s: s}, slog.New(slog.DiscardHandler)))
	return reg
}

// gather renders reg in the text format, without the times that this run took.
func gather(t *testing.T, reg prometheus.Gatherer) string {
	t.Helper()
	got, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range got {
		if f.GetName() == "shadowcast_snapshot_duration_seconds" {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func TestExposition(t *testing.T) {
	s := fleetSnapshot(1)
	s.Slots = append(s.Slots,
		&v1.Slot{Number: 2, Home: "fra", Role: v1.Role_ROLE_SHADOW, State: v1.SlotState_SLOT_STATE_PASSIVE, Ticket: 4, Sessions: 3, Charon: &v1.Charon{Pid: 10}, Fence: &v1.Fence{State: v1.FenceState_FENCE_STATE_CLOSED}},
		&v1.Slot{Number: 3, Home: "lhr", Role: v1.Role_ROLE_NONE, State: v1.SlotState_SLOT_STATE_ABSENT})
	got := gather(t, registry(t, s))
	golden := filepath.Join("testdata", "exposition.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the exposition changed; see `go test ./metrics -update` and git diff:\n%s", got)
	}
}

// A slot is served where anybody is heard that owns it.
func TestServed(t *testing.T) {
	s := fleetSnapshot(1)
	s.Peers[0].Claims = []*v1.Claim{{Slot: 2, Ticket: 4}}
	s.Peers[1].Claims = []*v1.Claim{{Slot: 3, Ticket: 5}} // it is not heard
	for n := uint32(2); n <= 4; n++ {
		s.Slots = append(s.Slots, &v1.Slot{Number: n, Owner: "fra", Role: v1.Role_ROLE_SHADOW, State: v1.SlotState_SLOT_STATE_PASSIVE})
	}
	got := gather(t, registry(t, s))
	for n, want := range []int{1: 1, 1, 0, 0} {
		if line := fmt.Sprintf("shadowcast_slot_served{slot=\"%d\"} %d\n", n, want); n > 0 && !strings.Contains(got, line) {
			t.Errorf("no line %q in\n%s", line, got)
		}
	}
}

// Names, units and help texts follow the conventions of Prometheus.
func TestLint(t *testing.T) {
	reg := registry(t, fleetSnapshot(2))
	r := NewRecorder(silent{}, reg)
	for _, ev := range story() {
		r.Add(ev)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed: scripts/deps.sh")
	}
	cmd := exec.Command(tool, "check", "metrics")
	cmd.Stdin = strings.NewReader(gather(t, reg))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// The number of series grows with the slots that have a place here and with
// nothing that clients, disks or the event log can bring.
func TestCardinality(t *testing.T) {
	count := func(s *Snapshot) int {
		n, err := testutil.GatherAndCount(registry(t, s))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	one, two, many := count(fleetSnapshot(1)), count(fleetSnapshot(2)), count(fleetSnapshot(64))
	perSlot := two - one
	if many != one+63*perSlot {
		t.Errorf("64 slots give %d series, want %d + 63 x %d", many, one, perSlot)
	}
	if perSlot > 60 {
		t.Errorf("a slot with two shadows has %d series, want at most 60", perSlot)
	}
	s := fleetSnapshot(1)
	for i := range 1000 {
		s.Health.Causes = append(s.Health.Causes, &v1.HealthCause{Device: fmt.Sprint("disk ", i), Horizon: "30d"})
		s.Slots = append(s.Slots, &v1.Slot{Number: uint32(i + 2), State: v1.SlotState_SLOT_STATE_ABSENT})
	}
	if got := count(s); got > one+maxCauses {
		t.Errorf("1000 causes and 1000 slots of others give %d series, want at most %d", got, one+maxCauses)
	}

	reg := prometheus.NewRegistry()
	r := NewRecorder(silent{}, reg)
	before, _ := testutil.GatherAndCount(reg)
	for i := range 10_000 {
		r.Add(&v1.Event{Kind: fmt.Sprint("kind-", i), Severity: v1.Severity(i % 5)})
		r.Add(&v1.Event{Kind: "audit", Attributes: map[string]string{"call": fmt.Sprint("call-", i), "outcome": fmt.Sprint(i)}})
		r.Add(&v1.Event{Kind: "move", Attributes: map[string]string{"move": fmt.Sprint(i), "phase": "prepare"}})
		r.Add(&v1.Event{Kind: "claim", Slot: uint32(i), Attributes: map[string]string{"detection": "1s"}})
	}
	after, err := testutil.GatherAndCount(reg)
	if err != nil {
		t.Fatal(err)
	}
	// A kind or call and "other", in at most 4 severities or 5 outcomes.
	if limit := before + (maxWords+1)*4 + (maxWords+1)*5 + 1; after > limit {
		t.Errorf("odd events give %d series, want at most %d", after, limit)
	}
	if len(r.moves) > maxOpen || len(r.claims) > maxOpen {
		t.Errorf("%d moves and %d claims are remembered, want at most %d", len(r.moves), len(r.claims), maxOpen)
	}
}

// A daemon that does not answer is told as such, not as zeroes.
func TestNoAnswer(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(NewCollector(fixed{err: errors.New("gone")}, slog.New(slog.DiscardHandler)))
	got := gather(t, reg)
	if !strings.Contains(got, "shadowcast_snapshot_up 0") || strings.Contains(got, "shadowcast_sessions") {
		t.Errorf("without an answer:\n%s", got)
	}
}

// What can be told is told, and that something is missing as well.
func TestPartMissing(t *testing.T) {
	s := fleetSnapshot(1)
	s.Missing = errors.New("no file descriptor left")
	got := gather(t, registry(t, s))
	if !strings.Contains(got, "shadowcast_snapshot_up 0") || !strings.Contains(got, "shadowcast_sessions 42") {
		t.Errorf("with a part missing:\n%s", got)
	}
}

// An appliance without BGP, health and slots shows what it has.
func TestBareSnapshot(t *testing.T) {
	got := gather(t, registry(t, &Snapshot{Appliance: &v1.Appliance{Name: "x"}, BGP: &v1.GetBGPResponse{}, Health: &v1.GetHealthResponse{}}))
	for _, absent := range []string{"health_", "bgp_", "slot_", "standing"} {
		if strings.Contains(got, namespace+absent) {
			t.Errorf("a bare snapshot shows %s*:\n%s", absent, got)
		}
	}
	if !strings.Contains(got, `shadowcast_slots{role="owner"} 0`) {
		t.Errorf("no slots are not told as 0:\n%s", got)
	}
}
