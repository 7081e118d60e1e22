package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/shadowcast/shadowcast/api/peer/v1"
	"github.com/shadowcast/shadowcast/sa"
)

// maxOutstanding bounds the batches a Sink may have in hand: beyond it the
// stream is not read, and the owner coalesces.
const maxOutstanding = 32

// inbound is the shadow's side of one stream. A reader goroutine checks what
// comes and hands it to the Sink; the handler's goroutine writes the answers.
type inbound struct {
	r     *Receiver
	hello *peerv1.Hello
	slot  sa.Slot
	st    *slotState

	// The reader's alone.
	last     uint64 // change last read
	lastSeq  uint64 // replay batch last read
	snapshot bool

	mu          sync.Mutex
	err         error         // why the stream is cut; nil while it is not
	cutc        chan struct{} // closed by cut
	forget      bool          // the Sink was emptied: do not resume
	ended       bool          // the reader has returned
	wake        chan struct{} // something to write; 1 deep
	idle        chan struct{} // closed and replaced when a batch is done
	queue       []*pending    // not done, or done after one that is not
	outstanding int
	acked       uint64
	sampleAck   uint64
	ackDue      bool
	resumable   bool // everything up to acked is applied and the next stream may go on there
	readyDue    bool
	out         []*peerv1.FromShadow
	heard       time.Time
	sampled     time.Time
}

// pending is a batch in the Sink's hands.
type pending struct {
	upto, sampleSeq uint64
	boundary        Boundary
	done            bool
}

func newInbound(r *Receiver) *inbound {
	return &inbound{r: r, cutc: make(chan struct{}), wake: make(chan struct{}, 1), idle: make(chan struct{})}
}

// Shadow serves one stream.
func (r *Receiver) Shadow(stream peerv1.Replica_ShadowServer) error {
	in := newInbound(r)
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return status.Error(codes.Unavailable, "shadow is stopping")
	}
	r.streams[in] = struct{}{}
	r.wg.Add(1)
	r.mu.Unlock()
	greeted := make(chan struct{})
	// The reader cannot be waited for here: it may sit in Recv until the handler
	// returns. Close waits for it, and so does the next stream of the slot.
	go func() {
		defer r.wg.Done()
		in.read(stream, greeted)
	}()
	late := time.NewTimer(helloWithin)
	defer late.Stop()
	for {
		select {
		case <-in.cutc:
			return in.cause()
		case <-greeted:
			greeted = nil
			late.Stop()
		case <-late.C:
			in.cut(status.Errorf(codes.DeadlineExceeded, "no greeting within %v, or the slot was busy", helloWithin))
		case <-in.wake:
		}
		for {
			m := in.nextOut()
			if m == nil {
				break
			}
			if err := stream.Send(m); err != nil {
				in.cut(status.Errorf(codes.Unavailable, "answer owner: %v", err))
				break
			}
		}
	}
}

// read greets, then hands what comes to the Sink until the stream ends.
func (in *inbound) read(stream peerv1.Replica_ShadowServer, greeted chan<- struct{}) {
	err := in.greet(stream)
	if err == nil {
		close(greeted)
		for err == nil {
			var m *peerv1.ToShadow
			if m, err = stream.Recv(); err == nil {
				err = in.handle(m)
			}
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	in.cut(err)
	in.mu.Lock()
	in.ended = true
	in.stir()
	in.mu.Unlock()
	in.r.mu.Lock()
	delete(in.r.streams, in)
	in.r.mu.Unlock()
	if in.hello != nil {
		in.r.log.Info("replication stream closed", "slot", in.slot, "peer", in.hello.Owner, "reason", reasonOf(in.cause()))
	}
}

// greet admits the owner, or says why not.
func (in *inbound) greet(stream peerv1.Replica_ShadowServer) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := m.GetHello()
	from := "unknown"
	if name, err := nameOf(stream.Context(), in.r.cfg.PeerName); err == nil {
		from = name
	}
	version, err := readHello(hello, in.r.cfg.Self)
	if err != nil {
		return in.r.refuse("greeting", from, status.Errorf(codes.InvalidArgument, "read greeting: %v", err))
	}
	if err := in.r.certified(stream.Context(), hello.Owner); err != nil {
		return in.r.refuse("certificate", from, err)
	}
	if kind, err := in.admit(stream.Context(), hello, version); err != nil {
		return in.r.refuse(kind, from, err)
	}
	return nil
}

// admit makes this the stream of its slot, once the one before has ended and its
// batches are done.
func (in *inbound) admit(ctx context.Context, hello *peerv1.Hello, version uint32) (kind string, err error) {
	slot := sa.Slot(hello.Slot)
	st := in.r.slot(slot)
	if st == nil {
		return "stopping", status.Error(codes.Unavailable, "shadow is stopping")
	}
	// Ask before waiting, so that a claim with a higher ticket cuts at once.
	if kind, err := in.r.authorize(st, slot, hello.Owner, sa.Ticket(hello.Ticket)); err != nil {
		return kind, err
	}
	ctx, cancel := context.WithTimeout(ctx, drainWithin)
	defer cancel()
	select {
	case st.admit <- struct{}{}:
		defer func() { <-st.admit }()
	case <-in.cutc:
		return "stopping", in.cause()
	case <-ctx.Done():
		return "busy", status.Errorf(codes.Unavailable, "slot %d: another stream is being admitted", slot)
	}
	if kind, err := st.superseded(slot, hello.Owner, sa.Ticket(hello.Ticket)); err != nil {
		return kind, err
	}
	st.mu.Lock()
	prev := st.cur
	st.mu.Unlock()
	if prev != nil {
		if prev.hello.Owner == hello.Owner && prev.hello.Incarnation > hello.Incarnation {
			return "old incarnation", status.Errorf(codes.FailedPrecondition, "slot %d: a newer incarnation of %s feeds it", slot, hello.Owner)
		}
		st.gate.Lock()
		prev.cut(status.Errorf(codes.Aborted, "slot %d: replaced by a newer stream of %s", slot, hello.Owner))
		st.gate.Unlock()
		if !prev.drained(ctx) {
			return "busy", status.Errorf(codes.Unavailable, "slot %d: changes of the stream before are still being applied", slot)
		}
	}
	in.slot, in.st = slot, st
	st.mu.Lock()
	defer st.mu.Unlock()
	if prev != nil && st.cur == prev {
		st.epoch, st.seq = prev.position()
	}
	// Raise may have come while we waited: it cut the stream before, not this.
	if sa.Ticket(hello.Ticket) < st.high {
		return "superseded", supersededBy(slot, st.high, st.holder)
	}
	ack := &peerv1.HelloAck{ProtocolVersion: version}
	in.mu.Lock()
	if st.epoch == hello.Epoch {
		ack.Epoch, ack.Seq = st.epoch, st.seq
		in.resumable, in.acked, in.last = true, st.seq, st.seq
	}
	in.hello, in.heard, in.readyDue = hello, time.Now(), true
	in.out = append(in.out, &peerv1.FromShadow{Kind: &peerv1.FromShadow_HelloAck{HelloAck: ack}})
	in.poke()
	in.mu.Unlock()
	st.cur = in
	in.r.log.Info("replication stream admitted", "slot", slot, "peer", hello.Owner, "ticket", hello.Ticket, "resumed", ack.Epoch != 0)
	return "", nil
}

// cut ends the stream with err, nil for an orderly end. The first reason stays.
func (in *inbound) cut(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	select {
	case <-in.cutc:
	default:
		in.err = err
		close(in.cutc)
	}
}

func (in *inbound) cause() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.err
}

// isCut reports whether nothing may reach the Sink any more.
func (in *inbound) isCut() bool {
	select {
	case <-in.cutc:
		return true
	default:
		return false
	}
}

func (in *inbound) poke() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// stir wakes the reader. The caller holds in.mu.
func (in *inbound) stir() {
	close(in.idle)
	in.idle = make(chan struct{})
}

// drained waits until the reader has returned and every batch is done.
func (in *inbound) drained(ctx context.Context) bool {
	for {
		in.mu.Lock()
		ok, idle := in.ended && in.outstanding == 0, in.idle
		in.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-idle:
		}
	}
}

// position is where the next stream may go on; epoch 0 for nowhere.
func (in *inbound) position() (epoch, seq uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.resumable || in.forget {
		return 0, 0
	}
	return in.hello.Epoch, in.acked
}

func (in *inbound) tellReadiness() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.readyDue = true
	in.poke()
}

// nextOut returns what to tell the owner next: the greeting and the answers come
// after the acknowledgements that precede them.
func (in *inbound) nextOut() *peerv1.FromShadow {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.hello == nil || in.isCut() {
		return nil
	}
	if in.ackDue {
		in.ackDue = false
		return &peerv1.FromShadow{Kind: &peerv1.FromShadow_Ack{Ack: &peerv1.Ack{Seq: in.acked, ReplaySeq: in.sampleAck}}}
	}
	if len(in.out) > 0 {
		m := in.out[0]
		in.out[0] = nil
		in.out = in.out[1:]
		return m
	}
	if in.readyDue {
		in.readyDue = false
		in.mu.Unlock() // st.mu comes before in.mu
		in.st.mu.Lock()
		m := &peerv1.Readiness{Ready: in.st.ready, Reason: clip(in.st.reason)}
		in.st.mu.Unlock()
		in.mu.Lock()
		return &peerv1.FromShadow{Kind: &peerv1.FromShadow_Readiness{Readiness: m}}
	}
	return nil
}

// handle takes one message of the owner.
func (in *inbound) handle(m *peerv1.ToShadow) error {
	in.mu.Lock()
	in.heard = time.Now()
	in.mu.Unlock()
	var err error
	switch k := m.GetKind().(type) {
	case *peerv1.ToShadow_Changes:
		err = in.changes(k.Changes)
	case *peerv1.ToShadow_Replay:
		err = in.replay(k.Replay)
	case *peerv1.ToShadow_Config:
		if len(k.Config.GetDigest()) > MaxID {
			err = fmt.Errorf("configuration digest has %d octets", len(k.Config.GetDigest()))
			break
		}
		in.st.gate.Lock()
		defer in.st.gate.Unlock()
		if in.isCut() {
			return in.stopped()
		}
		in.r.cfg.Sink.Config(in.slot, in.hello.Owner, k.Config.GetDigest())
		return nil
	case *peerv1.ToShadow_SnapshotBegin:
		if in.snapshot {
			err = errors.New("a snapshot begins within a snapshot")
			break
		}
		in.snapshot, in.last = true, 0
		return in.apply(Batch{Boundary: SnapshotBegin}, &pending{boundary: SnapshotBegin})
	case *peerv1.ToShadow_SnapshotEnd:
		if !in.snapshot || k.SnapshotEnd.GetSeq() < in.last {
			err = fmt.Errorf("a snapshot ends at %d after change %d, begun: %t", k.SnapshotEnd.GetSeq(), in.last, in.snapshot)
			break
		}
		in.snapshot, in.last = false, k.SnapshotEnd.GetSeq()
		return in.apply(Batch{Boundary: SnapshotEnd}, &pending{boundary: SnapshotEnd, upto: in.last})
	case *peerv1.ToShadow_DigestRequest:
		return in.digest(k.DigestRequest.GetNumber())
	case *peerv1.ToShadow_InventoryRequest:
		if in.snapshot {
			err = errors.New("an inventory is requested within a snapshot")
			break
		}
		return in.inventory()
	default:
		err = fmt.Errorf("a message that does not belong here (%T)", k)
	}
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "slot %d: %v", in.slot, err)
	}
	return nil
}

// changes checks the order and hands the changes on.
func (in *inbound) changes(m *peerv1.Changes) error {
	if !in.snapshot && !in.mayResume() {
		return errors.New("changes come before a snapshot")
	}
	if len(m.GetChanges()) == 0 {
		return nil
	}
	b := Batch{Changes: make([]Change, len(m.Changes))}
	for i, x := range m.Changes {
		c, err := readChange(x)
		if err != nil {
			return err
		}
		stray := x.Seq == 0 && in.snapshot && c.Delete && in.last == 0
		if x.Seq <= in.last && !stray {
			return fmt.Errorf("change %d of %q comes after %d", x.Seq, c.ID, in.last)
		}
		in.last = x.Seq
		b.Changes[i] = c
	}
	if m.Upto < in.last {
		return fmt.Errorf("changes up to %d end with %d", m.Upto, in.last)
	}
	in.last = m.Upto
	return in.apply(b, &pending{upto: m.Upto})
}

// replay checks the samples and hands them on.
func (in *inbound) replay(m *peerv1.ReplayBatch) error {
	if m.GetSeq() < in.lastSeq || len(m.GetSamples()) > sampleItems {
		return fmt.Errorf("samples %d (%d of them) come after %d", m.GetSeq(), len(m.GetSamples()), in.lastSeq)
	}
	in.lastSeq = m.Seq
	age := time.Duration(min(m.AgeMicros, uint64(24*time.Hour/time.Microsecond))) * time.Microsecond
	b := Batch{Replay: true, Samples: make([]Sample, len(m.Samples)), Sampled: time.Now().Add(-age)}
	for i, x := range m.Samples {
		s, err := readSample(x)
		if err != nil {
			return err
		}
		b.Samples[i] = s
	}
	in.mu.Lock()
	in.sampled = b.Sampled
	in.mu.Unlock()
	return in.apply(b, &pending{sampleSeq: m.Seq})
}

func (in *inbound) mayResume() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.resumable
}

// apply hands a batch to the Sink, once it has few enough in hand.
func (in *inbound) apply(b Batch, p *pending) error {
	if err := in.await(maxOutstanding - 1); err != nil {
		return err
	}
	in.mu.Lock()
	in.queue = append(in.queue, p)
	in.outstanding++
	in.mu.Unlock()
	b.Slot, b.Owner, b.Ticket = in.slot, in.hello.Owner, sa.Ticket(in.hello.Ticket)
	var once sync.Once
	done := func(err error) { once.Do(func() { in.done(p, err) }) }
	in.st.gate.Lock()
	defer in.st.gate.Unlock()
	if in.isCut() {
		in.abandon(p)
		return in.stopped()
	}
	in.r.cfg.Sink.Apply(b, done)
	return nil
}

// await waits until the Sink has at most n batches in hand, or the stream is cut.
func (in *inbound) await(n int) error {
	for {
		in.mu.Lock()
		ok, idle := in.outstanding <= n, in.idle
		in.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-in.cutc:
			return in.stopped()
		case <-idle:
		}
	}
}

// stopped is the reason of a cut, never nil.
func (in *inbound) stopped() error {
	if err := in.cause(); err != nil {
		return err
	}
	return io.EOF
}

// abandon takes back a batch that the Sink never saw.
func (in *inbound) abandon(p *pending) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.queue = slices.DeleteFunc(in.queue, func(q *pending) bool { return q == p })
	in.outstanding--
	in.stir()
}

// done acknowledges the batches at the head of the queue that are done.
func (in *inbound) done(p *pending, err error) {
	if err != nil {
		in.cut(status.Errorf(codes.Internal, "slot %d: apply: %v", in.slot, err))
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	p.done = true
	in.outstanding--
	if err != nil {
		in.forget = true
	}
	for len(in.queue) > 0 && in.queue[0].done && !in.forget {
		q := in.queue[0]
		in.queue[0] = nil
		in.queue = in.queue[1:]
		switch {
		case q.boundary == SnapshotBegin:
			in.acked = 0
		case q.boundary == SnapshotEnd:
			in.resumable, in.acked = true, q.upto
		case q.sampleSeq != 0:
			in.sampleAck = q.sampleSeq
		default:
			in.acked = max(in.acked, q.upto)
		}
		in.ackDue = true
	}
	in.stir()
	in.poke()
}

// digest answers once everything before is applied.
func (in *inbound) digest(number uint64) error {
	if err := in.await(0); err != nil {
		return err
	}
	d, n := in.r.cfg.Sink.Digest(in.slot)
	in.answer(&peerv1.FromShadow{Kind: &peerv1.FromShadow_DigestReply{DigestReply: &peerv1.DigestReply{
		Number: number, Sessions: uint64(n), Digest: d[:]}}})
	return nil
}

// inventory answers once everything before is applied. From here to the end of
// the snapshot that follows, a new stream cannot resume.
func (in *inbound) inventory() error {
	if err := in.await(0); err != nil {
		return err
	}
	in.mu.Lock()
	in.resumable = false
	in.mu.Unlock()
	items, err := in.r.cfg.Sink.Inventory(in.slot)
	if err != nil {
		return status.Errorf(codes.Internal, "slot %d: list sessions: %v", in.slot, err)
	}
	for {
		part := items[:min(len(items), listItems)]
		items = items[len(part):]
		m := &peerv1.Inventory{Items: make([]*peerv1.Item, len(part)), Last: len(items) == 0}
		for i := range part {
			m.Items[i] = &peerv1.Item{Id: part[i].ID, Hash: part[i].Hash[:]}
		}
		in.answer(&peerv1.FromShadow{Kind: &peerv1.FromShadow_Inventory{Inventory: m}})
		if m.Last {
			return nil
		}
	}
}

func (in *inbound) answer(m *peerv1.FromShadow) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.out = append(in.out, m)
	in.poke()
}
