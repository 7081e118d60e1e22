package registrar

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Timing of Raft. Nothing but re-arming waits for it, so it is patient.
type Timing struct {
	Heartbeat time.Duration // without a leader for so long: election; 2 s if 0
	// SnapshotEvery is the number of entries after which a snapshot is taken and
	// the log is cut; 1024 if 0.
	SnapshotEvery uint64
	noSync        bool // tests: their disks do not fail by losing what was written
}

const (
	snapshotLook = time.Minute
	// ioTimeout bounds one exchange with another member.
	ioTimeout   = 2 * time.Second
	streamsKept = 2 // per member
)

// member is the running Raft of one member.
type member struct {
	store   *store
	fsm     *fsm
	streams *streams
	trans   *raft.NetworkTransport
	raft    *raft.Raft
}

func openMember(dir, node string, p Peers, t Timing, log *slog.Logger) (_ *member, err error) {
	h := hcLogger(log)
	r := &member{fsm: &fsm{state: &State{}}}
	if r.store, err = openStore(dir, node, t.noSync, h); err != nil {
		return nil, err
	}
	r.streams = newStreams(r.store.member, p)
	r.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: r.streams, MaxPool: streamsKept, Timeout: ioTimeout, Logger: h})
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(r.store.member.String())
	c.Logger = h
	c.NoLegacyTelemetry = true
	c.ShutdownOnRemove = false
	if t.Heartbeat == 0 {
		t.Heartbeat = 2 * time.Second
	}
	// The library's defaults send to each follower some twenty times a second, which
	// no other task of an appliance at rest comes near.
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout, c.CommitTimeout = t.Heartbeat, t.Heartbeat, t.Heartbeat/2, t.Heartbeat/4
	c.SnapshotInterval, c.SnapshotThreshold = snapshotLook, 1024
	if t.SnapshotEvery != 0 {
		c.SnapshotThreshold = t.SnapshotEvery
	}
	c.TrailingLogs = c.SnapshotThreshold / 4
	r.raft, err = raft.NewRaft(c, r.fsm, r.store.log, r.store.log, r.store.snapshots, r.trans)
	if err != nil {
		return nil, errors.Join(err, r.trans.Close(), r.store.close())
	}
	return r, nil
}

func (r *member) close() error {
	err := r.raft.Shutdown().Error()
	return errors.Join(err, r.trans.Close(), r.store.close())
}

// members returns the latest members, by name.
func (r *member) members() ([]Member, error) {
	f := r.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, err
	}
	var out []Member
	for _, s := range f.Configuration().Servers {
		m, err := ParseMember(string(s.ID))
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.String(), b.String()) })
	return out, nil
}

func (r *member) leader() Member {
	_, id := r.raft.LeaderWithID()
	m, err := ParseMember(string(id))
	if err != nil {
		return Member{}
	}
	return m
}

func (r *member) leads() bool { return r.raft.State() == raft.Leader }

// hcLogger passes what Raft says on; its information is our debug.
func hcLogger(log *slog.Logger) hclog.Logger {
	h := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Off})
	h.RegisterSink(logSink{log})
	return h
}

type logSink struct{ log *slog.Logger }

func (s logSink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	switch {
	case level >= hclog.Error:
		s.log.Warn("raft: "+msg, args...)
	case level >= hclog.Info:
		s.log.Debug("raft: "+msg, args...)
	}
}
