package drive

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

// reading is one observation of 5, 187 and 197 with 188 and 198 at 0.
func reading(a5, a187, a197 float64) Values {
	v := NoValues()
	v[Column(5)], v[Column(187)], v[Column(188)], v[Column(197)], v[Column(198)] = a5, a187, 0, a197, 0
	return v
}

func TestCleanDriveHasNoLifetimeHazard(t *testing.T) {
	m := Default().For("ST", "ST4000DM000")
	h := NewHistory(true)
	for i := range 100 {
		h.Observe(float64(i)*24, reading(0, 0, 0))
	}
	if l := m.Lifetime(h, 2400); l != 0 {
		t.Errorf("L of a clean drive is %v", l)
	}
	if b := m.BaseHazard(h, 2400); b <= 0 || b > .02 {
		t.Errorf("base hazard of a clean drive: %v per 30 days", b)
	}
}

func TestGrowthCondemnsAndAgesSlowly(t *testing.T) {
	m := Default().For("", "ST4000DM000")
	h := NewHistory(true)
	h.Observe(9000, reading(0, 0, 0))
	h.Observe(9024, reading(0, 40, 16))
	fresh := m.Lifetime(h, 9024)
	if far3 := Default().Points[1].Threshold; fresh < far3 {
		t.Fatalf("L = %.3f after 40 reported uncorrectable and 16 pending, the middle point is %.3f", fresh, far3)
	}
	old := m.Lifetime(h, 9024+60*day)
	if old > fresh || old < fresh/2 {
		t.Errorf("L went from %.3f to %.3f in 60 quiet days; counters that stay must keep most of it", fresh, old)
	}
	if p, q := m.Pace(h, 9024), m.Pace(h, 9024+60*day); p < 3*q {
		t.Errorf("pace fresh %.3f, old %.3f: fresh evidence must be the more urgent", p, q)
	}
	sum := 0.0
	for _, c := range m.Explain(h, 9024) {
		sum += c.Hazard
	}
	if math.Abs(sum-fresh) > 1e-9 {
		t.Errorf("the explanation sums up to %v, L is %v", sum, fresh)
	}
}

func TestPackedCountersOf188(t *testing.T) {
	h := NewHistory(true)
	v := NoValues()
	v[Column(188)] = 3<<32 | 2<<16 | 7
	h.Observe(1, v)
	if got := h.Columns[Column(188)].Value; got != 7 {
		t.Errorf("188 reads %v, its low 16 bits are 7", got)
	}
}

func TestGarbageDoesNotEnterTheHistory(t *testing.T) {
	h := NewHistory(true)
	h.Observe(10, reading(0, 0, 0))
	before := *h
	v := NoValues()
	v[Column(5)], v[Column(187)] = -1, math.Inf(1)
	h.Observe(10, v)
	if *h != before {
		t.Errorf("negative and infinite values changed the history: %+v", h.Columns)
	}
	h.Observe(5, reading(8, 0, 0)) // a clock that went back
	if h.At != 10 || h.Columns[Column(5)].GrewAt != 10 {
		t.Errorf("an earlier hour counts as %v, want 10", h.Columns[Column(5)].GrewAt)
	}
}

func TestMissingIsNotZero(t *testing.T) {
	h := NewHistory(true)
	h.Observe(1, NoValues()) // 197 not reported yet
	v := reading(0, 0, 5)
	h.Observe(2, v)
	if c := h.Columns[Column(197)]; c.Times != 0 || c.Nonzero != fromSeen {
		t.Errorf("the first report of 5 counts as growth: %+v", c)
	}
}

func TestHistorySurvivesJSON(t *testing.T) {
	h := NewHistory(true)
	h.Observe(1, reading(0, 0, 0))
	h.Observe(30, reading(8, 1, 9))
	h.Observe(60, reading(9, 1, 0))
	b, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var back History
	if err := json.Unmarshal(b, &back); err != nil || back != *h {
		t.Errorf("came back as %+v, %v", back, err)
	}
}

func TestAlarmHolds(t *testing.T) {
	var a Alarm
	changes := 0
	for hour := 0.0; hour < 2000; hour += 24 {
		l := 1.0
		if int(hour/24)%2 == 1 { // swings below the off level every other day
			l = .1
		}
		if a.Step(hour, l, .8) {
			changes++
		}
	}
	if changes != 1 || !a.On {
		t.Errorf("%d changes of an alarm whose evidence comes and goes daily, want 1", changes)
	}
	for hour := 2000.0; hour <= 2000+OffHold; hour += 24 {
		a.Step(hour, .1, .8)
	}
	a.Step(2000+OffHold+24, .1, .8)
	if a.On {
		t.Error("the alarm stays on after the hold")
	}
}

func TestTableErrorsNameThePlace(t *testing.T) {
	good, err := json.Marshal(Default())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		edit func(*Table)
		want string
	}{
		{func(t *Table) { t.Version = 9 }, "version is 9"},
		{func(t *Table) { t.Terms[3].Hazard = -1 }, "terms[3]"},
		{func(t *Table) { t.Terms[2].Kind = "wish" }, "terms[2]"},
		{func(t *Table) { t.Terms[1].A = 4; t.Terms[1].Kind = KindLevel }, "attributes 4"},
		{func(t *Table) { t.Pace[len(t.Pace)-1].WithinDays = 3 }, "pace"},
		{func(t *Table) { t.Points[0].Threshold = 0 }, "points[0]"},
		{func(t *Table) { t.Base[0].Hazard = -2 }, "base[0]"},
	} {
		var tab Table
		if err := json.Unmarshal(good, &tab); err != nil {
			t.Fatal(err)
		}
		c.edit(&tab)
		if err := tab.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want an error with %q", err, c.want)
		}
	}
}

func FuzzParseTable(f *testing.F) {
	f.Add(tableJSON)
	f.Add([]byte(`{"version":1,"points":[{"name":"x","threshold":1}],"pace":[{"per_30d":0.1}],"terms":[{"kind":"level","attr":5,"n":1,"hazard":1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		tab, err := ParseTable(b)
		if err != nil {
			return
		}
		m := tab.For("", "ST4000DM000")
		h := NewHistory(true)
		h.Observe(1, reading(0, 0, 0))
		h.Observe(2, reading(1, 2, 3))
		if l := m.Lifetime(h, 2); l < 0 || math.IsNaN(l) {
			t.Errorf("a table that passes its check gives L = %v", l)
		}
	})
}

func TestVendors(t *testing.T) {
	for model, want := range map[string]string{
		"ST4000DM000": "ST", "Hitachi HDS722020ALA330": "HGST", "HGST HMS5C4040ALE640": "HGST", "WDC WD30EFRX": "WDC", "TOSHIBA MQ01ABF050": "",
	} {
		if got := Vendor(model); got != want {
			t.Errorf("Vendor(%q) = %q, want %q", model, got, want)
		}
	}
}
