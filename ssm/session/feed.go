package session

import (
	"fmt"
	"maps"
	"slices"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// Feeder remembers what a dormant twin charon has been told and turns documents
// into what it must be told next. Every message it returns must reach the twin,
// in order; if one may be lost, Remove the session and Diff it again. Messages
// carry no version: use charon.Message.As.
//
// A twin derives a child from the keys of the IKE_SA it hangs on, and an IKE_ADD
// with REKEY_ID inherits the children of the old IKE_SA and destroys that. So a
// child must be fed while the generation it was derived under is the twin's
// live one.
type Feeder struct{ fed map[string]*twin }

// twin is what the twin charon holds of one session.
type twin struct {
	live     sa.IKEID
	ref      charon.Attr // IKE_ID of live
	update   Attrs       // what it was told of live
	midI     uint32
	midR     uint32
	children map[sa.SPI]twinChild
	order    []sa.SPI
}

type twinChild struct {
	add   Attrs
	addrs Attrs // outer addresses of the kernel SAs
}

// NewFeeder returns the feeder of an empty twin.
func NewFeeder() *Feeder { return &Feeder{fed: map[string]*twin{}} }

// Forget says that the twin is empty: its charon restarted, and its kernel state
// was flushed.
func (f *Feeder) Forget() { clear(f.fed) }

// Fed returns, sorted, the sessions that the twin holds.
func (f *Feeder) Fed() []string { return slices.Sorted(maps.Keys(f.fed)) }

// Adopted says that the twin holds the committed content of docs, and of these
// sessions nothing else: its charon was the owner's until now.
func (f *Feeder) Adopted(docs ...*Document) {
	for _, d := range docs {
		delete(f.fed, d.SessionID)
		f.diff(d)
	}
}

// Refeed returns what an empty twin must be told, session by session. It implies
// Forget.
func (f *Feeder) Refeed(docs []*Document) ([]charon.Message, error) {
	f.Forget()
	var out []charon.Message
	for _, d := range docs {
		ms, err := f.Diff(d)
		if err != nil {
			return nil, err
		}
		out = append(out, ms...)
	}
	return out, nil
}

// Remove returns what makes the twin forget a session.
func (f *Feeder) Remove(id string) []charon.Message {
	t := f.fed[id]
	if t == nil {
		return nil
	}
	delete(f.fed, id)
	return []charon.Message{{Type: charon.IKEDelete, Attrs: Attrs{t.ref}}}
}

// Diff returns what brings the twin from what it was told to the committed
// content of d, and takes it as told.
func (f *Feeder) Diff(d *Document) ([]charon.Message, error) {
	if d.External() || len(d.IKE) == 0 {
		return nil, fmt.Errorf("feed session %s: it holds no IKE_SA", d.SessionID)
	}
	return f.diff(d), nil
}

func (f *Feeder) diff(d *Document) []charon.Message {
	if len(d.IKE) == 0 {
		return nil
	}
	t := f.fed[d.SessionID]
	p := plan{doc: d, twin: t}
	if t == nil || !p.follows() {
		p.out = f.Remove(d.SessionID)
		p.twin = &twin{children: map[sa.SPI]twinChild{}}
		f.fed[d.SessionID] = p.twin
	}
	p.run()
	return p.out
}
