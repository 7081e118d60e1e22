package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/replica"
	"github.com/shadowcast/shadowcast/ssm/session"
)

// replicas is the appliance's end of every replication stream.
type replicas struct {
	a        *Appliance
	receiver *replica.Receiver
	server   *grpc.Server
}

func newReplicas(a *Appliance) (*replicas, error) {
	x := &replicas{a: a}
	var err error
	x.receiver, err = replica.NewReceiver(replica.ReceiverConfig{Self: a.cfg.Node, Sink: sink{a}, Authority: a.authority.check, PeerName: pki.PeerName, Legacy: legacy, OnRefused: a.refusedStream, Logger: a.log,
		Newcomers: a.hearNewcomers, KnownSlot: a.knownSlot})
	if err != nil {
		return nil, err
	}
	if x.server, err = replica.NewServer(a.identity.ServerTLS(a.known), func(source netip.Addr, err error) { a.refusedHandshake(fromReplication, "", source, err) }); err != nil {
		return nil, err
	}
	x.receiver.Register(x.server)
	return x, nil
}

// run serves the other appliances until ctx ends.
func (x *replicas) run(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", x.a.self().Replication().String())
	if err != nil {
		return fmt.Errorf("listen for replication: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		x.receiver.Close()
		x.server.Stop()
	})
	defer stop()
	return ignore(x.server.Serve(l), ctx)
}

// publisher starts the owner's side for one tenure of a slot; selects says which shadow
// holds which session.
func (x *replicas) publisher(n sa.Slot, t sa.Ticket, selects func(id, shadow string) bool) (*replica.Publisher, error) {
	a := x.a
	return replica.NewPublisher(replica.PublisherConfig{
		Slot: n, Ticket: t, Self: a.cfg.Node, Incarnation: a.incarnation, PeerName: pki.PeerName, Legacy: legacy, Logger: a.log, Select: selects,
		TLS: func(shadow string) *tls.Config { return a.identity.ClientTLS(shadow) },
		HandshakeFailed: func(shadow string, source netip.Addr, err error) {
			a.refusedHandshake(fromReplication, shadow, source, err)
		},
		OnReady: func(shadow string, ready bool, reason string) {
			a.post(ssm.EvReplica{Slot: n, Shadow: ssm.Node(shadow), Ready: ready})
			a.log.Info("replication", "slot", n, "shadow", shadow, "ready", ready, "reason", reason)
		},
		OnSuperseded: func(shadow string, high sa.Ticket, owner string) {
			if owner != "" {
				a.post(ssm.EvMessage{From: ssm.Node(shadow), Msg: ssm.Message{Kind: ssm.KindClaim, Slot: n, Ticket: high, Owner: ssm.Node(owner)}})
			}
		},
	})
}

// legacy is the document for appliances of replication protocol 1.
func legacy(packed []byte) ([]byte, error) {
	d, err := session.Unpack(packed)
	if err != nil {
		return nil, err
	}
	return d.EncodeSecret()
}

// authority says which owner may feed which twin here. The core loop writes it,
// the replication server reads it.
type authority struct {
	a  *Appliance
	mu sync.Mutex
	m  map[sa.Slot]grant
}

type grant struct {
	owner  string
	ticket sa.Ticket
}

func newAuthority(a *Appliance) *authority { return &authority{a: a, m: map[sa.Slot]grant{}} }

// set lets owner feed slot n and cuts everybody with a lower ticket.
func (x *authority) set(n sa.Slot, owner string, t sa.Ticket) {
	x.mu.Lock()
	x.m[n] = grant{owner, t}
	x.mu.Unlock()
	x.a.replicas.receiver.Raise(n, t, owner)
}

// forget ends what set began.
func (x *authority) forget(n sa.Slot) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.m, n)
}

// check is rule 1 of the charon link: only the current owner's sessions are
// taken. A higher ticket than we know of is news for the core; its holder tries
// again in a moment.
func (x *authority) check(n sa.Slot, owner string, t sa.Ticket) error {
	x.mu.Lock()
	g, ok := x.m[n]
	x.mu.Unlock()
	if x.a.places.at(n) == nil {
		return fmt.Errorf("slot %d has no place on %s", n, x.a.cfg.Node)
	}
	if ok && g.owner == owner && g.ticket <= t {
		return nil
	}
	x.a.post(ssm.EvMessage{From: ssm.Node(owner), Msg: ssm.Message{Kind: ssm.KindClaim, Slot: n, Ticket: t, Owner: ssm.Node(owner)}})
	return fmt.Errorf("%s does not shadow slot %d for %s yet", x.a.cfg.Node, n, owner)
}

// sink brings what owners send to the slot runtimes.
type sink struct{ a *Appliance }

var errNoShadow = errors.New("this appliance does not shadow the slot now")

// askTime bounds the questions of the replication server to a slot.
const askTime = 5 * time.Second

func (s sink) Apply(b replica.Batch, done func(error)) {
	r := s.a.places.at(b.Slot)
	if r == nil {
		done(errNoShadow)
		return
	}
	r.do(func() {
		if r.mode != modeShadow {
			done(errNoShadow)
			return
		}
		done(r.twin.apply(b))
	})
}

func (t *twin) apply(b replica.Batch) error {
	switch b.Boundary {
	case replica.SnapshotBegin:
		t.whole = false
	case replica.SnapshotEnd:
		t.whole = true
	}
	// Before the owner hears that the batch is here: a move must not overtake the kernel.
	defer t.judge()
	var errs []error
	var feed []charon.Message
	for _, c := range b.Changes {
		if c.Delete {
			feed = append(feed, t.remove(c.ID)...)
			continue
		}
		d, err := session.Unpack(c.Doc)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("read session %s: %w", c.ID, err))
		case d.SessionID != c.ID || d.Slot != t.r.n:
			errs = append(errs, fmt.Errorf("session %s comes in a document of session %s, slot %d", c.ID, d.SessionID, d.Slot))
		default:
			ms, err := t.put(d, c.Hash)
			feed, errs = append(feed, ms...), append(errs, err)
		}
	}
	t.bar()
	if len(feed) > 0 {
		errs = append(errs, t.r.sendCharon(feed))
	}
	if b.Replay {
		errs = append(errs, t.replay(b.Samples))
	}
	if b.Upto > 0 {
		t.r.a.post(ssm.EvSeen{Slot: t.r.n, Ticket: b.Ticket, Seen: b.Upto})
	}
	return errors.Join(errs...)
}

func (s sink) Inventory(n sa.Slot) ([]replica.Item, error) {
	return fromTwin(s.a, n, func(t *twin) []replica.Item {
		out := make([]replica.Item, 0, len(t.hashes))
		for id, h := range t.hashes {
			out = append(out, replica.Item{ID: id, Hash: h})
		}
		return out
	})
}

func (s sink) Digest(n sa.Slot) (replica.Digest, int) {
	type sum struct {
		d replica.Digest
		n int
	}
	v, err := fromTwin(s.a, n, func(t *twin) sum { return sum{t.digest, len(t.hashes)} })
	if err != nil {
		return replica.Digest{}, 0
	}
	return v.d, v.n
}

// Config compares the owner's connections with ours: a twin with others would
// destroy the sessions it is fed.
func (s sink) Config(n sa.Slot, owner, digest string) {
	s.a.at(n, func(r *slotRuntime) {
		if r.mode != modeShadow {
			return
		}
		r.twin.skew = ""
		if digest != r.a.connsDigest {
			r.twin.skew = fmt.Sprintf("connections or credentials differ from those of %s (ours %.8s, theirs %.8s)", owner, r.a.connsDigest, digest)
		}
		r.twin.judge()
	})
}

func (s sink) Docs(n sa.Slot) iter.Seq[replica.Change] {
	docs, err := fromTwin(s.a, n, (*twin).documents)
	return func(yield func(replica.Change) bool) {
		if err != nil {
			return
		}
		for _, d := range docs {
			b, err := d.Pack()
			if err != nil {
				continue // a document that came in by Unpack packs
			}
			if !yield(replica.Change{Item: replica.Item{ID: d.SessionID, Hash: replica.HashOf(b)}, Doc: b}) {
				return
			}
		}
	}
}

// fromTwin reads from the twin of slot n in its runtime's goroutine.
func fromTwin[T any](a *Appliance, n sa.Slot, f func(*twin) T) (T, error) {
	type answer struct {
		v   T
		err error
	}
	r := a.places.at(n)
	if r == nil {
		return *new(T), errNoShadow
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	x := ask(ctx, r.queue, func() answer {
		if r.mode != modeShadow {
			return answer{err: errNoShadow}
		}
		return answer{v: f(r.twin)}
	})
	if ctx.Err() != nil {
		return x.v, fmt.Errorf("slot %d does not answer", n)
	}
	return x.v, x.err
}
