package node

import (
	"net/netip"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/slot"
	"github.com/shadowcast/shadowcast/sa/xfrm"
)

// An outbound SA appears at sequence number 0, which is in its first owner's block.
// From before charon is fed a child until its SA is in the block of our ticket, the
// fence drops what it sends, so that nothing depends on who is faster.

// unplaced notes that the outbound SA of c, if there is one, is in no block of
// ours. Callers call bar before charon is fed or the event is done with.
func (t *twin) unplaced(c *twinChild) {
	c.preset = false
	client := c.client
	if d := t.docs[c.session]; d != nil {
		client = d.ClientIP
	}
	if c.barred && c.client == client {
		return
	}
	t.unbar(c)
	c.client, c.barred = client, true
	t.toBar = append(t.toBar, c)
}

// bar makes the fence drop what unplaced children send.
func (t *twin) bar() {
	if len(t.toBar) == 0 {
		return
	}
	t.r.a.problem(t.r.n, "bar SAs that are in no block", t.r.a.host.Bar(t.r.n, outbounds(t.toBar)))
	t.toBar = nil
}

// unbar lets children send that are in our block, or gone.
func (t *twin) unbar(cs ...*twinChild) {
	var free []*twinChild
	for _, c := range cs {
		if c.barred {
			c.barred = false
			free = append(free, c)
		}
	}
	if len(free) > 0 {
		t.bar() // one of them may still be on its way there
		t.r.a.problem(t.r.n, "unbar SAs", t.r.a.host.Unbar(t.r.n, outbounds(free)))
	}
}

func outbounds(cs []*twinChild) []slot.Outbound {
	out := make([]slot.Outbound, 0, len(cs))
	for _, c := range cs {
		if a, err := netip.ParseAddr(c.client); err == nil {
			out = append(out, slot.Outbound{SPI: c.out, Dst: a})
		}
	}
	return out
}

// late moves what is installed to our block and returns the outbound SAs that are not
// there yet. It is the last thing done with a twin before it is activated.
func (t *twin) late() map[slot.Outbound]sa.Birth {
	t.flush()
	var again []*twinChild
	for c := range t.open.open {
		if c.haveOut && !c.preset && !c.void {
			again = append(again, c)
		}
	}
	t.presetSome(again)
	out := map[slot.Outbound]sa.Birth{}
	for c := range t.open.open {
		if !c.haveOut {
			for _, o := range outbounds([]*twinChild{c}) {
				out[o] = c.birth
			}
		}
	}
	return out
}

// installedLate runs at the owner for each SA that appears.
func (r *slotRuntime) installedLate(s xfrm.State) {
	if len(r.late) == 0 || r.inbound(s) {
		return
	}
	o := slot.Outbound{SPI: s.SPI, Dst: s.Dst}
	birth, ok := r.late[o]
	if !ok {
		return
	}
	delete(r.late, o)
	n, err := birth.Block(r.ticket)
	if err == nil {
		_, err = r.kern.Write([]xfrm.ReplayWrite{{ID: s.ID, OSeq: sa.FirstSeq(n)}})
	}
	if err == nil {
		err = r.a.host.Unbar(r.n, []slot.Outbound{o})
	}
	r.a.problem(r.n, "move SA "+s.SPI.String()+", installed after the claim, to its block", err)
}

// arrivedLate sets an inbound SA of a session that came after the claim to the last number
// known of it. Which of the numbers below were seen nobody has told: all count as seen.
func (r *slotRuntime) arrivedLate(s xfrm.State) {
	seq, ok := r.lateIn[s.SPI]
	if !ok || !r.inbound(s) {
		return
	}
	delete(r.lateIn, s.SPI)
	if seq == 0 {
		return
	}
	in := s.Sample()
	in.Seq, in.Bitmap = seq, make([]uint32, len(s.Bitmap))
	for i := range in.Bitmap {
		in.Bitmap[i] = ^uint32(0)
	}
	_, err := r.kern.Write([]xfrm.ReplayWrite{{ID: s.ID, In: &in}})
	r.a.problem(r.n, "set the replay state of SA "+s.SPI.String(), err)
}
