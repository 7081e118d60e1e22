package statuspage

import (
	"context"
	"embed"
	"encoding/json"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/metrics"
)

//go:embed page
var files embed.FS

// policy lets the page load what lies beside it and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// maxEvents bounds what one reading tells of the past.
const maxEvents = 200

// fresh is how long a snapshot serves every visitor: many windows cost what one does.
const fresh = 500 * time.Millisecond

// patience bounds how long a visitor waits for the daemon.
const patience = 5 * time.Second

// shown are the kinds of events that tell of the fleet. Others may name sessions.
var shown = map[string]bool{"claim": true, "active": true, "owner": true, "lost": true, "move": true, "drain": true, "standing": true, "suspect": true, "heard": true,
	"liveness": true, "reboot": true, "bgp": true, "health": true, "frozen": true, "resumed": true, "preflight": true, "stop": true}

type handler struct {
	source metrics.Source
	events metrics.EventLog
	log    *slog.Logger

	mu   sync.Mutex
	at   time.Time // of the newest reading
	body []byte
	err  error
}

// Register serves the page at / and its data at /status.json through handle, which is
// metrics.Server.Handle.
func Register(handle func(pattern string, h http.Handler), src metrics.Source, events metrics.EventLog, log *slog.Logger) {
	page, err := fs.Sub(files, "page")
	if err != nil {
		panic("statuspage: " + err.Error()) // the directory is embedded
	}
	h := &handler{source: src, events: events, log: log}
	static := http.FileServerFS(page)
	handle("GET /{$}", guard(static))
	handle("GET /status.css", guard(static))
	handle("GET /status.js", guard(static))
	handle("GET /map.js", guard(static))
	handle("GET /status.json", guard(h))
}

// guard adds what keeps a browser from doing more than showing the page.
func guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("Cache-Control", "no-cache")
		h.ServeHTTP(w, r)
	})
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := h.reading(r)
	if err != nil {
		h.log.Warn("take a snapshot for the status page", "err", err)
		http.Error(w, "the daemon does not answer: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(body)
}

// reading is the newest one, taken again when it is not fresh.
func (h *handler) reading(r *http.Request) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.at.IsZero() && time.Since(h.at) < fresh {
		return h.body, h.err
	}
	// Others wait behind this visitor: not for ever, and a failure is theirs too. Nor do
	// they get the failure of one who has left.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), patience)
	defer cancel()
	s, err := h.source.Snapshot(ctx)
	h.body = nil
	if err == nil {
		h.body, err = encode(s, h.past())
	}
	h.at, h.err = time.Now(), err
	return h.body, err
}

// past are the newest events that tell of the fleet, oldest first.
func (h *handler) past() []*v1.Event {
	var out []*v1.Event
	var at uint64
	for {
		events, missed, _ := h.events.After(at, 1000)
		at += missed
		if len(events) == 0 {
			return out[max(len(out)-maxEvents, 0):]
		}
		for _, e := range events {
			at = e.Id
			if shown[e.Kind] {
				out = append(out, e)
			}
		}
	}
}

func encode(s *metrics.Snapshot, events []*v1.Event) ([]byte, error) {
	o := protojson.MarshalOptions{UseProtoNames: true}
	out := map[string]any{}
	add := func(name string, m proto.Message) error {
		b, err := o.Marshal(m)
		out[name] = json.RawMessage(b)
		return err
	}
	for name, m := range map[string]proto.Message{
		"status": &v1.GetStatusResponse{Appliance: s.Appliance, Slots: s.Slots, Peers: s.Peers},
		"bgp":    s.BGP, "health": s.Health,
	} {
		if err := add(name, m); err != nil {
			return nil, err
		}
	}
	list := make([]json.RawMessage, 0, len(events))
	for _, e := range events {
		b, err := o.Marshal(e)
		if err != nil {
			return nil, err
		}
		list = append(list, b)
	}
	out["events"] = list
	return json.Marshal(out)
}
