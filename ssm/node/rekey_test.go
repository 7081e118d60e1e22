package node

import (
	"slices"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm/session"
)

func TestRekeysAreSpread(t *testing.T) {
	now := time.Unix(1000, 0)
	const n = 600
	d := &session.Document{}
	for i := range n {
		d.Children = append(d.Children, session.Child{In: sa.SPI(1000 + i), Birth: sa.Birth{Base: 1, Tenure: 1}, Created: now.Add(-time.Duration(i) * time.Second)})
	}
	// Born here, and one whose blocks run out.
	d.Children = append(d.Children, session.Child{In: 1, Birth: sa.Birth{Base: 59, Tenure: 60}, Created: now})
	d.Children = append(d.Children, session.Child{In: 2, Birth: sa.Birth{Base: 0, Tenure: 1}, Created: now})
	p := planRekeys([]*session.Document{d}, 60, 10*time.Minute, now)
	if len(p.queue) != n+1 || slices.Contains(p.queue, 1) {
		t.Fatalf("%d children are planned, want the %d born under an earlier ticket", len(p.queue), n+1)
	}
	gone := sa.SPI(1000 + 7)
	var all []sa.SPI
	most, first := 0, time.Time{}
	at := map[int]int{}
	for s := 0; s < 1200 && len(p.queue) > 0; s++ {
		now = now.Add(400 * time.Millisecond)
		if s == 100 {
			p.pause(now)
		}
		got := p.due(now, func(x sa.SPI) bool { return x != gone })
		if s >= 100 && s < 100+int(rekeyPause/(400*time.Millisecond)) && len(got) > 0 {
			t.Fatalf("%d rekeys in the pause for a move", len(got))
		}
		if len(got) > 0 && first.IsZero() {
			first = now
		}
		most = max(most, len(got))
		at[s/150] += len(got) // by the minute
		all = append(all, got...)
	}
	if first.Sub(time.Unix(1000, 0)) < rekeyDelay {
		t.Errorf("the first rekey came after %s", first.Sub(time.Unix(1000, 0)))
	}
	if slices.Contains(all, gone) {
		t.Errorf("a child that is gone was rekeyed")
	}
	if most > 5 {
		t.Errorf("%d rekeys at once, want them spread", most)
	}
	if at[0] < 30 || at[0] > 70 || at[3] < 30 || at[3] > 70 {
		t.Errorf("rekeys by the minute %v, want about 60 each", at)
	}
}

func TestRekeyBatchIsBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	d := &session.Document{}
	for i := range 1000 {
		d.Children = append(d.Children, session.Child{In: sa.SPI(i + 1), Birth: sa.Birth{Base: 0, Tenure: 1}})
	}
	p := planRekeys([]*session.Document{d}, 2, time.Second, now)
	for range 100 {
		now = now.Add(time.Second)
		if got := p.due(now, func(sa.SPI) bool { return true }); len(got) > rekeyMost {
			t.Fatalf("%d rekeys in one batch", len(got))
		}
	}
	if len(p.queue) != 0 {
		t.Errorf("%d children are left", len(p.queue))
	}
}

func TestRekeySpreadKeepsAheadOfDPD(t *testing.T) {
	for _, x := range []struct{ configured, dpd, want time.Duration }{
		{10 * time.Minute, 0, 10 * time.Minute},
		{10 * time.Minute, 30 * time.Second, 24 * time.Second},
		{10 * time.Second, 30 * time.Second, 10 * time.Second},
		{10 * time.Minute, 2 * time.Second, time.Second},
		{0, 30 * time.Second, 0},
	} {
		if got := rekeySpread(x.configured, x.dpd); got != x.want {
			t.Errorf("rekey_spread %s, dpd_delay %s: %s, want %s", x.configured, x.dpd, got, x.want)
		}
	}
}

// The child whose blocks run out comes first, whatever its age.
func TestWornChildrenFirst(t *testing.T) {
	now := time.Unix(1000, 0)
	d := &session.Document{Children: []session.Child{
		{In: 1, Birth: sa.Birth{Base: 50, Tenure: 51}, Created: now.Add(-time.Hour)},
		{In: 2, Birth: sa.Birth{Base: 1, Tenure: 1}, Created: now},
	}}
	if p := planRekeys([]*session.Document{d}, 60, time.Minute, now); !slices.Equal(p.queue, []sa.SPI{2, 1}) {
		t.Errorf("the order is %v, want 2, 1", p.queue)
	}
}
