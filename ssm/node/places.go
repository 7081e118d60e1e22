package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/slot"
	"github.com/shadowcast/shadowcast/ssm"
)

// places are the slots that have a namespace and a runtime here: those whose home or
// first shadow this appliance is, for good, and those whose twins it was asked to
// keep, as long as they do.
type places struct {
	a     *Appliance
	start func(func() error) // runs a runtime under the daemon's error group
	ctx   context.Context
	*queue

	mu sync.RWMutex
	m  map[sa.Slot]*slotRuntime
}

func newPlaces(a *Appliance) *places {
	p := &places{a: a, m: map[sa.Slot]*slotRuntime{}, queue: newQueue()}
	for _, s := range a.cfg.Fleet.Slots {
		was, err := a.memory.load(s.Number)
		a.problem(s.Number, "read what the last daemon remembered", err)
		// A twin that an earlier daemon kept has a charon, which must not stay behind.
		if a.isMember(s) || was.Role != "" && a.cfg.Fleet.Changes(s) {
			p.m[s.Number] = newRuntime(a, s)
		}
	}
	return p
}

// at returns the runtime of slot n, nil without one.
func (p *places) at(n sa.Slot) *slotRuntime {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.m[n]
}

// all returns every runtime, by number.
func (p *places) all() []*slotRuntime {
	p.mu.RLock()
	defer p.mu.RUnlock()
	out := make([]*slotRuntime, 0, len(p.m))
	for _, n := range slices.Sorted(maps.Keys(p.m)) {
		out = append(out, p.m[n])
	}
	return out
}

// desired is what the kernel shall have.
func (p *places) desired() (d slot.Desired) {
	for _, s := range p.a.cfg.Fleet.Slots {
		d.Slots = append(d.Slots, slot.Slot{Number: s.Number, Foreign: p.at(s.Number) == nil, VIPs: p.a.cfg.Fleet.VIPs, Pools: s.Pools})
	}
	return d
}

// run gives and takes places until ctx ends. start runs what serves them.
func (p *places) run(ctx context.Context, start func(func() error)) error {
	p.ctx, p.start = ctx, start
	for _, r := range p.all() {
		p.serve(r)
	}
	return p.queue.run(ctx)
}

func (p *places) serve(r *slotRuntime) {
	ctx, stop := context.WithCancel(p.ctx)
	r.stop, r.over = stop, make(chan struct{})
	p.start(func() error {
		defer close(r.over)
		err := r.run(ctx)
		if err == nil || ctx.Err() != nil || r.cfg.Home == p.a.cfg.Node || !p.a.cfg.Fleet.Changes(r.cfg) {
			return err
		}
		// Another appliance can keep this twin; the core asks again later.
		p.mu.Lock()
		if p.m[r.n] == r {
			delete(p.m, r.n)
		}
		p.mu.Unlock()
		p.a.problem(r.n, "keep a twin", err)
		p.a.post(ssm.EvSlotDown{Slot: r.n, Reason: err.Error()})
		return nil
	})
}

// place gives slot n a runtime. Called in the core loop, which goes on at once;
// whatever it asks of the slot waits in the runtime's queue.
func (p *places) place(n sa.Slot) {
	if p.at(n) != nil {
		return
	}
	r := newRuntime(p.a, fleetSlot(p.a.cfg, n))
	p.mu.Lock()
	p.m[n] = r
	p.mu.Unlock()
	p.do(func() {
		if p.at(n) != r || p.ctx.Err() != nil {
			return // not wanted any more
		}
		if err := p.a.host.Set(p.ctx, p.desired()); err != nil {
			p.a.problem(n, "set up the namespaces", err)
		}
		p.serve(r)
	})
}

// leave ends the runtime of slot n, its charon and its namespace.
func (p *places) leave(n sa.Slot) {
	p.mu.Lock()
	r := p.m[n]
	delete(p.m, n)
	p.mu.Unlock()
	if r == nil {
		return
	}
	p.a.authority.forget(n)
	p.do(func() {
		if r.over == nil {
			return // was never started
		}
		r.do(r.leave)
		select {
		case <-r.over:
		case <-p.ctx.Done():
			return
		}
		if r.inst != nil { // it had ended by itself
			r.leave()
		}
		p.a.replicas.receiver.Forget(n)
		p.a.problem(n, "remove the namespace", p.a.host.Set(p.ctx, p.desired()))
	})
}

// leave ends the twin and its charon, and the run of this runtime with it.
func (r *slotRuntime) leave() {
	defer r.stop()
	r.endOwner()
	r.mode, r.twin = modeIdle, nil
	r.detach()
	if r.inst == nil {
		return
	}
	err := r.inst.Kill()
	if err == nil {
		<-r.inst.Done()
		err = r.inst.Close()
	}
	r.inst = nil
	if err != nil {
		err = fmt.Errorf("slot %d: %w", r.n, err)
	}
	r.a.problem(r.n, "end the charon of a twin that is not needed any more", err)
}

// isMember reports whether this appliance has a place for s from the start.
func (a *Appliance) isMember(s config.Slot) bool {
	for i, n := range s.Members() {
		if n == a.cfg.Node {
			return i == 0 || a.cfg.Shadowing
		}
	}
	return false
}
