package registrar

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// memberKey is where the log keeps the number of its member: it is lost exactly
// when the log is.
var memberKey = []byte("shadowcast-member")

// snapshotsKept is how many snapshots stay on disk.
const snapshotsKept = 2

// store is the durable part of a member.
type store struct {
	member    Member
	log       *raftboltdb.BoltStore
	snapshots *raft.FileSnapshotStore
}

func logPath(dir string) string { return filepath.Join(dir, "log.db") }

// exists reports whether dir holds the log of a member.
func exists(dir string) (bool, error) {
	_, err := os.Stat(logPath(dir))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// openStore opens the log of node in dir, or makes a blank one.
func openStore(dir, node string, noSync bool, log hclog.Logger) (_ *store, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the ticket log: %w", err)
	}
	s := &store{}
	s.log, err = raftboltdb.New(raftboltdb.Options{Path: logPath(dir), NoSync: noSync, BoltOptions: &bbolt.Options{Timeout: time.Second}})
	if err != nil {
		return nil, fmt.Errorf("open ticket log %s: %w", logPath(dir), err)
	}
	defer func() {
		if err != nil {
			s.log.Close()
		}
	}()
	if s.snapshots, err = raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, log); err != nil {
		return nil, fmt.Errorf("open the snapshots of ticket log %s: %w", dir, err)
	}
	switch b, err := s.log.Get(memberKey); {
	case err == nil:
		if s.member, err = ParseMember(string(b)); err != nil {
			return nil, fmt.Errorf("open ticket log %s: %w", logPath(dir), err)
		}
		if s.member.Node != node {
			return nil, fmt.Errorf("open ticket log %s: it belongs to %s, not to %s", logPath(dir), s.member, node)
		}
	case errors.Is(err, raftboltdb.ErrKeyNotFound):
		s.member = newMember(node)
		if err := s.log.Set(memberKey, []byte(s.member.String())); err != nil {
			return nil, fmt.Errorf("number ticket log %s: %w", logPath(dir), err)
		}
	default:
		return nil, fmt.Errorf("read ticket log %s: %w", logPath(dir), err)
	}
	return s, s.whole(dir)
}

// whole refuses a log whose beginning is gone with the snapshot that held it.
func (s *store) whole(dir string) error {
	first, err := s.log.FirstIndex()
	if err != nil {
		return fmt.Errorf("read ticket log %s: %w", logPath(dir), err)
	}
	snaps, err := s.snapshots.List()
	if err != nil {
		return fmt.Errorf("list the snapshots of ticket log %s: %w", dir, err)
	}
	var newest uint64
	for _, x := range snaps {
		newest = max(newest, x.Index)
	}
	if first > newest+1 {
		return fmt.Errorf("ticket log %s begins at entry %d and its newest snapshot ends at %d: entries are lost; move the directory away, the appliance then joins as a new member", dir, first, newest)
	}
	return nil
}

func (s *store) close() error { return s.log.Close() }
