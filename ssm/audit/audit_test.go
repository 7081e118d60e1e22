package audit

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/ssm/session"
)

// agreed is a slot in which all three say the same: the golden session of package
// session, with two committed children and a third in a pending exchange.
func agreed(t *testing.T) View {
	t.Helper()
	raw, err := os.ReadFile("../session/testdata/session.packed")
	if err != nil {
		t.Fatal(err)
	}
	d, err := session.Unpack(bytes.Clone(raw))
	if err != nil {
		t.Fatal(err)
	}
	v := View{Docs: []*session.Document{d}}
	s := charon.IKESA{ID: d.Live().ID, UniqueID: 7, State: "ESTABLISHED"}
	add := func(in, out sa.SPI, unique uint32) {
		s.Children = append(s.Children, charon.ChildSA{In: in, Out: out, UniqueID: unique, State: "INSTALLED"})
		v.Kernel = append(v.Kernel, SA{in, true}, SA{out, false})
	}
	for i, c := range d.Children {
		add(c.In, c.Out, uint32(10+i))
	}
	add(d.Children[0].In+2, d.Children[0].Out+2, 12) // the pending one
	v.Charon = []charon.IKESA{s}
	return v
}

func TestAgreement(t *testing.T) {
	v := agreed(t)
	if ds := Compare(v); len(ds) != 0 {
		t.Errorf("differences in agreement: %v", ds)
	}
	// At a twin nothing is ahead: what is pending must not be there.
	v.Committed = true
	if ds := Compare(v); len(ds) != 1 || ds[0].Kind != MemoryLacks {
		t.Errorf("at a twin: %v", ds)
	}
}

func TestDifferences(t *testing.T) {
	for name, x := range map[string]struct {
		edit func(*View)
		want []string // beginnings, in order
	}{
		"inbound SA gone":  {func(v *View) { v.Kernel = v.Kernel[1:] }, []string{"kernel lacks the inbound SA of child 00700001 of session"}},
		"outbound SA gone": {func(v *View) { v.Kernel = slices.Delete(v.Kernel, 1, 2) }, []string{"kernel lacks the outbound SA of child 00700001"}},
		"SPI in the wrong direction": {func(v *View) { v.Kernel[0].In = false },
			[]string{"kernel lacks the inbound SA of child 00700001"}},
		"child unknown to charon": {func(v *View) {
			v.Docs[0].Pending = nil
			v.Charon[0].Children = v.Charon[0].Children[1:2]
			v.Kernel = v.Kernel[2:4]
		}, []string{"charon lacks child 00700001"}},
		"session unknown to charon": {func(v *View) { v.Docs[0].Pending, v.Charon, v.Kernel = nil, nil, nil }, []string{"charon lacks IKE_SA"}},
		"IKE_SA unknown to us": {func(v *View) {
			v.Charon = append(v.Charon, charon.IKESA{ID: sa.IKEID{Initiator: 1, Responder: 2}, UniqueID: 9, State: "ESTABLISHED"})
		}, []string{"memory lacks IKE_SA 0000000000000001"}},
		"half open": {func(v *View) {
			v.Charon = append(v.Charon, charon.IKESA{ID: sa.IKEID{Initiator: 1, Responder: 2}, State: "CONNECTING"})
		}, nil},
		"child unknown to us": {func(v *View) {
			v.Charon[0].Children = append(v.Charon[0].Children, charon.ChildSA{In: 0x700099, Out: 5, UniqueID: 20, State: "INSTALLED"})
			v.Kernel = append(v.Kernel, SA{0x700099, true}, SA{5, false})
		}, []string{"memory lacks child 00700099 of session"}},
		"rekeyed child on its way out": {func(v *View) {
			v.Charon[0].Children = append(v.Charon[0].Children, charon.ChildSA{In: 0x700099, Out: 5, State: "REKEYED"})
			v.Kernel = append(v.Kernel, SA{0x700099, true})
		}, nil},
		"stray SA": {func(v *View) { v.Kernel = append(v.Kernel, SA{0x700077, true}) }, []string{"SA 00700077 in the kernel belongs to nobody"}},
		"most urgent first": {func(v *View) {
			v.Kernel = append(v.Kernel[1:], SA{0x700077, true})
			v.Charon = append(v.Charon, charon.IKESA{ID: sa.IKEID{Initiator: 1, Responder: 2}, State: "ESTABLISHED"})
		}, []string{"kernel lacks", "memory lacks", "SA 00700077"}},
	} {
		t.Run(name, func(t *testing.T) {
			v := agreed(t)
			x.edit(&v)
			ds := Compare(v)
			if len(ds) != len(x.want) {
				t.Fatalf("got %v, want %q", ds, x.want)
			}
			for i, w := range x.want {
				if !strings.HasPrefix(ds[i].String(), w) {
					t.Errorf("got %q, want %q", ds[i], w)
				}
			}
		})
	}
}

func TestOnlyConfirmedDifferencesAreRepairedOnce(t *testing.T) {
	v := agreed(t)
	one := Compare(v)
	v.Kernel = append(v.Kernel[1:], SA{0x700077, true})
	two := Compare(v)
	if c := Confirm(one, two); len(c) != 0 {
		t.Errorf("confirmed without a second look: %v", c)
	}
	c := Confirm(two, Compare(v))
	if len(c) != 2 {
		t.Fatalf("confirmed %v", c)
	}
	done := map[Difference]bool{}
	d, ok := Choose(c, func(d Difference) bool { return done[d] })
	if !ok || d.Kind != KernelLacks || d.ChildUnique != 10 || d.IKEUnique != 7 {
		t.Fatalf("chose %v", d)
	}
	done[d] = true
	if d, ok := Choose(c, func(d Difference) bool { return done[d] }); ok {
		t.Errorf("chose %v: a stray SA is nobody's to repair, the other one was repaired", d)
	}
}
