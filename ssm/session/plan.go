package session

import (
	"slices"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// plan takes one twin to one document.
type plan struct {
	doc  *Document
	twin *twin
	out  []charon.Message
}

func (p *plan) say(t charon.MsgType, as Attrs) { p.out = append(p.out, as.message(t)) }

// want returns the IKE_UPDATE of a generation. Ancestors get the outer addresses
// of the live generation, because children are installed with the addresses of
// the IKE_SA they hang on, and those of ancestors may be out of date.
func (p *plan) want(g *Generation) Attrs {
	if g == p.doc.Live() {
		return g.Update // shared with the document
	}
	return g.Update.merge(p.doc.Live().Update.addrs())
}

func (a Attrs) addrs() Attrs { return a.only(charon.LocalAddr, charon.RemoteAddr) }

// stale reports whether the twin's child must be installed anew.
func (p *plan) stale(c *Child, fed twinChild) bool {
	return !fed.add.equal(c.Add) || !fed.addrs.equal(p.doc.Live().Update.addrs())
}

// follows reports whether the twin can be led to the document step by step: it
// holds one of its generations, and every child it lacks is derived from that
// one or a later one.
func (p *plan) follows() bool {
	at := slices.IndexFunc(p.doc.IKE, func(g Generation) bool { return g.ID == p.twin.live })
	if at < 0 {
		return false
	}
	for i := range p.doc.Children {
		c := &p.doc.Children[i]
		if fed, ok := p.twin.children[c.In]; ok && !p.stale(c, fed) {
			continue
		}
		if slices.ContainsFunc(p.doc.IKE[:at], func(g Generation) bool { return g.ID == c.IKE }) {
			return false
		}
	}
	return true
}

func (p *plan) run() {
	for _, in := range slices.Clone(p.twin.order) {
		if p.doc.child(in) == nil {
			p.removeChild(in)
		}
	}
	at := slices.IndexFunc(p.doc.IKE, func(g Generation) bool { return g.ID == p.twin.live })
	for i := max(at, 0); i < len(p.doc.IKE); i++ {
		g := &p.doc.IKE[i]
		if i != at {
			p.addIKE(g)
		}
		p.update(g)
		p.addChildren(g)
	}
	live := p.doc.Live()
	if live.MIDInitiator != p.twin.midI {
		p.twin.midI = live.MIDInitiator
		p.out = append(p.out, midMessage(charon.MIDInitiator, live, live.MIDInitiator))
	}
	if live.MIDResponder != p.twin.midR {
		p.twin.midR = live.MIDResponder
		p.out = append(p.out, midMessage(charon.MIDResponder, live, live.MIDResponder))
	}
}

func midMessage(t charon.MsgType, g *Generation, mid uint32) charon.Message {
	id, _ := g.Add[0].find(charon.IKEID)
	return Attrs{id, charon.NewU32(charon.MID, mid)}.message(t)
}

func (p *plan) removeChild(in sa.SPI) {
	p.say(charon.ChildDelete, Attrs{p.twin.ref, charon.NewSPI(charon.InSPI, in)})
	delete(p.twin.children, in)
	p.twin.order = slices.DeleteFunc(p.twin.order, func(x sa.SPI) bool { return x == in })
}

// addIKE feeds a generation. If the twin holds an IKE_SA already, the new one
// replaces that one, whatever the chain was at the owner.
func (p *plan) addIKE(g *Generation) {
	t := p.twin
	for _, a := range g.Add {
		if old, ok := a.ref(charon.RekeyID); ok && t.live != (sa.IKEID{}) && old.ID != t.live {
			old.ID = t.live
			a = a.merge(Attrs{charon.NewIKERef(charon.RekeyID, old)})
		}
		p.say(charon.IKEAdd, a)
	}
	t.live = g.ID
	t.ref, _ = g.Add[0].find(charon.IKEID)
	t.update, t.midI, t.midR = nil, 0, 0
}

// update feeds what changed in the IKE_UPDATE of the twin's live IKE_SA.
func (p *plan) update(g *Generation) {
	want := p.want(g)
	diff := Attrs{p.twin.ref}
	for i, a := range want {
		first := slices.IndexFunc(want, func(x charon.Attr) bool { return x.Type == a.Type }) == i
		if group := want.only(a.Type); a.Type != charon.IKEID && first && !group.equal(p.twin.update.only(a.Type)) {
			diff = append(diff, group...)
		}
	}
	if len(diff) > 1 {
		p.say(charon.IKEUpdate, diff)
	}
	p.twin.update = want
}

func (p *plan) addChildren(g *Generation) {
	for i := range p.doc.Children {
		c := &p.doc.Children[i]
		if c.IKE != g.ID {
			continue
		}
		if fed, ok := p.twin.children[c.In]; ok {
			if !p.stale(c, fed) {
				continue
			}
			p.removeChild(c.In)
		}
		p.say(charon.ChildAdd, c.Add)
		p.twin.children[c.In] = twinChild{add: c.Add, addrs: p.doc.Live().Update.addrs()}
		p.twin.order = append(p.twin.order, c.In)
	}
}
