package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/xfrm"
	"github.com/shadowcast/shadowcast/tests/sensors"
	"github.com/shadowcast/shadowcast/tests/uml"
)

// One fault after another, and Prometheus with the shipped rules watching: every rule
// fires for the fault that it is there for. What cannot be provoked here is named.
func init() {
	o := fleetOptions(ConnSpec{Cert: true})
	o.Appliances, o.PPS = []string{"ams", "fra"}, 50
	// Probes as slow as these are what ShadowcastTakeoverSlow warns of.
	o.BFD, o.Probe = BFD{Interval: 500 * time.Millisecond, Multiplier: 6}, config.Probe{Interval: 200 * time.Millisecond, Lost: 10}
	Register(Scenario{
		Name: "alerts", Doc: "Prometheus with the shipped rules watches one fault after another: which rule fires for which",
		Need: fleetNeed | uml.Netem, Options: o, Bench: true, Timeout: 15 * time.Minute, Run: alerts,
	})
}

// notProvoked are the rules that no fault of this scenario can make fire, and why.
// Their expressions are played by promtool (configs/prometheus/alerts_test.yaml).
var notProvoked = map[string]string{
	"ShadowcastSnapshotFailed":     "the endpoint and the core share a process: what stops the one stops the other (ShadowcastDown)",
	"ShadowcastTicketsLow":         "owners rekey children that run out of blocks before: 70 moves in a row did not bring it about",
	"ShadowcastSteeringEventsLost": "the ring takes 4 MB of IKE headers, more than a guest's clients send",
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
		return d.toAndFro(s.slot, "ShadowcastErrors")
	}, "ShadowcastErrors")
	for _, a := range l.Appliances() { // whoever it was; a start makes it again
		t.Check(a.StopDaemon(ctx))
		t.Check(a.Start())
		allReady(t, l)
	}
	if o := owned(t, l, s.slot); o != ams {
		_, err := o.Handover(ctx, s.slot, ams.Name, nil)
		t.Check(err)
		allReady(t, l)
	}
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
		d.mu.Lock()
		defer d.mu.Unlock()
		missing = slices.DeleteFunc(slices.Clone(want), func(a string) bool { return slices.Contains(d.fired[a], fault) })
		return len(missing) == 0, nil
	}); err != nil {
		d.t.Errorf("%s: %v did not fire within %s", fault, missing, stepPatience)
	}
	d.t.Logf("%s: %d alerts after %s", fault, len(want)-len(missing), time.Since(from).Round(100*time.Millisecond))
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
		case notProvoked[a] != "":
			fmt.Fprintf(&b, "%-28s not provoked: %s\n", strings.TrimPrefix(a, "Shadowcast"), notProvoked[a])
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

// birdc gives a router's BIRD a command.
func (d *drill) birdc(router, command string) func() error {
	return func() error {
		_, err := d.l.Router(router, command)
		return err
	}
}

// again has a router drop its session with an appliance, and waits for the next one.
func (d *drill) again(a *Appliance, router string) error {
	flaps := func() (n uint32, up bool, err error) {
		api, err := a.API()
		if err != nil {
			return 0, false, err
		}
		r, err := api.GetBGP(d.t.Context(), &v1.GetBGPRequest{})
		if err != nil {
			return 0, false, err
		}
		for _, p := range r.Peers {
			if p.Name == router {
				return uint32(p.Flaps), p.State == "established", nil
			}
		}
		return 0, false, fmt.Errorf("%s has no session with %s", a.Name, router)
	}
	before, _, err := flaps()
	if err != nil {
		return err
	}
	if err := d.birdc(router, "restart "+a.Name+"_4")(); err != nil {
		return err
	}
	ctx, cancel := contextOf(d.t, stepPatience)
	defer cancel()
	return poll(ctx, 100*time.Millisecond, "the session of "+a.Name+" with "+router+" to be lost and up again", func() (bool, error) {
		n, up, err := flaps()
		return up && n > before, err
	})
}

// lossy loses packets of both the appliance's outside links, in per cent.
func (d *drill) lossy(a *Appliance, loss float64) func() error {
	return func() error {
		var errs []error
		for _, r := range []string{"r1", "r2"} {
			k, err := d.l.Link(r, a.Name)
			if err == nil {
				err = k.ImpairFromB(Impairment{Loss: loss})
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
}

// toAndFro moves a slot between the appliances until an alert fires, at most 70 times.
func (d *drill) toAndFro(slot uint32, until string) error {
	for range 70 {
		d.mu.Lock()
		done := slices.Contains(d.fired[until], d.fault)
		d.mu.Unlock()
		if done {
			return nil
		}
		from := owned(d.t, d.l, slot)
		if _, err := from.Handover(d.t.Context(), slot, other(d.l, from), nil); err != nil {
			d.t.Logf("to and fro: %v", err)
			pause(d.t, 500*time.Millisecond)
		}
	}
	return nil
}

// giveUp asks for a move to an appliance that freezes, and has it thaw again.
func (d *drill) giveUp(from, to *Appliance, slot uint32) error {
	if err := to.Daemon().Freeze(); err != nil {
		return err
	}
	_, err := from.Handover(d.t.Context(), slot, to.Name, nil)
	if terr := to.Daemon().Thaw(); terr != nil {
		return terr
	}
	if err == nil {
		return fmt.Errorf("slot %d moved to %s, which stood still", slot, to.Name)
	}
	d.t.Logf("the move was given up: %v", err)
	allReady(d.t, d.l)
	return nil
}

// garble sends the daemon what no charon would say.
func garble(a *Appliance, slot uint32) error {
	names, err := a.SlotNamespaces()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(names, func(x string) bool { return strings.HasSuffix(x, fmt.Sprintf("s%d", slot)) })
	if i < 0 {
		return fmt.Errorf("%s has no namespace of slot %d", a.Name, slot)
	}
	return inNamespace(names[i], func() error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return fmt.Errorf("open raw socket: %w", err)
		}
		defer unix.Close(s)
		for range 3 {
			if err := unix.Sendto(s, asCharon([]byte("this is no message")), 0, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 2}}); err != nil {
				return fmt.Errorf("send to the daemon: %w", err)
			}
		}
		return nil
	})
}

// strangeKey is the file of a fleet key that nobody else has.
func strangeKey(t *T, l *Lab) string {
	dir := filepath.Join(l.dir, "stranger")
	_, err := pki.Init(dir, pki.Options{})
	t.Check(err)
	return filepath.Join(dir, pki.FleetKeyFile)
}

// keepKilling kills every charon that runs for a slot, for longer than the rules wait.
func keepKilling(t *T, a *Appliance, slot uint32) error {
	var last int
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		pid := int(slotAt(t.Context(), a, slot).GetCharon().GetPid())
		if pid == 0 || pid == last {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill charon of slot %d at %s: %w", slot, a.Name, err)
		}
		last = pid
	}
	return nil
}

// nearEnd moves what the session's outbound SA has sent to the last part of its block,
// as a peer that answers no rekey would see it.
func nearEnd(t *T, a *Appliance, s *attached) error {
	_, out := clientSPIs(t, s.Client)
	c, err := xfrm.Open(slotNetns(t, a, s.slot))
	if err != nil {
		return err
	}
	defer c.Close()
	states, err := c.Dump()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(states, func(x xfrm.State) bool { return x.SPI == out })
	if i < 0 {
		return fmt.Errorf("%s has no SA %s", a.Name, out)
	}
	_, err = c.Write([]xfrm.ReplayWrite{{ID: states[i].ID, OSeq: states[i].OSeq/sa.BlockSize*sa.BlockSize + sa.BlockSize - sa.BlockSize/50}})
	return err
}

// blind takes the sensors away, or brings them back.
func blind(s *sensors.Tree, on bool) error {
	var errs []error
	for _, d := range []string{"sys", "smart"} {
		from, to := s.Path(d), s.Path(d+".away")
		if !on {
			from, to = to, from
		}
		errs = append(errs, unix.Rename(from, to))
	}
	return errors.Join(errs...)
}
