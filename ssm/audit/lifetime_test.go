package audit

import (
	"slices"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/ssm/session"
)

// timed is agreed with charon's timers running, and no deadline known.
func timed(t *testing.T) View {
	v := agreed(t)
	d := v.Docs[0]
	d.IKE, d.Children = slices.Clone(d.IKE), slices.Clone(d.Children)
	d.Live().RekeyAt, d.Live().ReauthAt = time.Time{}, time.Time{}
	s := &v.Charon[0]
	s.Rekey, s.Reauth = 4*time.Hour, 24*time.Hour
	for i := range d.Children {
		d.Children[i].RekeyAt, d.Children[i].LifeAt = time.Time{}, time.Time{}
		s.Children[i].Rekey, s.Children[i].Life = time.Hour, 66*time.Minute
	}
	return v
}

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestScheduleIsLearntOnce(t *testing.T) {
	v := timed(t)
	ds := Schedule(v.Docs, v.Charon, now)
	if len(ds) != 1+len(v.Docs[0].Children) {
		t.Fatalf("learnt %+v", ds)
	}
	live := v.Docs[0].Live()
	if ds[0] != (Deadline{IKE: live.ID, RekeyAt: now.Add(4 * time.Hour), EndAt: now.Add(24 * time.Hour)}) {
		t.Errorf("of the IKE_SA: %+v", ds[0])
	}
	if c := v.Docs[0].Children[0]; ds[1] != (Deadline{IKE: live.ID, SPI: c.In, RekeyAt: now.Add(time.Hour), EndAt: now.Add(66 * time.Minute)}) {
		t.Errorf("of the child: %+v", ds[1])
	}
	apply(v.Docs[0], ds)
	// A takeover starts charon's timers anew; what is known stays.
	if ds := Schedule(v.Docs, v.Charon, now.Add(50*time.Minute)); len(ds) != 0 {
		t.Errorf("learnt again: %+v", ds)
	}
	v = timed(t)
	v.Charon[0].Rekey, v.Charon[0].Reauth, v.Charon[0].Children = 0, 0, nil
	if ds := Schedule(v.Docs, v.Charon, now); len(ds) != 0 {
		t.Errorf("learnt where nothing is scheduled: %+v", ds)
	}
}

func apply(d *session.Document, ds []Deadline) {
	for _, x := range ds {
		if x.SPI == 0 {
			d.Live().RekeyAt, d.Live().ReauthAt = x.RekeyAt, x.EndAt
			continue
		}
		i := slices.IndexFunc(d.Children, func(c session.Child) bool { return c.In == x.SPI })
		d.Children[i].RekeyAt, d.Children[i].LifeAt = x.RekeyAt, x.EndAt
	}
}

func TestLate(t *testing.T) {
	v := timed(t)
	apply(v.Docs[0], Schedule(v.Docs, v.Charon, now))
	for _, x := range []struct {
		after time.Duration
		want  []Act
	}{
		{time.Hour, nil}, // charon has the first word
		{time.Hour + overdueGrace + time.Second, []Act{RekeyChild, RekeyChild}},
		{67 * time.Minute, []Act{EndChild, EndChild}},
		{4*time.Hour + time.Minute, []Act{RekeyIKE, EndChild, EndChild}},
		{24*time.Hour + time.Minute, []Act{ReauthIKE}},
	} {
		var got []Act
		for _, o := range Late(v.Docs, v.Charon, now.Add(x.after)) {
			got = append(got, o.Act)
			if o.Unique == 0 || o.By < overdueGrace {
				t.Errorf("after %s: %+v", x.after, o)
			}
		}
		if !slices.Equal(got, x.want) {
			t.Errorf("after %s: %v, want %v", x.after, got, x.want)
		}
	}
	// What charon is busy with is left alone.
	v.Charon[0].State = "REKEYING"
	if got := Late(v.Docs, v.Charon, now.Add(48*time.Hour)); len(got) != 0 {
		t.Errorf("while an exchange is under way: %v", got)
	}
}
