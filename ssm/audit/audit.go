package audit

import (
	"cmp"
	"slices"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/ssm/session"
)

// Kind is what a difference is about.
type Kind string

// The kinds, in the order in which they are repaired.
const (
	// KernelLacks: charon or the documents have a child, the kernel lacks one of
	// its SAs: packets are lost.
	KernelLacks Kind = "kernel lacks"
	// CharonLacks: a document has an IKE_SA or child that charon does not know.
	CharonLacks Kind = "charon lacks"
	// MemoryLacks: charon has an IKE_SA or child that no document has: the shadows
	// do not have it either.
	MemoryLacks Kind = "memory lacks"
	// Stray: the kernel has an ESP SA that neither knows.
	Stray Kind = "stray"
)

var order = []Kind{KernelLacks, CharonLacks, MemoryLacks, Stray}

// Difference is one thing that is not the same everywhere. Equal differences are
// equal values.
type Difference struct {
	Kind    Kind
	Session string   // empty where no document has it
	IKE     sa.IKEID // zero where it is about a stray SA
	SPI     sa.SPI   // of the child's inbound SA, or the SA itself; 0 where it is the IKE_SA
	Out     bool     // it is the outbound SA that the kernel lacks
	// IKEUnique and ChildUnique are charon's own numbers, 0 where charon lacks it.
	IKEUnique, ChildUnique uint32
}

func (d Difference) String() string {
	what := "IKE_SA " + d.IKE.String()
	switch {
	case d.Kind == Stray:
		what = "SA " + d.SPI.String() + " in the kernel belongs to nobody"
		return what
	case d.Kind == KernelLacks && d.Out:
		what = "the outbound SA of child " + d.SPI.String()
	case d.Kind == KernelLacks:
		what = "the inbound SA of child " + d.SPI.String()
	case d.SPI != 0:
		what = "child " + d.SPI.String()
	}
	s := string(d.Kind) + " " + what
	if d.Session != "" {
		s += " of session " + d.Session
	}
	return s
}

// SA is an ESP SA of the kernel.
type SA struct {
	SPI sa.SPI
	In  bool // addressed to a VIP
}

// View is one look at a slot.
type View struct {
	Docs   []*session.Document
	Charon []charon.IKESA
	Kernel []SA
	// Committed says that charon was told no more than what is committed: a twin.
	// An owner's charon is ahead of the documents.
	Committed bool
}

// Compare lists what differs, in a fixed order.
func Compare(v View) []Difference {
	var out []Difference
	c := collect(v)
	for _, d := range v.Docs {
		live := d.Live()
		if live == nil {
			continue
		}
		ike, held := c.ikes[live.ID]
		if !held && (v.Committed || len(d.Pending) == 0) {
			// Its children hang on it: one difference says it all.
			out = append(out, Difference{Kind: CharonLacks, Session: d.SessionID, IKE: live.ID})
			continue
		}
		for i := range d.Children {
			k := &d.Children[i]
			kid, has := c.children[k.In]
			x := Difference{Session: d.SessionID, IKE: live.ID, SPI: k.In, IKEUnique: ike.UniqueID, ChildUnique: kid.UniqueID}
			if !has && (v.Committed || len(d.Pending) == 0) {
				x.Kind = CharonLacks
				out = append(out, x)
				continue
			}
			out = append(out, c.inKernel(x, k.In, k.Out)...)
		}
	}
	for _, s := range v.Charon {
		if s.State != "ESTABLISHED" && s.State != "PASSIVE" {
			continue // half open, or on its way out
		}
		owner, known := c.known[s.ID]
		if !known {
			out = append(out, Difference{Kind: MemoryLacks, IKE: s.ID, IKEUnique: s.UniqueID})
			continue
		}
		for _, k := range s.Children {
			if k.State != "INSTALLED" || c.spis[k.In] {
				continue
			}
			x := Difference{Kind: MemoryLacks, Session: owner, IKE: s.ID, SPI: k.In, IKEUnique: s.UniqueID, ChildUnique: k.UniqueID}
			out = append(out, x)
		}
	}
	for _, k := range v.Kernel {
		if !c.spis[k.SPI] && !c.listed[k.SPI] {
			out = append(out, Difference{Kind: Stray, SPI: k.SPI, Out: !k.In})
		}
	}
	slices.SortFunc(out, compare)
	return slices.Compact(out)
}

func compare(a, b Difference) int {
	return cmp.Or(cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)), cmp.Compare(a.Session, b.Session),
		cmp.Compare(a.IKE.Initiator, b.IKE.Initiator), cmp.Compare(a.IKE.Responder, b.IKE.Responder), cmp.Compare(a.SPI, b.SPI), compareBool(a.Out, b.Out))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// collected is a view by name.
type collected struct {
	listing
	kernel map[SA]bool
	known  map[sa.IKEID]string // session of every IKE_SA in documents, pending ones too
	spis   map[sa.SPI]bool     // of every child in documents, both directions
	listed map[sa.SPI]bool     // of every child of charon, both directions
}

func collect(v View) collected {
	c := collected{listing: list(v.Charon), kernel: map[SA]bool{},
		known: map[sa.IKEID]string{}, spis: map[sa.SPI]bool{}, listed: map[sa.SPI]bool{}}
	for _, k := range v.Kernel {
		c.kernel[k] = true
	}
	for _, d := range v.Docs {
		for _, g := range d.IKE {
			c.known[g.ID] = d.SessionID
			if g.RekeyOf != nil {
				c.known[*g.RekeyOf] = d.SessionID // charon keeps it for some seconds
			}
		}
		for _, k := range d.Children {
			c.spis[k.In], c.spis[k.Out] = true, true
		}
		if v.Committed {
			continue
		}
		for _, e := range d.Pending {
			for _, f := range e.Effects {
				m := f.Message()
				if ref, err := m.SA(); err == nil {
					c.known[ref.ID] = d.SessionID
				}
				for _, t := range []charon.AttrType{charon.InSPI, charon.OutSPI} {
					if a, ok := m.Find(t); ok {
						if spi, err := a.SPI(); err == nil {
							c.spis[spi] = true
						}
					}
				}
			}
		}
	}
	for _, k := range c.children {
		c.listed[k.In], c.listed[k.Out] = true, true
	}
	return c
}

func (c *collected) inKernel(x Difference, in, out sa.SPI) []Difference {
	var ds []Difference
	x.Kind = KernelLacks
	if !c.kernel[SA{in, true}] {
		ds = append(ds, x)
	}
	if x.Out = true; !c.kernel[SA{out, false}] {
		ds = append(ds, x)
	}
	return ds
}

// Confirm returns what both looks saw.
func Confirm(before, now []Difference) []Difference {
	return slices.DeleteFunc(slices.Clone(now), func(d Difference) bool { return !slices.Contains(before, d) })
}

// Choose returns the most urgent difference that can be repaired and was not
// repaired before; done tells which were.
func Choose(confirmed []Difference, done func(Difference) bool) (Difference, bool) {
	for _, d := range confirmed {
		if d.Kind != Stray && !done(d) {
			return d, true
		}
	}
	return Difference{}, false
}
