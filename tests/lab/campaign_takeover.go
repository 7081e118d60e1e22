package lab

import (
	"fmt"
	"strings"
	"time"
)

// What an heir asks of its clients after a takeover: with idle clients the DPD
// timers that activation starts fire together; gradual rekeys move them apart.
const (
	takeoverClients = 12
	takeoverDPD     = 15 * time.Second
	takeoverWindow  = 500 * time.Millisecond
)

func init() {
	for _, spread := range []bool{true, false} {
		name, doc := "campaign-takeover", "power cut under idle clients: taken-over children are rekeyed gradually, DPD does not storm"
		if !spread {
			name, doc = name+"-control", "the same without gradual rekeys, for comparison: DPD storms"
		}
		o := fleetOptions(ConnSpec{DPD: takeoverDPD.String()})
		o.BFD = patientBFD
		for i := range takeoverClients {
			o.Clients = append(o.Clients, ClientSpec{Router: 1 + i%2})
		}
		Register(Scenario{Name: name, Doc: doc, Need: fleetNeed, Options: o, Timeout: 4 * time.Minute, Bench: true,
			Run: func(t *T, l *Lab) { campaignTakeover(t, l, spread) }})
	}
}

func campaignTakeover(t *T, l *Lab, spread bool) {
	t.Check(enterAt(l, "ams"))
	for _, a := range l.Appliances() {
		if spread {
			a.Config.Fleet.Handover.RekeySpread = 10 * time.Minute
		}
	}
	fleetUp(t, l)
	c := connectAll(t, l)
	st, err := l.StartStream(l.Client(0), Rate{PPS: 100, Size: campaignSize})
	t.Check(err)
	allReady(t, l)
	victim, slots := busiest(t, l)
	before := map[string]string{}
	for _, x := range l.Clients() {
		sa, err := x.SA()
		t.Check(err)
		before[x.Name] = sa.Installed()[0].Out
	}
	c.since = time.Now()
	_, err = victim.PowerCut()
	t.Check(err)
	for n := range slots {
		owned(t, l, n, victim)
	}
	at := time.Now()
	wait, cancel := contextOf(t, 10*time.Second)
	defer cancel()
	t.Check(st.WaitReceived(wait, 50))
	quiet := time.Now()
	pause(t, 2*takeoverDPD+5*time.Second)
	r := st.Report(quiet, time.Now().Add(-settle))
	// Requests of the gateways by window, over all clients.
	windows := map[int]int{}
	total, most := 0, 0
	for _, x := range l.Clients() {
		acc, err := x.IKE()
		t.Check(err)
		for _, m := range acc.Since(at).Messages {
			if !m.FromClient && !m.Response && !m.Retransmit {
				k := int(m.At.Sub(at) / takeoverWindow)
				windows[k]++
				total++
				most = max(most, windows[k])
			}
		}
	}
	rekeyed, lost := 0, c.newSessions()
	for _, x := range l.Clients() {
		sa, err := x.SA()
		if err != nil {
			t.Errorf("%s lost its session: %v", x.Name, err)
			continue
		}
		if sa.Installed()[0].Out != before[x.Name] {
			rekeyed++
		}
	}
	t.Metric("requests", total)
	t.Metric("most_in_window", most)
	t.Metric("rekeyed", rekeyed)
	var b strings.Builder
	fmt.Fprintf(&b, "gradual rekeys %t: %d of %d clients rekeyed, %d requests of the heir, at most %d in %s; %d new IKE_SAs; %d of %d packets lost after the outage\n",
		spread, rekeyed, takeoverClients, total, most, takeoverWindow, lost, r.Lost(), r.Sent())
	t.Table(b.String())
	if lost != 0 || r.Lost() != 0 {
		t.Errorf("%d new IKE_SAs, %d packets lost after the outage, want none", lost, r.Lost())
	}
	switch {
	case spread && rekeyed != takeoverClients:
		t.Errorf("%d of %d clients have a new child", rekeyed, takeoverClients)
	case spread && most > takeoverClients/2:
		t.Errorf("%d requests within %s: they are not spread", most, takeoverWindow)
	case !spread && most <= takeoverClients/2:
		t.Errorf("without gradual rekeys at most %d requests came within %s: there is no storm to avoid", most, takeoverWindow)
	}
}
