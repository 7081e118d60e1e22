package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/tests/sensors"
	"github.com/shadowcast/shadowcast/tests/uml"
)

// One fault after another, and Prometheus with the shipped rules watching: every rule
// fires for the fault that it is there for.
func init() {
	o := fleetOptions(ConnSpec{Cert: true})
	o.Appliances, o.PPS = []string{"ams", "fra"}, 50
	// The second client is one with a classic mistake: its first child comes up, none is
	// ever rekeyed.
	stubborn := o.Conn
	stubborn.RekeyDH = "modp2048"
	o.Clients = []ClientSpec{{Conn: o.Conn}, {Conn: stubborn}}
	// Probes as slow as these are what ShadowcastTakeoverSlow warns of.
	o.BFD, o.Probe = BFD{Interval: 500 * time.Millisecond, Multiplier: 6}, config.Probe{Interval: 200 * time.Millisecond, Lost: 10}
	Register(Scenario{
		Name: "alerts", Doc: "Prometheus with the shipped rules watches one fault after another: which rule fires for which",
		Need: fleetNeed | uml.Netem, Options: o, Bench: true, Timeout: 25 * time.Minute, Run: alerts,
	})
}

// drill is a scenario whose faults are watched by Prometheus.
type drill struct {
	t    *T
	l    *Lab
	prom *prometheus

	mu    sync.Mutex
	fault string
	fired map[string][]string // by rule: the faults during which it fired
	told  map[string]string   // by rule: the first summary
}

func alerts(t *T, l *Lab) {
	ctx := t.Context()
	ams, fra := l.Appliance("ams"), l.Appliance("fra")
	trees := map[string]*sensors.Tree{}
	for _, a := range l.Appliances() {
		tree, err := watchSensors(a, 5, healthHold)
		t.Check(err)
		trees[a.Name] = tree
	}
	t.Check(blind(trees["fra"], true))
	_, err := pki.Issue(l.fleet.dir, "fra", []netip.Addr{fra.Addr}, pki.Options{Validity: 10 * 24 * time.Hour, Force: true})
	t.Check(err)
	t.Check(enterAt(l, "ams"))
	prom, err := l.startPrometheus(ctx)
	t.Check(err)
	d := &drill{t: t, l: l, prom: prom, fired: map[string][]string{}, told: map[string]string{}}
	watch, stop := context.WithCancel(ctx)
	var g sync.WaitGroup
	g.Go(func() { d.watch(watch) })
	defer g.Wait()
	defer stop()

	d.step("one of two appliances starts, without sensors and with a certificate for ten days", fra.Start,
		"ShadowcastDown", "ShadowcastPeerDown", "ShadowcastHealthBlind", "ShadowcastCertificateExpiring", "ShadowcastSlotUnprotected", "ShadowcastSlotLessProtected", "ShadowcastShadowUnarmed")
	t.Check(blind(trees["fra"], false))
	d.step("the other one starts", ams.Start)
	for _, a := range l.Appliances() {
		t.Check(a.WaitReady(ctx))
	}
	allReady(t, l)
	s := join(t, l, 0)

	d.step("messages that nobody can read arrive on the way from charon", func() error { return garble(ams, s.slot) }, "ShadowcastHALinkDrops")
	d.step("the sequence numbers of an SA come near the end of their block", func() error { return nearEnd(t, ams, s) }, "ShadowcastSequenceBlockLow")
	d.step("a router's BFD is switched off", d.birdc("r1", "disable bfd1"), "ShadowcastBFDDown")
	d.step("a router dies", func() error { return errors.Join(d.birdc("r1", "enable bfd1")(), l.router("r2").Kill()) }, "ShadowcastBGPSessionDown")
	t.Check(l.restartRouter(ctx, "r2"))
	allReady(t, l)
	d.step("a router drops its session again and again", func() error {
		for range 5 {
			if err := d.again(ams, "r1"); err != nil {
				return err
			}
		}
		return nil
	}, "ShadowcastBGPFlapping")
	d.step("somebody deletes the tunnel to the other appliances", func() error {
		o := owned(t, l, s.slot)
		if err := o.ns.deleteLink("sctun"); err != nil {
			return err
		}
		return d.toAndFro(s.slot, 20, "ShadowcastErrors")
	}, "ShadowcastErrors")
	for _, a := range l.Appliances() { // whoever it was; a start makes it again
		t.Check(a.StopDaemon(ctx))
		t.Check(a.Start())
		allReady(t, l)
	}
	t.Check(d.bring(s.slot, ams))
	second := join(t, l, 1)
	d.step("a slot moves to and fro while a client refuses every rekey", func() error { return d.toAndFro(second.slot, 70, "ShadowcastTicketsLow") }, "ShadowcastTicketsLow")
	t.Check(second.Client.Terminate())
	allReady(t, l)
	d.step("an owner has no file descriptor left", func() error { return d.exhaust(owned(t, l, s.slot), "ShadowcastSnapshotFailed") }, "ShadowcastSnapshotFailed")
	allReady(t, l)
	d.step("a flood of IKE arrives while the daemon stands still", func() error { return d.flood(owned(t, l, s.slot), s.slot) }, "ShadowcastSteeringEventsLost")
	allReady(t, l)
	t.Check(d.bring(s.slot, ams))
	d.step("the way between the appliances loses packets", d.lossy(fra, 30), "ShadowcastPeerLossy")
	t.Check(d.lossy(fra, 0)())
	allReady(t, l)
	d.step("moves are given up, for the target freezes", func() error {
		for range 4 {
			if err := d.giveUp(ams, fra, s.slot); err != nil {
				return err
			}
		}
		return nil
	}, "ShadowcastHandoversFail")
	d.step("a shadow freezes under traffic while keys change", func() error {
		return errors.Join(fra.Daemon().Freeze(), s.Client.RekeyChild(ctx))
	}, "ShadowcastReplicationLag", "ShadowcastReplayExposure")
	t.Check(fra.Daemon().Thaw())
	allReady(t, l)
	d.step("an appliance loses power", func() error {
		_, err := ams.PowerCut()
		return err
	}, "ShadowcastDown", "ShadowcastTakeover", "ShadowcastTakeoverSlow")
	was := ams.Config.Fleet.Handover.DrainTime
	ams.Config.Fleet.Handover.DrainTime = 2 * was
	d.step("it comes back with another fleet section", ams.PowerOn, "ShadowcastFleetSkew", "ShadowcastSlotAwayFromHome")
	ams.Config.Fleet.Handover.DrainTime = was
	d.step("it comes back with the key of another fleet", func() error {
		file := ams.Config.FleetKeyFile
		ams.Config.FleetKeyFile = strangeKey(t, l)
		defer func() { ams.Config.FleetKeyFile = file }()
		return errors.Join(ams.StopDaemon(ctx), ams.Start())
	}, "ShadowcastPeerRefused")
	t.Check(ams.StopDaemon(ctx))
	t.Check(ams.Start())
	allReady(t, l)
	d.step("the charon of a shadow's slot dies as often as it is started", func() error { return keepKilling(t, l.Appliance(other(l, owned(t, l, s.slot))), s.slot) }, "ShadowcastSlotDown")
	allReady(t, l)
	holder := owned(t, l, s.slot)
	d.step("an owner loses power while the charon of its shadow dies as often as it is started", func() error {
		if _, err := holder.PowerCut(); err != nil {
			return err
		}
		return keepKilling(t, l.Appliance(other(l, holder)), s.slot)
	}, "ShadowcastSlotWithoutOwner")
	t.Check(holder.PowerOn())
	allReady(t, l)
	d.step("an owner is cut off from all but its own machine", func() error { return owned(t, l, s.slot).Unplug() }, "ShadowcastSlotOwnedTwice")
	t.Check(errors.Join(ams.Plug(), fra.Plug()))
	allReady(t, l)
	d.step("every machine is too hot", func() error {
		return errors.Join(trees["ams"].Heat(sensors.Crit+1, true), trees["fra"].Heat(sensors.Crit+1, true))
	}, "ShadowcastHealthRisk", "ShadowcastHealthLimit", "ShadowcastDraining", "ShadowcastVIPNowhere")
	d.report()
}

// stepPatience bounds the wait for a fault's alerts.
const stepPatience = 90 * time.Second

// step does something and waits until the alerts fire that it must raise.
func (d *drill) step(fault string, do func() error, want ...string) {
	d.mu.Lock()
	d.fault = fault
	d.mu.Unlock()
	from := time.Now()
	if err := do(); err != nil {
		d.t.Errorf("%s: %v", fault, err)
	}
	ctx, cancel := contextOf(d.t, stepPatience)
	defer cancel()
	var missing []string
	if err := poll(ctx, 300*time.Millisecond, "the alerts", func() (bool, error) {
		missing = slices.DeleteFunc(slices.Clone(want), d.has)
		return len(missing) == 0, nil
	}); err != nil {
		d.t.Errorf("%s: %v did not fire within %s", fault, missing, stepPatience)
	}
	d.t.Logf("%s: %d alerts after %s", fault, len(want)-len(missing), time.Since(from).Round(100*time.Millisecond))
}

// has reports whether an alert has fired for the present fault.
func (d *drill) has(alert string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Contains(d.fired[alert], d.fault)
}

// watch notes what fires during which fault until ctx ends.
func (d *drill) watch(ctx context.Context) {
	for ctx.Err() == nil {
		now, err := d.prom.firing(ctx)
		if err != nil && ctx.Err() == nil {
			d.t.Logf("%v", err)
		}
		d.mu.Lock()
		for a, summary := range now {
			if d.told[a] == "" {
				d.told[a] = summary
			}
			if !slices.Contains(d.fired[a], d.fault) {
				d.fired[a] = append(d.fired[a], d.fault)
			}
		}
		d.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// report prints which rule fired for what and fails for those that never did.
func (d *drill) report() {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b strings.Builder
	names := ruleNames()
	n := 0
	for _, a := range names {
		switch {
		case len(d.fired[a]) > 0:
			n++
			fmt.Fprintf(&b, "%-28s %s: %q\n", strings.TrimPrefix(a, "Shadowcast"), d.fired[a][0], d.told[a])
		default:
			fmt.Fprintf(&b, "%-28s DID NOT FIRE\n", strings.TrimPrefix(a, "Shadowcast"))
			d.t.Errorf("%s never fired", a)
		}
	}
	fmt.Fprintf(&b, "%d of %d rules fired\n", n, len(names))
	d.t.Metric("rules", len(names))
	d.t.Metric("fired", n)
	d.t.Metric("by_rule", d.fired)
	d.t.Table(b.String())
}
