package node

import (
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/xfrm"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/replica"
)

// kernel follows what charon installs.
func (t *twin) kernel(e xfrm.Event) {
	switch e.Kind {
	case xfrm.NewSA:
		t.installed(e.State)
	case xfrm.DelSA, xfrm.HardExpire:
		t.lost(e.State)
	case xfrm.Flushed:
		t.forgetKernel()
	case xfrm.Overrun:
		t.recount()
	}
}

// forgetKernel notes that no SA is installed.
func (t *twin) forgetKernel() {
	now := time.Now()
	for _, c := range t.children {
		c.haveIn, c.haveOut = false, false
		t.unplaced(c)
		t.open.add(c, now)
	}
	t.unset = nil
	t.bar()
}

// installed notes an SA and puts it where the owner's left off: the outbound
// one at the start of our block, the inbound one at the last sample.
func (t *twin) installed(s xfrm.State) {
	if t.r.inbound(s) {
		c := t.children[s.SPI]
		if c == nil {
			return
		}
		c.inID, c.haveIn = s.ID, true
		if last, ok := t.samples[s.SPI]; ok {
			in := kernelSample(last)
			_, err := t.r.kern.Write([]xfrm.ReplayWrite{{ID: s.ID, In: &in}})
			t.r.a.problem(t.r.n, "write a replay sample", err)
		}
		t.settle(c)
		return
	}
	c := t.outbound(s)
	if c == nil {
		return
	}
	c.outID, c.haveOut = s.ID, true
	t.unplaced(c)
	t.bar()
	if t.settle(c); t.ticket == 0 {
		return
	}
	if t.unset = append(t.unset, c); len(t.unset) >= presetBatch {
		t.flush()
	}
}

// presetBatch bounds how many SAs wait for their block: writing and reading back
// costs the same three exchanges with the kernel for one as for many.
const presetBatch = 64

// flush moves the outbound SAs that were installed since the last call to our
// block and reports what follows. The runtime calls it whenever its queue is empty.
func (t *twin) flush() {
	if cs := t.unset; len(cs) > 0 {
		t.unset = nil
		// One may have gone again meanwhile.
		t.presetSome(slices.DeleteFunc(cs, func(c *twinChild) bool { return !c.haveOut || t.children[c.in] != c }))
		for _, c := range cs {
			if c != nil && t.children[c.in] == c {
				t.settle(c)
			}
		}
	}
	t.judge()
}

// outbound finds the child of an outbound SA. Clients choose these SPIs, so two
// may choose the same one; the address tells them apart.
func (t *twin) outbound(s xfrm.State) *twinChild {
	var found *twinChild
	for _, c := range t.out[s.SPI] {
		d := t.docs[c.session]
		if d != nil && d.ClientIP == s.Dst.String() {
			return c
		}
		if !c.haveOut {
			found = c
		}
	}
	return found
}

func (t *twin) lost(s xfrm.State) {
	if t.r.inbound(s) {
		if c := t.children[s.SPI]; c != nil {
			c.haveIn = false
			t.settle(c)
		}
		return
	}
	for _, c := range t.out[s.SPI] {
		if c.outID == s.ID {
			c.haveOut = false
			t.unplaced(c)
			t.settle(c)
		}
	}
	t.bar()
}

func (t *twin) settle(c *twinChild) {
	if c.complete() || c.haveIn && c.haveOut && t.ticket == 0 {
		t.open.remove(c)
	} else {
		t.open.add(c, time.Now())
	}
}

// recount reads the whole kernel state after notifications were lost.
func (t *twin) recount() {
	states, err := t.r.kern.Dump()
	if err != nil {
		t.r.a.problem(t.r.n, "read the kernel's SAs", err)
		return
	}
	t.forgetKernel()
	for _, s := range states {
		t.installed(s)
	}
	t.flush()
}

func (t *twin) presetAll(ticket sa.Ticket) {
	t.ticket, t.unset = ticket, nil
	all := make([]*twinChild, 0, len(t.children))
	for _, c := range t.children {
		if c.preset = false; c.haveOut {
			all = append(all, c)
		}
	}
	t.presetSome(all)
	for _, c := range all {
		t.settle(c)
	}
	t.judge()
	t.r.a.post(ssm.EvPreset{Slot: t.r.n, Ticket: ticket})
}

func (t *twin) presetSome(cs []*twinChild) {
	if len(cs) == 0 {
		return
	}
	ws := make([]xfrm.ReplayWrite, 0, len(cs))
	base := sa.Ticket(0)
	for _, c := range cs {
		n, err := c.birth.Block(t.ticket)
		if c.void = err != nil; c.void {
			t.r.log.Debug("no block for an SA", "spi", c.out, "err", err)
			base = max(base, c.birth.Base)
			continue
		}
		ws = append(ws, xfrm.ReplayWrite{ID: c.outID, OSeq: sa.FirstSeq(n)})
		c.preset = true
	}
	if base > 0 {
		t.r.a.post(ssm.EvBarred{Slot: t.r.n, Base: base})
	}
	if _, err := t.r.kern.Write(ws); err != nil {
		t.r.a.problem(t.r.n, "preset outbound sequence numbers", err)
		for _, c := range cs {
			c.preset = false
		}
	}
	t.unbar(slices.DeleteFunc(slices.Clone(cs), func(c *twinChild) bool { return !c.preset })...)
}

// replay applies the owner's samples to the inbound SAs, never backwards.
func (t *twin) replay(ss []replica.Sample) error {
	ws := make([]xfrm.ReplayWrite, 0, len(ss))
	for _, s := range ss {
		c := t.children[s.SPI]
		if c == nil {
			continue // of a child that is gone or not announced yet
		}
		t.samples[s.SPI] = s
		if c.haveIn {
			in := kernelSample(s)
			ws = append(ws, xfrm.ReplayWrite{ID: c.inID, In: &in})
		}
	}
	_, err := t.r.kern.Write(ws)
	return err
}

func kernelSample(s replica.Sample) xfrm.Sample {
	attr := xfrm.ReplayVal
	if s.ESNVal {
		attr = xfrm.ReplayESNVal
	}
	return xfrm.Sample{Seq: s.InSeq, Window: s.Window, Bitmap: s.Bitmap, Attr: attr}
}
