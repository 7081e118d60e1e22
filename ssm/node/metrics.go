package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shadowcast/shadowcast/metrics"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/steer"
	"github.com/shadowcast/shadowcast/sa/xfrm"
	"github.com/shadowcast/shadowcast/statuspage"
)

// metricsAgain is between two tries to serve metrics.
const metricsAgain = 5 * time.Second

// serveMetrics answers scrapes and shows the status page until ctx ends. An appliance
// whose endpoint cannot be served goes on without it, for its sessions matter more, and
// tries again: the management address may come up after the daemon.
func (a *Appliance) serveMetrics(ctx context.Context) error {
	said := ""
	for {
		s := metrics.NewServer(a.cfg.Metrics, snapshots{a}, a.events.log, a.log)
		statuspage.Register(s.Handle, snapshots{a}, a.events.log, a.log)
		if err := ignore(s.Run(ctx), ctx); err != nil && err.Error() != said {
			a.problem(0, "serve metrics", err)
			said = err.Error()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(metricsAgain):
		}
	}
}

// snapshots takes what a scrape shows.
type snapshots struct{ a *Appliance }

func (s snapshots) Snapshot(ctx context.Context) (*metrics.Snapshot, error) {
	a, b := s.a, backend(s)
	v, err := a.view(ctx)
	if err != nil {
		return nil, err
	}
	out := &metrics.Snapshot{Standing: standingProto(v.Standing), Steering: map[string]uint64{}}
	for _, x := range v.Slots {
		out.Slots = append(out.Slots, a.slotProto(x))
	}
	if out.Appliance, err = b.Appliance(ctx); err != nil {
		return nil, err
	}
	if out.Peers, err = b.Peers(ctx); err != nil {
		return nil, err
	}
	if out.BGP, err = b.BGP(ctx); err != nil {
		return nil, err
	}
	if out.Health, err = a.health.Health(ctx, false); err != nil {
		return nil, err
	}
	dropped, err := a.steer.Counters()
	if err != nil {
		return nil, err
	}
	for _, r := range steer.Reasons() {
		out.Steering[r.String()] = dropped[r]
	}
	out.Certificates = map[string]time.Time{"ca": a.identity.CANotAfter(), "cert": a.identity.NotAfter()}
	out.Unique = a.unique.metrics()
	var owners []*slotRuntime
	for _, r := range a.places.all() {
		p := r.published.Load()
		if p == nil {
			continue
		}
		for _, st := range p.Status() {
			out.Replication = append(out.Replication, metrics.Replication{Slot: r.n, Shadow: st.Name, Bytes: st.Bytes, Connects: st.Connects, Repairs: st.Repairs})
		}
		owners = append(owners, r)
	}
	out.Sequences, out.Missing = sequencesOf(ctx, owners)
	return out, nil
}

// sequenceTime bounds how long a snapshot waits for sequence numbers: a slot that is busy
// must not take everything else away.
const sequenceTime = 2 * time.Second

// sequencesOf reads the sequence numbers of all slots at once. Those that could not be
// read are the error.
func sequencesOf(ctx context.Context, owners []*slotRuntime) (out []metrics.Sequence, missing error) {
	ctx, cancel := context.WithTimeout(ctx, sequenceTime)
	defer cancel()
	all, errs := make([]metrics.Sequence, len(owners)), make([]error, len(owners))
	var g errgroup.Group
	for i, r := range owners {
		g.Go(func() error {
			all[i], errs[i] = r.sequences(ctx)
			return nil
		})
	}
	g.Wait()
	for i, err := range errs {
		if err == nil {
			out = append(out, all[i])
		}
	}
	return out, errors.Join(errs...)
}

// sequences compares the outbound SAs of an owned slot with the ends of their
// blocks. It reads the kernel on a socket of its own: the runtime goes on.
func (r *slotRuntime) sequences(ctx context.Context) (metrics.Sequence, error) {
	q := metrics.Sequence{Slot: r.n, Headroom: 1, BlocksLeft: sa.MaxBlock}
	blocks := ask(ctx, r.queue, r.outboundBlocks)
	if err := ctx.Err(); err != nil || len(blocks) == 0 {
		return q, err
	}
	kern, err := xfrm.Open(r.netns())
	if err != nil {
		return q, fmt.Errorf("read the sequence numbers of slot %d: %w", r.n, err)
	}
	defer kern.Close()
	states, err := kern.Dump()
	if err != nil {
		return q, fmt.Errorf("read the sequence numbers of slot %d: %w", r.n, err)
	}
	for _, s := range states {
		block, ok := blocks[s.SPI]
		if !ok || r.inbound(s) {
			continue
		}
		q.SAs++
		q.Headroom = min(q.Headroom, headroom(s.OSeq, block))
		q.BlocksLeft = min(q.BlocksLeft, sa.MaxBlock-min(block, sa.MaxBlock))
	}
	return q, nil
}

// headroom is the share of block that lies above the last used number.
func headroom(oseq, block uint64) float64 {
	first, end := sa.FirstSeq(block), sa.FirstSeq(block+1)
	switch {
	case oseq <= first:
		return 1
	case oseq >= end:
		return 0
	}
	return float64(end-oseq) / float64(sa.BlockSize)
}

// outboundBlocks are the blocks in which the owner sends, by outbound SPI. Only
// the runtime's goroutine calls it.
func (r *slotRuntime) outboundBlocks() map[sa.SPI]uint64 {
	if r.mode != modeOwner || r.ledger == nil {
		return nil
	}
	out := map[sa.SPI]uint64{}
	for _, d := range r.ledger.Docs() {
		for _, c := range d.Children {
			if b, err := c.Birth.Block(r.ticket); err == nil {
				out[c.Out] = b
			}
		}
	}
	return out
}
