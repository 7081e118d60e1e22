package sim

import (
	"fmt"
	"math/rand"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm"
)

// reshapeEvery is how often whoever chooses shadow sets looks: an owner that has just
// taken a slot over is told then, too.
const reshapeEvery = 500 * time.Millisecond

// reshapes draws changes of shadow sets into a plan: now and then one, and short
// series of them while something else goes wrong.
func (p *Plan) reshapes(r *rand.Rand) {
	at := 2200 * time.Millisecond
	for at < p.Span {
		f := Fault{At: at, Kind: Reshape, Slot: 1 + r.Intn(p.Slots)}
		for range 1 + r.Intn(min(3, p.Nodes-1)) {
			f.Mask |= 1 << r.Intn(p.Nodes)
		}
		p.Faults = append(p.Faults, f)
		gap := 1500
		if r.Intn(3) == 0 {
			gap = 150
		}
		at += time.Duration(20+r.Intn(gap)) * time.Millisecond
	}
}

// members lists the nodes of a mask.
func (w *World) members(mask int) []ssm.Node {
	out := []ssm.Node{}
	for _, n := range w.nodes {
		if mask>>n.index&1 == 1 {
			out = append(out, n.name)
		}
	}
	return out
}

func (w *World) reshapes() {
	w.after(reshapeEvery, w.reshapes)
	for _, c := range w.cfg.Slots {
		w.reshape(c.Slot)
	}
}

// reshape tells whoever owns a slot what set is wanted. Whom its owner does not
// hear it does not want: the choice excludes the dead.
func (w *World) reshape(slot sa.Slot) {
	want, ok := w.wants[slot]
	if !ok {
		return
	}
	for _, n := range w.nodes {
		if !n.ready() || n.core.Role(slot) != ssm.RoleOwner {
			continue
		}
		var heard []ssm.Node
		for _, p := range n.core.View().Peers {
			if !p.Suspect && !p.Heard.IsZero() && slices.Contains(want, p.Node) {
				heard = append(heard, p.Node)
			}
		}
		n.post(ssm.EvShadowSet{Slot: slot, Want: heard})
	}
}

// feed starts and ends streams.
func (s *shell) feed(shadows []ssm.Node) {
	if s.mode != owning {
		return
	}
	s.shadows = shadows
	for to := range s.streams {
		if !slices.Contains(shadows, to) {
			delete(s.streams, to)
		}
	}
	for _, to := range shadows {
		if s.streams[to] == nil {
			s.stream(to)
		}
	}
}

// leave ends the twin.
func (s *shell) leave() {
	if s.isOpen() {
		s.n.w.fail("I2: %s gives the place of slot %d up, which is active there", s.n.name, s.slot)
	}
	if s.preset != 0 {
		s.n.w.slots[s.slot].voided[s.tenure(s.preset)] = true
	}
	s.n.w.left(s)
	s.rebuild()
	s.build++ // no charon comes of it
}

// left checks that who goes is not missed: of a fleet that is left alone but for
// moves, another shadow covers the slot.
func (w *World) left(s *shell) {
	owner := w.byName[s.master]
	if s.mode != twin || !s.ready || owner == nil || !owner.ready() || !w.quiet(1500*time.Millisecond) {
		return
	}
	o := owner.shells[s.slot]
	if o.mode != owning || o.ticket != w.slots[s.slot].highest || owner.core.MovePhase(s.slot) != "" || w.covered(o) {
		return
	}
	w.fail("I9: %s stops shadowing slot %d for %s, and nobody else is complete and armed", s.n.name, s.slot, owner.name)
}

// wrongSet returns how the shadow set of a slot differs from what is wanted, "" if none does.
func (w *World) wrongSet() string {
	for _, c := range w.cfg.Slots {
		want, ok := w.wants[c.Slot]
		own := w.serving(c.Slot)
		if !ok || len(own) != 1 {
			continue
		}
		owner := own[0].name
		want = slices.DeleteFunc(slices.Clone(want), func(n ssm.Node) bool { return n == owner })
		if len(want) == 0 {
			continue // whom there is stays
		}
		for _, v := range own[0].core.View().Slots {
			if v.Slot != c.Slot {
				continue
			}
			for _, n := range want {
				if !slices.ContainsFunc(v.Shadows, func(x ssm.ShadowView) bool { return x.Node == n && x.Ready && !x.Leaving }) {
					return fmt.Sprintf("%s is wanted as a shadow of slot %d and is not ready for %s: %+v", n, c.Slot, owner, v.Shadows)
				}
			}
			for _, x := range v.Shadows {
				if x.Node != c.Home && !slices.Contains(want, x.Node) {
					return fmt.Sprintf("%s is not wanted as a shadow of slot %d and has not left %s: %+v", x.Node, c.Slot, owner, v.Shadows)
				}
			}
		}
		for _, n := range w.nodes {
			if n.machine && n.name != owner && n.shells[c.Slot].mode == twin && n.name != c.Home && !slices.Contains(want, n.name) {
				return fmt.Sprintf("%s keeps a twin of slot %d, which %v shadow", n.name, c.Slot, want)
			}
		}
	}
	return ""
}
