package operator

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/sa"
)

// Event is something worth telling an operator.
type Event struct {
	// Kind is a fixed word, such as "slot.claimed".
	Kind string
	// Slot is 0 when the event is about no slot.
	Slot sa.Slot
	// Level is the severity; its zero value is information.
	Level slog.Level
	// Message says what happened, Reason why.
	Message string
	Reason  string
	// Attributes name the things concerned. No key material.
	Attributes map[string]string
}

// Events is the appliance's event log: bounded, in memory, with ids that rise by
// one from 1. It is safe for concurrent use; Add never blocks on a reader.
type Events struct {
	node string
	log  *slog.Logger

	mu      sync.Mutex
	ring    []*v1.Event // the event with id n is at n % len(ring)
	last    uint64      // newest id, 0 before the first event
	changed chan struct{}
}

// NewEvents makes a log that keeps the newest capacity events and writes each to
// log as well.
func NewEvents(node string, capacity int, log *slog.Logger) *Events {
	return &Events{node: node, log: log, ring: make([]*v1.Event, max(capacity, 1)), changed: make(chan struct{})}
}

// Add appends an event and returns its id.
func (e *Events) Add(ev Event) uint64 {
	p := &v1.Event{
		Time:       timestamppb.New(time.Now()),
		Node:       e.node,
		Slot:       uint32(ev.Slot),
		Kind:       ev.Kind,
		Severity:   severity(ev.Level),
		Message:    ev.Message,
		Reason:     ev.Reason,
		Attributes: maps.Clone(ev.Attributes),
	}
	e.mu.Lock()
	e.last++
	p.Id = e.last
	e.ring[p.Id%uint64(len(e.ring))] = p
	close(e.changed)
	e.changed = make(chan struct{})
	e.mu.Unlock()

	e.log.LogAttrs(context.Background(), ev.Level, ev.Message, ev.attrs()...)
	return p.Id
}

func (ev *Event) attrs() []slog.Attr {
	attrs := []slog.Attr{slog.String("event", ev.Kind)}
	if ev.Slot != 0 {
		attrs = append(attrs, slog.Int("slot", int(ev.Slot)))
	}
	for _, k := range slices.Sorted(maps.Keys(ev.Attributes)) {
		attrs = append(attrs, slog.String(k, ev.Attributes[k]))
	}
	if ev.Reason != "" {
		attrs = append(attrs, slog.String("reason", ev.Reason))
	}
	return attrs
}

// Last is the id of the newest event, 0 before the first.
func (e *Events) Last() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

// After returns up to limit events with ids above id, oldest first; how many
// after id are kept no more; and a channel that is closed by the next Add. The
// events are shared: readers must not change them.
func (e *Events) After(id uint64, limit int) (events []*v1.Event, missed uint64, changed <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if size := uint64(len(e.ring)); e.last > size && id < e.last-size {
		missed = e.last - size - id
		id += missed
	}
	for id < e.last && len(events) < limit {
		id++
		events = append(events, e.ring[id%uint64(len(e.ring))])
	}
	return events, missed, e.changed
}

func severity(l slog.Level) v1.Severity {
	switch {
	case l < slog.LevelInfo:
		return v1.Severity_SEVERITY_DEBUG
	case l < slog.LevelWarn:
		return v1.Severity_SEVERITY_INFO
	case l < slog.LevelError:
		return v1.Severity_SEVERITY_WARNING
	default:
		return v1.Severity_SEVERITY_ERROR
	}
}
