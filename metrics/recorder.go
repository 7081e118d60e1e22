package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// EventLog is the appliance's event log, as operator.Events keeps it.
type EventLog interface {
	After(id uint64, limit int) (events []*v1.Event, missed uint64, changed <-chan struct{})
}

// maxWords bounds the values of a label that comes from the event log; what comes
// after them counts as "other".
const maxWords = 64

// maxOpen bounds the moves and claims whose end is awaited.
const maxOpen = 4096

// batch is how many events are taken out of the log at once.
const batch = 256

// Recorder counts what happens. It learns of it from the event log only, so the
// appliance shell knows nothing of metrics.
type Recorder struct {
	log EventLog

	events    *prometheus.CounterVec
	missed    prometheus.Counter
	calls     *prometheus.CounterVec
	takeovers *prometheus.CounterVec
	takeover  *prometheus.HistogramVec
	handovers *prometheus.CounterVec
	handover  prometheus.Observer
	phase     *prometheus.HistogramVec
	drains    *prometheus.CounterVec

	all              []prometheus.Collector
	reference        []Metric
	kinds, callNames words
	moves            map[string]*openMove
	claims           map[uint32]openClaim
}

// openMove is a planned move of a slot owned here that is not over.
type openMove struct {
	began, since time.Time
	phase        string
}

// openClaim is a takeover whose charon is not active yet.
type openClaim struct {
	at        time.Time
	detection time.Duration
}

// Buckets of the histograms in seconds: a takeover is detected in tenths of a
// second and has charon active some seconds later at the latest; a phase of a move
// takes milliseconds, quiesce up to 5 s.
var (
	takeoverBuckets = []float64{.05, .1, .2, .3, .5, .75, 1, 1.5, 2, 3, 5, 10, 30}
	phaseBuckets    = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
)

// NewRecorder makes a recorder of log and registers its metrics.
func NewRecorder(log EventLog, reg prometheus.Registerer) *Recorder {
	r := &Recorder{log: log, moves: map[string]*openMove{}, claims: map[uint32]openClaim{}, kinds: words{}, callNames: words{}}
	r.events = r.counters("events_total", "Entries of the event log by kind and severity.", "kind", "severity")
	r.missed = r.counters("events_missed_total", "Entries of the event log that were overwritten before they were counted.").WithLabelValues()
	r.calls = r.counters("operator_calls_total", "Calls of the operator API that change something or reveal keys, by outcome.", "call", "outcome")
	r.takeovers = r.counters("takeovers_total", "Claims of slots: owner-died are takeovers, planned are moves, first claims and those of slots that an owner gave up.", "cause")
	r.takeover = r.histograms("takeover_duration_seconds", takeoverBuckets,
		"Takeovers of slots whose owner died: detection from its last sign of life to the claim, activation from the claim to an active charon (packets flow before that), total both.", "phase")
	r.handovers = r.counters("handovers_total", "Planned moves of slots owned here by outcome.", "outcome")
	r.handover = r.histograms("handover_duration_seconds", takeoverBuckets, "Planned moves that were completed.").WithLabelValues()
	r.phase = r.histograms("handover_phase_duration_seconds", phaseBuckets, "Phases of planned moves of slots owned here.", "phase")
	r.drains = r.counters("drains_total", "Drains of this appliance by outcome.", "outcome")
	// Known values are there from the start, so that a rate sees the first one.
	r.events.WithLabelValues(r.kinds.bound("error"), severityText(v1.Severity_SEVERITY_WARNING))
	for _, c := range []string{causeDeath, causeOther} {
		r.takeovers.WithLabelValues(c)
	}
	for _, o := range moveEnds {
		r.handovers.WithLabelValues(o)
	}
	for _, o := range drainEnds {
		r.drains.WithLabelValues(o)
	}
	for _, p := range takeoverPhases {
		r.takeover.WithLabelValues(p)
	}
	reg.MustRegister(r.all...)
	return r
}

func (r *Recorder) counters(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: namespace + name, Help: help}, labels)
	r.reference, r.all = append(r.reference, Metric{namespace + name, "counter", labels, help}), append(r.all, v)
	return v
}

func (r *Recorder) histograms(name string, buckets []float64, help string, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: namespace + name, Help: help, Buckets: buckets}, labels)
	r.reference, r.all = append(r.reference, Metric{namespace + name, "histogram", labels, help}), append(r.all, v)
	return v
}

// String names the task.
func (r *Recorder) String() string { return "metrics recorder" }

// Run counts events until ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	var at uint64
	for {
		events, missed, changed := r.log.After(at, batch)
		r.missed.Add(float64(missed))
		at += missed
		for _, ev := range events {
			at = ev.Id
			r.Add(ev)
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// Causes of a claim: the owner died, or everything that needs no detection (first
// claims, planned moves, a yielding owner).
const (
	causeDeath = "owner-died"
	causeOther = "planned"
)

var (
	takeoverPhases = []string{"detection", "activation", "total"}
	moveEnds       = []string{"done", "aborted", "refused"}
	drainEnds      = []string{"done", "ended"}
	movePhases     = map[string]bool{"prepare": true, "quiesce": true, "flush": true, "take": true, "flip": true, "drain": true, "close": true}
)

// Add counts one event. It is called by Run only, or by a test.
func (r *Recorder) Add(ev *v1.Event) {
	r.events.WithLabelValues(r.kinds.bound(ev.Kind), severityText(ev.Severity)).Inc()
	switch ev.Kind {
	case "audit":
		r.calls.WithLabelValues(r.callNames.bound(ev.Attributes["call"]), outcome(ev.Attributes["outcome"])).Inc()
	case "claim":
		r.claim(ev)
	case "active":
		r.active(ev)
	case "lost":
		delete(r.claims, ev.Slot)
	case "move":
		r.move(ev)
	case "drain":
		switch p := ev.Attributes["phase"]; p {
		case "done", "ended":
			r.drains.WithLabelValues(p).Inc()
		}
	}
}

func (r *Recorder) claim(ev *v1.Event) {
	d, err := time.ParseDuration(ev.Attributes["detection"])
	if err != nil || d <= 0 {
		r.takeovers.WithLabelValues(causeOther).Inc()
		delete(r.claims, ev.Slot)
		return
	}
	r.takeovers.WithLabelValues(causeDeath).Inc()
	r.takeover.WithLabelValues("detection").Observe(d.Seconds())
	if len(r.claims) < maxOpen {
		r.claims[ev.Slot] = openClaim{ev.Time.AsTime(), d}
	}
}

func (r *Recorder) active(ev *v1.Event) {
	c, ok := r.claims[ev.Slot]
	if !ok {
		return
	}
	delete(r.claims, ev.Slot)
	took := max(ev.Time.AsTime().Sub(c.at), 0)
	r.takeover.WithLabelValues("activation").Observe(took.Seconds())
	r.takeover.WithLabelValues("total").Observe((c.detection + took).Seconds())
}

// move follows a planned move. The target tells of its own end of it too, which is
// not counted: it has no phases here.
func (r *Recorder) move(ev *v1.Event) {
	id, phase, now := ev.Attributes["move"], ev.Attributes["phase"], ev.Time.AsTime()
	m := r.moves[id]
	switch {
	case id == "":
	case movePhases[phase]:
		if m == nil {
			if len(r.moves) >= maxOpen {
				return
			}
			m = &openMove{began: now, since: now, phase: phase}
			r.moves[id] = m
		}
		if phase != m.phase {
			r.phase.WithLabelValues(m.phase).Observe(max(now.Sub(m.since), 0).Seconds())
			m.phase, m.since = phase, now
		}
	case phase == "refused":
		r.handovers.WithLabelValues(phase).Inc()
	case m == nil:
	case phase == "done", phase == "aborted":
		delete(r.moves, id)
		r.handovers.WithLabelValues(phase).Inc()
		if phase == "done" {
			r.phase.WithLabelValues(m.phase).Observe(max(now.Sub(m.since), 0).Seconds())
			r.handover.Observe(max(now.Sub(m.began), 0).Seconds())
		}
	}
}

// words are the values seen of one label.
type words map[string]bool

func (w words) bound(s string) string {
	if s == "" {
		return "unknown"
	}
	if !w[s] {
		if len(w) >= maxWords {
			return "other"
		}
		w[s] = true
	}
	return s
}

// outcome bounds what an audit entry may say.
func outcome(s string) string {
	switch s {
	case "asked", "done", "failed", "refused":
		return s
	}
	return "other"
}

func severityText(s v1.Severity) string {
	switch s {
	case v1.Severity_SEVERITY_DEBUG:
		return "debug"
	case v1.Severity_SEVERITY_WARNING:
		return "warning"
	case v1.Severity_SEVERITY_ERROR:
		return "error"
	}
	return "info"
}
