package node

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/xfrm"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/session"
)

// flush brings a shadow up to date before a move.
func (r *slotRuntime) flush(move uint64, to string) {
	if r.mode != modeOwner {
		r.a.post(ssm.EvFlushed{Slot: r.n, Move: move, Err: "the slot is not owned here any more"})
		return
	}
	r.sampleAll()
	pub := r.pub
	r.group.Go(func() error {
		ctx, cancel := context.WithTimeout(r.ctx, 3*time.Second)
		defer cancel()
		e := ssm.EvFlushed{Slot: r.n, Move: move}
		if err := pub.Flush(ctx, to); err != nil {
			e.Err = err.Error()
		}
		r.a.post(e)
		return nil
	})
}

// quiesce waits until no exchange is half done: rule 14 of the charon link.
// New clients go elsewhere meanwhile.
func (r *slotRuntime) quiesce(move uint64) {
	if r.rekeys != nil {
		r.rekeys.pause(time.Now())
	}
	vici := r.vici
	r.group.Go(func() error {
		ctx, cancel := context.WithTimeout(r.ctx, 5*time.Second)
		defer cancel()
		r.ping(ctx)
		quiet := 0
		detail := "vici did not answer"
		for {
			sas, err := vici.ListSAs(ctx, true)
			if err == nil {
				if detail = unquiet(sas); detail == "" {
					quiet++
				} else {
					quiet = 0
				}
			}
			// Twice in a row, so that a client between two messages of its
			// first exchanges is seen.
			if quiet >= 2 {
				r.a.post(ssm.EvQuiesced{Slot: r.n, Move: move})
				return nil
			}
			select {
			case <-ctx.Done():
				r.a.post(ssm.EvQuiesced{Slot: r.n, Move: move, Detail: detail})
				return nil
			case <-time.After(60 * time.Millisecond):
			}
		}
	})
}

// unquiet names the IKE_SAs that would not survive a passivation.
func unquiet(sas []charon.IKESA) string {
	var open []string
	for _, s := range sas {
		if s.State != "ESTABLISHED" && s.State != "PASSIVE" || len(s.TasksActive) > 0 {
			open = append(open, s.ID.String()+" is "+strings.ToLower(s.State))
		}
	}
	return strings.Join(open, ", ")
}

// drain waits until no packet came through the tunnel for quiet.
func (r *slotRuntime) drain(move uint64, quiet time.Duration) {
	start := r.a.peerHits(r.n)
	r.group.Go(func() error {
		last, since := start, time.Now()
		for time.Since(since) < quiet {
			select {
			case <-r.ctx.Done():
				return nil
			case <-time.After(5 * time.Millisecond):
			}
			if n := r.a.peerHits(r.n); n != last {
				last, since = n, time.Now()
			}
		}
		r.a.post(ssm.EvDrained{Slot: r.n, Move: move, Late: last - start})
		return nil
	})
}

// refeed restarts the dead charon of an active slot behind the closed fence and
// gives it back every session with its sequence numbers.
func (r *slotRuntime) refeed() {
	r.a.post(ssm.EvRefed{Slot: r.n, Err: errText(r.tryRefeed())})
}

func (r *slotRuntime) tryRefeed() error {
	if r.mode != modeOwner {
		return errors.New("the slot is not owned here any more")
	}
	before, err := r.kern.Dump()
	if err != nil {
		return err
	}
	docs := r.ledger.Docs()
	if err := r.startCharon(); err != nil {
		return err
	}
	feeder := session.NewFeeder()
	want := 0
	for _, d := range docs {
		want += 2 * len(d.Children)
		if err := r.feed(feeder, d); err != nil {
			return err
		}
	}
	if err := r.link.Drain(r.ctx); err != nil {
		return err
	}
	if err := r.awaitSAs(want, 5*time.Second); err != nil {
		return err
	}
	ws := make([]xfrm.ReplayWrite, 0, len(before))
	for _, s := range before {
		if r.inbound(s) {
			in := s.Sample()
			ws = append(ws, xfrm.ReplayWrite{ID: s.ID, In: &in})
		} else {
			ws = append(ws, xfrm.ReplayWrite{ID: s.ID, OSeq: s.OSeq})
		}
	}
	_, err = r.kern.Write(ws)
	return err
}

// awaitSAs waits until the kernel holds n SAs.
func (r *slotRuntime) awaitSAs(n int, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		states, err := r.kern.Dump()
		if err != nil || len(states) >= n {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("charon did not install every child in time")
		}
		select {
		case <-r.ctx.Done():
			return r.ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}
