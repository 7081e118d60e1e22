package session

import (
	"errors"
	"fmt"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// validate reports whether the document can be fed: every list of attributes is
// a message charon can receive, and the fields beside it say the same as it.
func (d *Document) validate() error {
	switch {
	case !d.Slot.Valid():
		return fmt.Errorf("$.slot: %d is no slot (1..%d)", d.Slot, sa.MaxSlot)
	case d.SessionID == "":
		return errors.New("$.session_id: is empty")
	case len(d.IKE) == 0:
		return errors.New("$.ike: is empty, a session has at least one IKE_SA")
	case d.Live().Deleted:
		return fmt.Errorf("$.ike[%d].deleted: the last generation must be live", len(d.IKE)-1)
	}
	known := map[sa.IKEID]bool{}
	for i := range d.IKE {
		g := &d.IKE[i]
		if err := g.validate(); err != nil {
			return fmt.Errorf("$.ike[%d]%w", i, err)
		}
		if known[g.ID] {
			return fmt.Errorf("$.ike[%d].id: %s occurs twice", i, g.ID)
		}
		known[g.ID] = true
	}
	spis := map[sa.SPI]bool{}
	for i := range d.Children {
		c := &d.Children[i]
		if err := c.validate(); err != nil {
			return fmt.Errorf("$.children[%d]%w", i, err)
		}
		if !known[c.IKE] {
			return fmt.Errorf("$.children[%d].ike: %s is none of the generations", i, c.IKE)
		}
		if spis[c.In] {
			return fmt.Errorf("$.children[%d].in_spi: %s occurs twice", i, c.In)
		}
		spis[c.In] = true
	}
	for i := range d.Pending {
		for j, f := range d.Pending[i].Effects {
			if _, err := f.validate(); err != nil {
				return fmt.Errorf("$.pending[%d].effects[%d].attrs: %w", i, j, err)
			}
		}
	}
	return nil
}

// validate returns the IKE_SA that the effect is about.
func (e Effect) validate() (sa.IKEID, error) {
	m := e.Message()
	m.Version = charon.V5 // has every attribute
	if err := m.Check(); err != nil {
		return sa.IKEID{}, err
	}
	ref, err := m.SA()
	if err == nil && ref.ID.Responder == 0 {
		err = fmt.Errorf("IKE_ID %s has no responder SPI", ref.ID)
	}
	if err == nil && (e.Type == charon.ChildAdd || e.Type == charon.ChildDelete) {
		_, err = e.Attrs.spi(charon.InSPI)
	}
	if err == nil && e.Type == charon.ChildAdd {
		_, err = e.Attrs.spi(charon.OutSPI)
	}
	return ref.ID, err
}

func (a Attrs) spi(t charon.AttrType) (sa.SPI, error) {
	x, ok := a.find(t)
	if !ok {
		return 0, fmt.Errorf("no %s attribute", t)
	}
	return x.SPI()
}

func (a Attrs) ref(t charon.AttrType) (charon.IKERef, bool) {
	x, ok := a.find(t)
	if !ok {
		return charon.IKERef{}, false
	}
	r, err := x.IKERef()
	return r, err == nil
}

func (a Attrs) uint(t charon.AttrType) (uint32, bool) {
	x, ok := a.find(t)
	if !ok {
		return 0, false
	}
	v, err := x.Uint()
	return v, err == nil
}

func (g *Generation) validate() error {
	if len(g.Add) == 0 {
		return errors.New(".add: is empty")
	}
	for i, a := range g.Add {
		id, err := (Effect{Type: charon.IKEAdd, Attrs: a}).validate()
		if err != nil {
			return fmt.Errorf(".add[%d]: %w", i, err)
		}
		if id != g.ID {
			return fmt.Errorf(".add[%d]: is about %s", i, id)
		}
	}
	id, err := (Effect{Type: charon.IKEUpdate, Attrs: g.Update}).validate()
	if err != nil {
		return fmt.Errorf(".update: %w", err)
	}
	if id != g.ID {
		return fmt.Errorf(".update: is about %s", id)
	}
	want := newGeneration(g.Add[0])
	if g.Initiator != want.Initiator || g.Version != want.Version {
		return fmt.Errorf(".add[0]: says initiator %v version %d, the generation says %v and %d", want.Initiator, want.Version, g.Initiator, g.Version)
	}
	if (g.RekeyOf == nil) != (want.RekeyOf == nil) || g.RekeyOf != nil && *g.RekeyOf != *want.RekeyOf {
		return errors.New(".rekey_of: differs from REKEY_ID")
	}
	return nil
}

func (c *Child) validate() error {
	id, err := (Effect{Type: charon.ChildAdd, Attrs: c.Add}).validate()
	if err != nil {
		return fmt.Errorf(".add: %w", err)
	}
	want := newChild(Effect{Attrs: c.Add})
	if id != c.IKE || want.In != c.In || want.Out != c.Out || want.ESN != c.ESN {
		return fmt.Errorf(".add: is about child %s/%s esn %v of %s", want.In, want.Out, want.ESN, id)
	}
	return nil
}

// newGeneration reads an IKE_ADD that Effect.validate accepted.
func newGeneration(add Attrs) Generation {
	r, _ := add.ref(charon.IKEID)
	g := Generation{ID: r.ID, Initiator: r.Initiator, Version: r.Version, Add: []Attrs{add}}
	if old, ok := add.ref(charon.RekeyID); ok {
		g.RekeyOf = &old.ID
	}
	return g
}

// newChild reads a CHILD_ADD that Effect.validate accepted.
func newChild(e Effect) Child {
	r, _ := e.Attrs.ref(charon.IKEID)
	c := Child{IKE: r.ID, Birth: e.Birth, Created: e.At, Add: e.Attrs}
	c.In, _ = e.Attrs.spi(charon.InSPI)
	c.Out, _ = e.Attrs.spi(charon.OutSPI)
	esn, _ := e.Attrs.uint(charon.ESN)
	c.ESN = esn != 0
	return c
}
