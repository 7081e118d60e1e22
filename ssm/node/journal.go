package node

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm"
)

// Entry is one line of the appliance's event log.
type Entry struct {
	Slot      sa.Slot
	Kind      string
	Warn      bool
	Text      string
	Reason    string
	Move      uint64
	Phase     string
	Drain     uint64
	Detection time.Duration
}

// journal writes entries to the operator's event log.
type journal struct{ log *operator.Events }

// Add appends an entry.
func (j *journal) Add(e Entry) {
	ev := operator.Event{Kind: e.Kind, Slot: e.Slot, Message: e.Text, Reason: e.Reason, Attributes: map[string]string{}}
	if e.Warn {
		ev.Level = slog.LevelWarn
	}
	if e.Move != 0 {
		ev.Attributes["move"] = fmt.Sprint(e.Move)
		ev.Attributes["phase"] = e.Phase
	}
	if e.Drain != 0 {
		ev.Attributes["drain"] = fmt.Sprint(e.Drain)
		ev.Attributes["phase"] = e.Phase
	}
	if e.Detection != 0 {
		ev.Attributes["detection"] = e.Detection.String()
	}
	j.log.Add(ev)
}

// moveLog lets a caller of the operator API follow its planned move.
type moveLog struct {
	mu     sync.Mutex
	watch  map[uint64]chan ssm.ActReport
	drains map[chan ssm.ActReport]bool
	lastID uint64
}

func newMoveLog() *moveLog {
	return &moveLog{watch: map[uint64]chan ssm.ActReport{}, drains: map[chan ssm.ActReport]bool{}}
}

// follow returns a new move's number and its reports. A move has fewer reports
// than the channel holds.
func (m *moveLog) follow() (uint64, <-chan ssm.ActReport) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastID = max(m.lastID+1, uint64(time.Now().UnixNano()))
	ch := make(chan ssm.ActReport, 64)
	m.watch[m.lastID] = ch
	return m.lastID, ch
}

// drainReports bounds what a slow caller may lag behind a drain.
const drainReports = 1024

// join returns the reports of the drain and of its moves, beside those that follow it
// already, and a function that ends it. There is one drain at a time; which one a caller
// gets that asks while another one does, the core decides.
func (m *moveLog) join() (<-chan ssm.ActReport, func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ch := make(chan ssm.ActReport, drainReports)
	m.drains[ch] = true
	return ch, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.drains, ch)
	}
}

func (m *moveLog) forget(id uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.watch, id)
}

func (m *moveLog) note(r ssm.ActReport) {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case m.watch[r.Move] <- r:
	default:
	}
	if r.Drain == 0 {
		return
	}
	for ch := range m.drains {
		select {
		case ch <- r:
		default:
		}
	}
}
