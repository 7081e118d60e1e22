package slot

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

var testVIPs = []netip.Addr{netip.MustParseAddr("198.51.100.1")}

// After the daemon: a fence with a deadline closes when it has passed and not
// before, one without stays open unless everything is to end.
func TestShutFences(t *testing.T) {
	h, _, cfg := newHost(t)
	if err := h.Set(t.Context(), Desired{Slots: []Slot{{Number: 1, VIPs: testVIPs}, {Number: 2, VIPs: testVIPs}, {Number: 3, VIPs: testVIPs}}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.CleanUp(); err != nil {
			t.Error(err)
		}
	})
	const left = 300 * time.Millisecond
	until := After(left)
	for n, d := range map[sa.Slot]Deadline{1: until, 2: NoDeadline} {
		if err := h.OpenFence(n, d); err != nil {
			t.Fatal(err)
		}
	}
	shut, open, err := ShutFences(t.Context(), cfg.PinDir, false)
	if err != nil || !slices.Equal(shut, []sa.Slot{1, 3}) || !slices.Equal(open, []sa.Slot{2}) {
		t.Fatalf("shut %v, open %v, %v; want slots 1 and 3 shut, 2 open", shut, open, err)
	}
	if until.Left() > 0 {
		t.Error("the fence of slot 1 was closed before its deadline")
	}
	want := func(n sa.Slot, deadline Deadline) {
		t.Helper()
		if _, d, err := h.Fence(n); err != nil || d != deadline {
			t.Errorf("slot %d: deadline %d, %v, want %d", n, d, err, deadline)
		}
	}
	want(1, 0)
	want(2, NoDeadline)

	// An impatient caller learns that it is still open.
	if err := h.OpenFence(1, After(time.Hour)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, open, err := ShutFences(ctx, cfg.PinDir, false); err == nil || !slices.Contains(open, 1) {
		t.Errorf("with an hour left: open %v, %v", open, err)
	}

	if shut, open, err := ShutFences(t.Context(), cfg.PinDir, true); err != nil || len(shut) != 3 || len(open) != 0 {
		t.Errorf("all: shut %v, open %v, %v", shut, open, err)
	}
	want(1, 0)
	want(2, 0)

	if shut, open, err := ShutFences(t.Context(), cfg.PinDir+"-none", true); err != nil || len(shut)+len(open) != 0 {
		t.Errorf("without pins: %v, %v, %v", shut, open, err)
	}
}

// Namespaces are made once, with the fence closed, and an open one is left alone.
func TestPrepare(t *testing.T) {
	cfg := hostConfig(t)
	ns := netnsFile(t)
	if err := Prepare(cfg, []sa.Slot{1, 2}); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(cfg.netnsPath(1))
	if err != nil {
		t.Fatal(err)
	}
	h := openHost(t, ns, cfg)
	if err := h.Set(t.Context(), Desired{Slots: []Slot{{Number: 1, VIPs: testVIPs}, {Number: 2, VIPs: testVIPs}}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.CleanUp(); err != nil {
			t.Error(err)
		}
	})
	if open, _, err := h.Fence(1); err != nil || open {
		t.Errorf("a prepared slot's fence is open: %t, %v", open, err)
	}
	if err := h.OpenFence(1, NoDeadline); err != nil {
		t.Fatal(err)
	}
	if err := Prepare(cfg, []sa.Slot{1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeNetns(cfg.netnsPath(3)) })
	if open, _, err := h.Fence(1); err != nil || !open {
		t.Errorf("Prepare closed the fence of a slot in use: open %t, %v", open, err)
	}
	if after, err := os.Stat(cfg.netnsPath(1)); err != nil || !os.SameFile(before, after) {
		t.Errorf("Prepare replaced a namespace in use: %v", err)
	}
	if err := Prepare(Config{PinDir: "relative"}, nil); err == nil {
		t.Error("a relative pin directory was accepted")
	}
}
