package session

import (
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// EndOf is the message by which charon announces the end of an IKE_SA. ours says
// that the gateway initiated it.
func EndOf(id sa.IKEID, ours bool) charon.Message {
	return charon.Message{Type: charon.IKEDelete, Attrs: Attrs{charon.NewIKERef(charon.IKEID, charon.IKERef{ID: id, Initiator: ours, Version: 2})}}
}

// Ended is the message by which charon would have announced the end of a child of
// the document, named by its inbound SPI, or with 0 that of the session.
func (d *Document) Ended(in sa.SPI) (m charon.Message, ok bool) {
	g := d.Live()
	if g == nil {
		return m, false
	}
	m = EndOf(g.ID, g.Initiator)
	if in == 0 {
		return m, true
	}
	m.Type = charon.ChildDelete
	m.Attrs = append(m.Attrs, charon.NewSPI(charon.InSPI, in))
	return m, true
}
