package replica

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"crypto/x509"

	peerv1 "github.com/shadowcast/shadowcast/api/peer/v1"
	"github.com/shadowcast/shadowcast/sa"
)

// script is a stream whose other end sends what is in it, then leaves.
type script struct {
	grpc.ServerStream
	ctx  context.Context
	msgs []*peerv1.ToShadow
	sent chan *peerv1.FromShadow
}

func (s *script) Context() context.Context { return s.ctx }

func (s *script) Recv() (*peerv1.ToShadow, error) {
	if len(s.msgs) == 0 {
		return nil, io.EOF
	}
	m := s.msgs[0]
	s.msgs = s.msgs[1:]
	return m, nil
}

func (s *script) Send(m *peerv1.FromShadow) error {
	select {
	case s.sent <- m:
	default:
	}
	return nil
}

// from is the context of a stream whose certificate names the peer.
func from(name string) context.Context {
	info := credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{{DNSNames: []string{name}}}}}
	return peer.NewContext(context.Background(), &peer.Peer{AuthInfo: info})
}

// split reads a list of length-prefixed messages, as the fuzzer makes them.
func split[M proto.Message](b []byte, make func() M) (out []M) {
	for len(b) > 0 && len(out) < 50 {
		raw, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return out
		}
		b = b[n:]
		m := make()
		if proto.Unmarshal(raw, m) == nil {
			out = append(out, m)
		}
	}
	return out
}

func join[M proto.Message](t testing.TB, msgs ...M) (b []byte) {
	for _, m := range msgs {
		raw, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		b = protowire.AppendBytes(b, raw)
	}
	return b
}

// strictSink fails the test when it is handed what a Receiver must hold back.
type strictSink struct {
	*memSink
	t testing.TB
}

func (s strictSink) Apply(b Batch, done func(error)) {
	if b.Slot != 1 || b.Owner != "ams" || b.Ticket < 5 {
		s.t.Errorf("batch of slot %d, owner %q, ticket %d", b.Slot, b.Owner, b.Ticket)
	}
	for _, c := range b.Changes {
		if checkID(c.ID) != nil || len(c.Doc) > MaxDoc || c.Delete != (c.Doc == nil) {
			s.t.Errorf("change %v", c)
		}
	}
	for _, x := range b.Samples {
		if checkSample(&x) != nil {
			s.t.Errorf("sample %+v", x)
		}
	}
	done(s.apply(b))
}

// FuzzReceiver plays an owner that may send anything.
func FuzzReceiver(f *testing.F) {
	hello := &peerv1.ToShadow{Kind: &peerv1.ToShadow_Hello{Hello: &peerv1.Hello{ProtocolVersion: 1, MinProtocolVersion: 1,
		Slot: 1, Ticket: 5, Owner: "ams", Shadow: "fra", Incarnation: 1, Epoch: 9}}}
	h := make([]byte, 16)
	f.Add(join(f, hello,
		&peerv1.ToShadow{Kind: &peerv1.ToShadow_Config{Config: &peerv1.Config{Digest: "x"}}},
		&peerv1.ToShadow{Kind: &peerv1.ToShadow_InventoryRequest{}},
		&peerv1.ToShadow{Kind: &peerv1.ToShadow_SnapshotBegin{SnapshotBegin: &peerv1.SnapshotBegin{Seq: 3}}},
		&peerv1.ToShadow{Kind: &peerv1.ToShadow_Changes{Changes: &peerv1.Changes{Changes: []*peerv1.Change{{Id: "stray", Delete: true}}}}},
		&peerv1.ToShadow{Kind: &peerv1.ToShadow_Changes{Changes: &peerv1.Changes{Upto: 3, Changes: []*peerv1.Change{{Seq: 2, Id: "a", Hash: h, Doc: h}}}}},
		&peerv1.ToShadow{Kind: &peerv1.ToShadow_SnapshotEnd{SnapshotEnd: &peerv1.SnapshotEnd{Seq: 3}}},
		&peerv1.ToShadow{Kind: &peerv1.ToShadow_Replay{Replay: &peerv1.ReplayBatch{Seq: 1, Samples: []*peerv1.Sample{{Spi: 1, Dst: []byte{1, 2, 3, 4}}}}}},
		&peerv1.ToShadow{Kind: &peerv1.ToShadow_DigestRequest{DigestRequest: &peerv1.DigestRequest{Number: 1}}},
	))
	f.Add(join(f, hello, hello))
	f.Add(join(f, &peerv1.ToShadow{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		sink := strictSink{&memSink{docs: map[sa.Slot]map[string]Change{}, digest: map[sa.Slot]*Digest{}, samples: map[sa.SPI]Sample{}, owners: map[string]int{}}, t}
		r, err := NewReceiver(ReceiverConfig{Self: "fra", Sink: sink, Logger: quiet,
			Authority: func(slot sa.Slot, _ string, _ sa.Ticket) error {
				if slot != 1 {
					return errors.New("not shadowed here")
				}
				return nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		r.Raise(1, 5, "")
		for range 2 { // the second stream resumes or replaces
			_ = r.Shadow(&script{ctx: from("ams"), msgs: split(b, func() *peerv1.ToShadow { return new(peerv1.ToShadow) }), sent: make(chan *peerv1.FromShadow, 100)})
		}
		r.Close()
		// The digest that is kept up equals one made from scratch.
		got, n := sink.Digest(1)
		var want Digest
		for id, c := range sink.docs[1] {
			want.Toggle(id, c.Hash)
		}
		if got != want || n != len(sink.docs[1]) {
			t.Fatalf("digest %v of %d sessions, want %v of %d", got, n, want, len(sink.docs[1]))
		}
	})
}

// FuzzShadowAnswers plays a shadow that may answer anything: greeting,
// acknowledgements, inventory, digests. The owner's state stays whole.
func FuzzShadowAnswers(f *testing.F) {
	h := make([]byte, 16)
	f.Add(uint64(0), uint64(0), join(f,
		&peerv1.FromShadow{Kind: &peerv1.FromShadow_Inventory{Inventory: &peerv1.Inventory{Last: true, Items: []*peerv1.Item{{Id: "a", Hash: h}, {Id: "ghost", Hash: h}}}}},
		&peerv1.FromShadow{Kind: &peerv1.FromShadow_Ack{Ack: &peerv1.Ack{Seq: 2, ReplaySeq: 1}}},
		&peerv1.FromShadow{Kind: &peerv1.FromShadow_DigestReply{DigestReply: &peerv1.DigestReply{Number: 1, Digest: h}}},
		&peerv1.FromShadow{Kind: &peerv1.FromShadow_Readiness{Readiness: &peerv1.Readiness{Ready: true}}}))
	f.Add(uint64(1), uint64(2), join(f, &peerv1.FromShadow{Kind: &peerv1.FromShadow_Ack{Ack: &peerv1.Ack{Seq: 3}}}))
	f.Fuzz(func(t *testing.T, epoch, seq uint64, b []byte) {
		p, err := NewPublisher(PublisherConfig{Slot: 1, Ticket: 1, Self: "ams", Incarnation: 1, Logger: quiet,
			TLS: func(string) *tls.Config { return nil }, MaxDeleted: 2})
		if err != nil {
			t.Fatal(err)
		}
		p.epoch = 1
		if err := p.SetShadows([]Shadow{{"fra", netip.MustParseAddrPort("127.0.0.1:1")}}); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"a", "b", "c", "d", "e"} {
			put(t, p, id, "doc")
		}
		p.Delete("e")
		p.Replay([]Sample{{Session: "a", SPI: 1, Dst: netip.MustParseAddr("192.0.2.1")}})
		sh := p.shadows["fra"]
		sh.ticket = p.ticket // as greet does
		now := time.Unix(1, 0)
		if err := sh.welcome(&peerv1.HelloAck{ProtocolVersion: 1, Epoch: epoch, Seq: seq}, now); err != nil {
			t.Fatal(err)
		}
		drain := func() {
			for range 50 {
				now = now.Add(time.Millisecond)
				m, _, err := sh.next(now)
				if err != nil {
					t.Fatal(err)
				}
				if m == nil && len(sh.wake) == 0 {
					return
				}
				select {
				case <-sh.wake:
				default:
				}
				if sh.phase == phaseListing {
					return
				}
			}
			t.Fatal("sending does not come to rest")
		}
		drain()
		for i, m := range split(b, func() *peerv1.FromShadow { return new(peerv1.FromShadow) }) {
			if sh.handle(m, now) != nil {
				break
			}
			if i%2 == 0 {
				put(t, p, "b", string(rune('a'+i)))
			}
			drain()
			_ = p.Status()
		}
		sh.down("over")
		s, c := p.state, sh.cursor
		pending := 0
		for e := s.ring.next; e != &s.ring; e = e.next {
			if e.seq > c.ackedSeq {
				pending++
			}
		}
		if pending != c.pending || s.live != 4 {
			t.Fatalf("pending %d counted %d, %d live", pending, c.pending, s.live)
		}
	})
}

func FuzzReadHello(f *testing.F) {
	f.Add(uint32(1), uint32(1), uint32(1), uint64(1), "ams", "fra", uint64(1), uint64(1))
	f.Add(uint32(9), uint32(2), uint32(4096), uint64(0), "", "lhr", uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, version, least, slot uint32, ticket uint64, owner, shadow string, incarnation, epoch uint64) {
		v, err := readHello(&peerv1.Hello{ProtocolVersion: version, MinProtocolVersion: least, Slot: slot, Ticket: ticket,
			Owner: owner, Shadow: shadow, Incarnation: incarnation, Epoch: epoch}, "fra")
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Fatalf("error of %d octets", len(err.Error()))
			}
			return
		}
		if v < MinProtocolVersion || v > ProtocolVersion || !sa.Slot(slot).Valid() || slot > 4095 || ticket == 0 || owner == "" ||
			owner == "fra" || shadow != "fra" || incarnation == 0 || epoch == 0 {
			t.Fatalf("accepted version %d of %d..%d, slot %d, ticket %d, owner %q", v, least, version, slot, ticket, owner)
		}
	})
}
