package registrar

import (
	"fmt"
	"io"
	"maps"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/shadowcast/shadowcast/sa"
)

// fsm is State behind the interface of Raft.
type fsm struct {
	mu    sync.Mutex
	state *State
	// broken is set by an entry that this version cannot read. The state differs
	// from that of the others from there on, so nothing is answered or stored.
	broken error
}

// outcome is what Apply returns through Raft.
type outcome struct {
	ticket sa.Ticket
	err    error
}

func (f *fsm) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := DecodeCommand(l.Data)
	if err != nil && f.broken == nil {
		f.broken = fmt.Errorf("entry %d: %w (written by another version? upgrade this appliance)", l.Index, err)
	}
	if f.broken != nil {
		return outcome{err: f.broken}
	}
	t, err := f.state.Apply(c)
	return outcome{t, err}
}

func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return nil, f.broken
	}
	b, err := f.state.Encode()
	return snapshot(b), err
}

func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxSnapshot+1))
	if err != nil {
		return fmt.Errorf("read snapshot of the ticket log: %w", err)
	}
	if len(b) > maxSnapshot {
		return fmt.Errorf("snapshot of the ticket log is larger than %d octets", maxSnapshot)
	}
	s, err := DecodeState(b)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state, f.broken = s, nil
	return nil
}

// look returns what the log has come to.
func (f *fsm) look() (founded bool, last map[sa.Slot]sa.Ticket, broken error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.Founded(), maps.Clone(f.state.Last()), f.broken
}

// snapshot is an encoded State.
type snapshot []byte

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s); err != nil {
		sink.Cancel()
		return fmt.Errorf("write snapshot of the ticket log: %w", err)
	}
	return sink.Close()
}

func (snapshot) Release() {}
