package replica

import (
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
		return in.apply(Batch{Boundary: SnapshotEnd, Upto: in.last}, &pending{boundary: SnapshotEnd, upto: in.last})
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
	if !in.snapshot {
		b.Upto = m.Upto
	}
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
