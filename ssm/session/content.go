package session

import (
	"slices"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// apply changes the committed content by one message. The document must not be
// shared yet. Messages about what the document does not hold change nothing.
func (d *Document) apply(e Effect) {
	ref, ok := e.Attrs.ref(charon.IKEID)
	if !ok {
		return
	}
	g := d.generation(ref.ID)
	switch e.Type {
	case charon.IKEAdd:
		if g != nil {
			g.Add = append(g.Add, e.Attrs)
			return
		}
		n := newGeneration(e.Attrs)
		n.Update = e.Attrs.only(charon.IKEID)
		if old := d.Live(); old != nil {
			// charon announces inner addresses once in the life of a
			// session; the ancestor that carries them will be forgotten.
			n.Update = n.Update.merge(old.Update.only(charon.LocalVIP, charon.RemoteVIP))
		}
		for i := range d.IKE {
			d.IKE[i].Deleted = true // charon moved its children to the new one
		}
		d.IKE = append(d.IKE, n)
	case charon.IKEUpdate:
		if g != nil && g == d.Live() { // ancestors exist no more
			g.Update = g.Update.merge(e.Attrs.without(charon.IKEID))
		}
	case charon.IKEDelete:
		if g != nil && g != d.Live() {
			g.Deleted = true
		}
	case charon.ChildAdd:
		if c := newChild(e); g != nil && d.child(c.In) == nil {
			d.Children = append(d.Children, c)
		}
	case charon.ChildDelete:
		in, err := e.Attrs.spi(charon.InSPI)
		if err == nil {
			d.removeChild(in)
		}
	}
}

func (d *Document) removeChild(in sa.SPI) {
	d.Children = slices.DeleteFunc(d.Children, func(c Child) bool { return c.In == in })
}

// prune forgets the ancestors that no child needs. What remains is the end of
// the chain without gaps: an empty twin inherits children from one generation
// to the next, so that a gap would lose them.
func (d *Document) prune() {
	for len(d.IKE) > 1 {
		first := d.IKE[0].ID
		if slices.ContainsFunc(d.Children, func(c Child) bool { return c.IKE == first }) {
			return
		}
		d.IKE = d.IKE[1:]
	}
}
