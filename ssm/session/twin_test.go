package session

import (
	"fmt"
	"maps"
	"slices"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// model is a charon without a network: what strongSwan's ha plugin does with
// the datagrams it receives, and a list of what it should never have received.
type model struct {
	ikes   map[sa.IKEID]*modelIKE
	faults []string
	told   int
}

type modelIKE struct {
	update     Attrs
	up         bool
	midI, midR uint32
	kids       map[sa.SPI]modelKid
}

type modelKid struct {
	skd   sa.IKEID // the IKE_SA whose keys it was derived from
	add   Attrs
	addrs Attrs
}

func newModel() *model { return &model{ikes: map[sa.IKEID]*modelIKE{}} }

func (m *model) fault(format string, args ...any) {
	m.faults = append(m.faults, fmt.Sprintf(format, args...))
}

// tell gives the twin datagrams, over the wire.
func (m *model) tell(ms []charon.Message) {
	for _, x := range ms {
		v, err := x.As(charon.V3)
		if err != nil {
			m.fault("%v", err)
			continue
		}
		b, err := v.Encode()
		if err != nil {
			m.fault("%v", err)
			continue
		}
		m.told++
		m.receive(must(charon.Decode(b)))
	}
}

func (m *model) receive(x charon.Message) {
	as := Attrs(x.Attrs)
	id := must(x.SA()).ID
	k := m.ikes[id]
	if x.Type == charon.IKEAdd {
		m.add(id, as)
		return
	}
	if k == nil {
		m.fault("%s of unknown IKE_SA %s", x.Type, id)
		return
	}
	switch x.Type {
	case charon.IKEUpdate:
		if as[0].Type != charon.IKEID {
			m.fault("IKE_UPDATE does not begin with IKE_ID")
		}
		k.update = k.update.merge(as)
		k.up = k.up || as.has(charon.ConfigName)
	case charon.MIDInitiator:
		k.midI, _ = as.uint(charon.MID)
	case charon.MIDResponder:
		k.midR, _ = as.uint(charon.MID)
	case charon.IKEDelete:
		delete(m.ikes, id)
	case charon.ChildAdd:
		in := must(as.spi(charon.InSPI))
		for _, other := range m.ikes {
			if _, twice := other.kids[in]; twice {
				m.fault("CHILD_ADD of installed child %s", in)
			}
		}
		if !k.up {
			m.fault("CHILD_ADD on half-open IKE_SA %s", id)
		}
		k.kids[in] = modelKid{skd: id, add: as, addrs: k.update.addrs()}
	case charon.ChildDelete:
		in := must(as.spi(charon.InSPI))
		if _, ok := k.kids[in]; !ok {
			m.fault("CHILD_DELETE of unknown child %s", in)
		}
		delete(k.kids, in)
	default:
		m.fault("unexpected %s", x.Type)
	}
}

func (m *model) add(id sa.IKEID, as Attrs) {
	if k := m.ikes[id]; k != nil {
		if k.up { // strongSwan 6 may send several before that
			m.fault("IKE_ADD of known IKE_SA %s", id)
		}
		return
	}
	k := &modelIKE{kids: map[sa.SPI]modelKid{}}
	if ref, ok := as.ref(charon.RekeyID); ok {
		if old := m.ikes[ref.ID]; old != nil { // inherit, then destroy
			k.kids = old.kids
			k.update = old.update.only(charon.LocalVIP, charon.RemoteVIP)
			delete(m.ikes, ref.ID)
		}
	}
	m.ikes[id] = k
}

// differs says in what the twin differs from the committed content of docs.
func (m *model) differs(docs []*Document) string {
	if len(m.faults) > 0 {
		return m.faults[0]
	}
	if len(m.ikes) != len(docs) {
		return fmt.Sprintf("%d IKE_SAs, %d sessions", len(m.ikes), len(docs))
	}
	for _, d := range docs {
		g := d.Live()
		k := m.ikes[g.ID]
		switch {
		case k == nil:
			return fmt.Sprintf("IKE_SA %s is missing", g.ID)
		case !k.up:
			return fmt.Sprintf("IKE_SA %s is half open", g.ID)
		case k.midI != g.MIDInitiator || k.midR != g.MIDResponder:
			return fmt.Sprintf("message IDs %d/%d, want %d/%d", k.midI, k.midR, g.MIDInitiator, g.MIDResponder)
		}
		for t := charon.IKEID; t.Valid(); t++ {
			if !k.update.only(t).equal(g.Update.only(t)) {
				return fmt.Sprintf("%s: %v, want %v", t, k.update.only(t), g.Update.only(t))
			}
		}
		want := map[sa.SPI]bool{}
		for _, c := range d.Children {
			want[c.In] = true
			kid, ok := k.kids[c.In]
			switch {
			case !ok:
				return fmt.Sprintf("child %s is missing", c.In)
			case kid.skd != c.IKE:
				return fmt.Sprintf("child %s derived from %s, want %s", c.In, kid.skd, c.IKE)
			case !kid.add.equal(c.Add):
				return fmt.Sprintf("child %s is another", c.In)
			case !kid.addrs.equal(g.Update.addrs()):
				return fmt.Sprintf("child %s installed for %v, client is at %v", c.In, kid.addrs, g.Update.addrs())
			}
		}
		for in := range k.kids {
			if !want[in] {
				return fmt.Sprintf("child %s is left over", in)
			}
		}
	}
	return ""
}

func sortedDocs(m map[string]*Document) []*Document {
	var out []*Document
	for _, id := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[id])
	}
	return out
}
