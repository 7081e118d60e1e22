package node

import (
	"slices"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/xfrm"
)

// lateChild is a child that charon had been fed and had not installed yet when
// the slot was claimed. Its outbound SA appears at sequence number 0, which is
// its first owner's block, and must go to ours before it is used.
type lateChild struct {
	out    sa.SPI
	client string // address, because clients choose these SPIs
	birth  sa.Birth
}

// late moves what is installed to our block and returns what is not there yet.
// It is the last thing done with a twin before it is activated.
func (t *twin) late() []*lateChild {
	t.flush()
	var again []*twinChild
	for c := range t.open.open {
		if c.haveOut && !c.preset && !c.void {
			again = append(again, c)
		}
	}
	t.presetSome(again)
	var out []*lateChild
	for c := range t.open.open {
		if !c.haveOut {
			l := &lateChild{out: c.out, birth: c.birth}
			if d := t.docs[c.session]; d != nil {
				l.client = d.ClientIP
			}
			out = append(out, l)
		}
	}
	return out
}

// installedLate runs at the owner for each SA that appears.
func (r *slotRuntime) installedLate(s xfrm.State) {
	if len(r.late) == 0 || r.inbound(s) {
		return
	}
	i := slices.IndexFunc(r.late, func(l *lateChild) bool { return l.out == s.SPI && l.client == s.Dst.String() })
	if i < 0 {
		return
	}
	l := r.late[i]
	r.late = slices.Delete(r.late, i, i+1)
	n, err := l.birth.Block(r.ticket)
	if err == nil {
		_, err = r.kern.Write([]xfrm.ReplayWrite{{ID: s.ID, OSeq: sa.FirstSeq(n)}})
	}
	r.a.problem(r.n, "move SA "+s.SPI.String()+", installed after the claim, to its block", err)
}
