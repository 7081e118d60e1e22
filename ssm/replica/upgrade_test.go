package replica

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc"

	peerv1 "github.com/shadowcast/shadowcast/api/peer/v1"
)

// older makes either end of a stream one of protocol version 1.
type older struct{ *Receiver }

func (o older) Shadow(s peerv1.Replica_ShadowServer) error { return o.Receiver.Shadow(&olderStream{s}) }

func (o older) Fetch(q *peerv1.FetchRequest, s peerv1.Replica_FetchServer) error {
	if q.ProtocolVersion > 1 {
		return errors.New("unknown version")
	}
	return o.Receiver.Fetch(q, s)
}

type olderStream struct{ peerv1.Replica_ShadowServer }

func (s *olderStream) Recv() (*peerv1.ToShadow, error) {
	m, err := s.Replica_ShadowServer.Recv()
	if h := m.GetHello(); h != nil && h.MinProtocolVersion <= 1 {
		h.ProtocolVersion = 1
	}
	return m, err
}

// registrar has the service of an older appliance registered.
type registrar struct {
	grpc.ServiceRegistrar
	r *Receiver
}

func (g registrar) RegisterService(d *grpc.ServiceDesc, _ any) {
	g.ServiceRegistrar.RegisterService(d, older{g.r})
}

func legacyOf(doc []byte) ([]byte, error) {
	if bytes.Contains(doc, []byte("untranslatable")) {
		return nil, errors.New("no such form")
	}
	return append([]byte("json:"), doc...), nil
}

func TestShadowOfOlderVersion(t *testing.T) {
	ca := newCA(t)
	n := startNode(t, ca, "fra")
	n.old = true
	n.stop()
	n.start()
	now := startNode(t, ca, "lhr")
	p := startPublisher(t, ca.issue(t, "ams"), "ams", func(c *PublisherConfig) { c.Legacy = legacyOf })
	setShadows(t, p, n, now)
	put(t, p, "a", "1")
	p.Complete()
	waitReady(t, p, "fra", "lhr")
	put(t, p, "b", "2")
	p.Delete("a")
	flush(t, p, "fra")
	flush(t, p, "lhr")
	same(t, n.sink, 1, map[string]string{"b": "json:2"})
	same(t, now.sink, 1, map[string]string{"b": "2"})
	waitReady(t, p, "fra") // the digests agree: hashes are those of the owner
	if s := statusOf(t, p, "fra"); s.Repairs != 0 || s.Version != 1 {
		t.Errorf("%d repairs, version %d", s.Repairs, s.Version)
	}
	if s := statusOf(t, p, "lhr"); s.Version != ProtocolVersion {
		t.Errorf("version %d between equals", s.Version)
	}

	// The appliance is upgraded: the stream goes on where it was.
	n.old = false
	n.stop()
	n.start()
	put(t, p, "c", "3")
	waitReady(t, p, "fra")
	flush(t, p, "fra")
	same(t, n.sink, 1, map[string]string{"b": "json:2", "c": "3"})
	if s := statusOf(t, p, "fra"); s.Snapshots != 1 {
		t.Errorf("%d snapshots, want the first alone", s.Snapshots)
	}

	// What cannot be said in the older form is named, and reaches nobody halfway.
	n.old = true
	n.stop()
	n.start()
	put(t, p, "d", "untranslatable")
	waitFor(t, "the refusal", func() bool {
		s := statusOf(t, p, "fra")
		return !s.Ready && strings.Contains(s.Reason, "translate session d for protocol version 1")
	})
	flush(t, p, "lhr")
}

func TestOlderVersionRefusedWithoutTranslation(t *testing.T) {
	ca := newCA(t)
	n := startNode(t, ca, "fra")
	n.old = true
	n.stop()
	n.start()
	p := startPublisher(t, ca.issue(t, "ams"), "ams")
	setShadows(t, p, n)
	p.Complete()
	waitFor(t, "the refusal", func() bool {
		return strings.Contains(statusOf(t, p, "fra").Reason, "speaks protocol version 1")
	})
}

func TestFetchByOlderVersion(t *testing.T) {
	ca := newCA(t)
	n := startNode(t, ca, "fra", func(c *ReceiverConfig) { c.Legacy = legacyOf })
	n.sink.seed(1, map[string]string{"a": "1"})
	own := ca.issue(t, "ams")
	for version, want := range map[uint32]string{0: "1", 1: "json:1", 2: "1"} {
		got := ""
		_, err := Fetch(context.Background(), FetchConfig{Slot: 1, Ticket: 1, Self: "ams", Incarnation: 1, Version: version,
			TLS: func(string) *tls.Config { return own }}, n.shadow(), func(c Change) error { got = string(c.Doc); return nil })
		if err != nil || got != want {
			t.Errorf("version %d: %q, %v, want %q", version, got, err, want)
		}
	}
}
