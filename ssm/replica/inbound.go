package replica

import (
	"context"
	"errors"
	"io"
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
		if kind := brokenKind(err); kind != "" && !in.isCut() {
			err = in.r.refuse(stream.Context(), kind, err)
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
		if kind := brokenKind(err); kind != "" {
			err = in.r.refuse(stream.Context(), kind, err)
		}
		return err
	}
	hello := m.GetHello()
	ctx := stream.Context()
	version, err := readHello(hello, in.r.cfg.Self)
	if err != nil {
		return in.r.refuse(ctx, kindOf(err), status.Errorf(codes.InvalidArgument, "read greeting: %v", err))
	}
	if err := in.r.certified(ctx, hello.Owner); err != nil {
		return in.r.refuse(ctx, KindName, err)
	}
	if kind, err := in.admit(ctx, hello, version); err != nil {
		return in.r.refuse(ctx, kind, err)
	}
	return nil
}

// admit makes this the stream of its slot, once the one before has ended and its
// batches are done.
func (in *inbound) admit(ctx context.Context, hello *peerv1.Hello, version uint32) (kind string, err error) {
	slot := sa.Slot(hello.Slot)
	st := in.r.slot(slot)
	if st == nil {
		return KindStopping, status.Error(codes.Unavailable, "shadow is stopping")
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
		return KindStopping, in.cause()
	case <-ctx.Done():
		return KindBusy, status.Errorf(codes.Unavailable, "slot %d: another stream is being admitted", slot)
	}
	if kind, err := st.superseded(slot, hello.Owner, sa.Ticket(hello.Ticket)); err != nil {
		return kind, err
	}
	st.mu.Lock()
	prev := st.cur
	st.mu.Unlock()
	if prev != nil {
		if prev.hello.Owner == hello.Owner && prev.hello.Incarnation > hello.Incarnation {
			return KindOldIncarnation, status.Errorf(codes.FailedPrecondition, "slot %d: a newer incarnation of %s feeds it", slot, hello.Owner)
		}
		st.gate.Lock()
		prev.cut(status.Errorf(codes.Aborted, "slot %d: replaced by a newer stream of %s", slot, hello.Owner))
		st.gate.Unlock()
		if !prev.drained(ctx) {
			return KindBusy, status.Errorf(codes.Unavailable, "slot %d: changes of the stream before are still being applied", slot)
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
		return KindSuperseded, supersededBy(slot, st.high, st.holder)
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
