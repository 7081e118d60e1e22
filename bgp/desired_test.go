package bgp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var (
	vip4  = netip.MustParsePrefix("198.51.100.1/32")
	vip6  = netip.MustParsePrefix("2001:db8:51::1/128")
	live1 = netip.MustParsePrefix("192.0.2.1/32")
	live2 = netip.MustParsePrefix("192.0.2.2/32")
	inner = netip.MustParsePrefix("10.64.0.0/16")
)

func TestLadder(t *testing.T) {
	for _, tc := range []struct {
		level  Level
		base   uint32
		offset int
		med    uint32
		gshut  bool
		vip    bool
	}{
		{Normal, 100, 0, 100, false, true},
		{Normal, 100, -40, 60, false, true},
		{Normal, 100, -1000, 0, false, true},
		{Degraded, 100, 0, 150, false, true},
		{Degraded, 100, -1000, 50, false, true},
		{Draining, 100, -1000, DrainMED, true, true},
		{Withdrawn, 100, 0, 0, false, false},
	} {
		d := Desired{VIPs: []netip.Prefix{vip4, vip6}, Level: tc.level, MEDBase: tc.base, VIPOffset: tc.offset,
			Liveness: []netip.Prefix{live1}, Inner: []netip.Prefix{inner}, Tags: []Community{7, 3, 7}}
		rs := d.routes()
		r, ok := rs[vip4]
		if ok != tc.vip || r.med != tc.med || r.draining() != tc.gshut {
			t.Errorf("%v base %d offset %d: announced %v med %d draining %v", tc.level, tc.base, tc.offset, ok, r.med, r.draining())
		}
		if ok && (rs[vip6] != r || len(unpackCommunities(r.communities)) != 2+map[bool]int{true: 1}[tc.gshut]) {
			t.Errorf("%v: vip6 %v communities %v", tc.level, rs[vip6], unpackCommunities(r.communities))
		}
		if l := rs[live1]; l != (route{}) {
			t.Errorf("%v: liveness route is %+v", tc.level, l)
		}
		if i := rs[inner]; i != (route{inside: true}) {
			t.Errorf("%v: inner route is %+v", tc.level, i)
		}
	}
}

func TestDesiredValidate(t *testing.T) {
	for want, d := range map[string]Desired{
		"":                                       {VIPs: []netip.Prefix{vip4}, Inner: []netip.Prefix{inner}},
		"level: level 9":                         {Level: 9},
		"med_base: 15, want a multiple":          {MEDBase: 15},
		"vip_offset: -3":                         {VIPOffset: -3},
		"vips[0]: 10.0.0.0/8, want a host route": {VIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
		"inner[0]: 10.0.0.1/8 has host bits":     {Inner: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}},
		"is vips[0] already":                     {VIPs: []netip.Prefix{vip4}, Liveness: []netip.Prefix{vip4}},
		"vips[0]: invalid Prefix":                {VIPs: []netip.Prefix{{}}},
		"vip_med[198.51.100.1/32]: no such VIP":  {VIPMED: map[netip.Prefix]uint32{vip4: 100}},
		"vip_med[198.51.100.1/32]: 7, want":      {VIPs: []netip.Prefix{vip4}, VIPMED: map[netip.Prefix]uint32{vip4: 7}},
	} {
		err := d.Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// TestBudget walks one prefix through a day of changes of mind.
func TestBudget(t *testing.T) {
	b := &budget{window: 15 * time.Minute, max: 2, spent: map[netip.Prefix][]time.Time{}}
	t0 := time.Unix(0, 0)
	have := map[netip.Prefix]route{}
	step := func(min int, level Level, force, wantChange bool, wantNext int) {
		t.Helper()
		now := t0.Add(time.Duration(min) * time.Minute)
		d := Desired{VIPs: []netip.Prefix{vip4}, Level: level, MEDBase: 100}
		p := makePlan(have, d.routes(), b, force, now)
		if got := len(p.add)+len(p.withdraw) > 0; got != wantChange {
			t.Fatalf("minute %d %v: change %v, want %v", min, level, got, wantChange)
		}
		next := 0
		if !p.next.IsZero() {
			next = int(p.next.Sub(t0) / time.Minute)
		}
		if next != wantNext {
			t.Fatalf("minute %d %v: next at %d, want %d", min, level, next, wantNext)
		}
		for x := range p.withdraw {
			delete(have, x)
		}
		for x, r := range p.add {
			if _, ok := have[x]; ok {
				b.spend(x, now)
			}
			have[x] = r
		}
	}
	step(0, Normal, false, true, 0)      // announcing is free
	step(0, Normal, false, false, 0)     // idempotent
	step(1, Degraded, false, true, 0)    // first
	step(2, Normal, false, false, 16)    // better waits, to keep one for worse
	step(3, Draining, false, true, 0)    // second
	step(4, Normal, false, false, 18)    // over the budget
	step(5, Degraded, false, false, 18)  // likewise
	step(6, Withdrawn, false, true, 0)   // always
	step(7, Draining, false, true, 0)    // announcing is free
	step(8, Normal, true, true, 0)       // forced
	step(17, Degraded, false, false, 18) // 3 and 8 count: forced ones do
	step(18, Degraded, false, true, 0)
	step(19, Draining, false, false, 23)
	step(23, Draining, false, true, 0)
	step(60, Normal, false, true, 0)
}

// TestDwell: what got worse stays so for a while; what gets worse again does not wait.
func TestDwell(t *testing.T) {
	b := &budget{window: time.Hour, dwell: time.Minute, max: 9, spent: map[netip.Prefix][]time.Time{}}
	t0 := time.Unix(0, 0)
	b.spend(vip4, t0)
	if ok, at := b.admit(vip4, false, t0.Add(59*time.Second)); ok || !at.Equal(t0.Add(time.Minute)) {
		t.Errorf("better after 59 s: %t, at %v", ok, at)
	}
	if ok, _ := b.admit(vip4, true, t0.Add(time.Second)); !ok {
		t.Error("worse has to wait")
	}
	if ok, _ := b.admit(vip4, false, t0.Add(time.Minute)); !ok {
		t.Error("better has to wait for more than a minute")
	}
}

// TestTagsAndMEDs: each VIP has its own MED, and everything says who announces it.
func TestTagsAndMEDs(t *testing.T) {
	d := Desired{VIPs: []netip.Prefix{vip4, vip6}, MEDBase: 100, VIPMED: map[netip.Prefix]uint32{vip6: 300}, Level: Degraded,
		Liveness: []netip.Prefix{live1}, Inner: []netip.Prefix{inner}, InnerSlot: map[netip.Prefix]uint32{inner: 7}, Owner: LargeCommunity{64512, TagOwner, 9}}
	rs := d.routes()
	if rs[vip4].med != 150 || rs[vip6].med != 350 {
		t.Errorf("MEDs %d and %d, want 150 and 350", rs[vip4].med, rs[vip6].med)
	}
	if got := fmt.Sprint(unpackLarge(rs[vip4].large), unpackLarge(rs[inner].large), unpackLarge(rs[live1].large)); got != "[64512:1:9] [64512:1:9 64512:2:7] []" {
		t.Errorf("tags %s", got)
	}
	r := rs[vip4].retired()
	if !r.draining() || r.med != DrainMED || r.large != rs[vip4].large || !r.worseThan(rs[vip4]) {
		t.Errorf("retired: %+v", r)
	}
	if again := r.retired(); again != r {
		t.Errorf("retired twice: %+v, want %+v", again, r)
	}
	d.Level = Draining
	if d.routes()[vip6].med != DrainMED {
		t.Error("a VIP with its own MED does not drain")
	}
}

func TestPlanMixes(t *testing.T) {
	b := &budget{window: time.Minute, max: 2, spent: map[netip.Prefix][]time.Time{}}
	have := Desired{VIPs: []netip.Prefix{vip4}, Liveness: []netip.Prefix{live1}}.routes()
	want := Desired{VIPs: []netip.Prefix{vip4, vip6}, Inner: []netip.Prefix{inner}}.routes()
	p := makePlan(have, want, b, false, time.Unix(0, 0))
	if len(p.withdraw) != 1 || len(p.add) != 2 || len(p.deferred) != 0 {
		t.Errorf("plan %+v", p)
	}
}

// TestBackupOfInnerPrefixes: who shadows a slot announces its prefixes as a second
// choice, and a slot that changes hands waits for no budget.
func TestBackupOfInnerPrefixes(t *testing.T) {
	owner := Desired{Inner: []netip.Prefix{inner}}.routes()
	shadow := Desired{Backup: []netip.Prefix{inner}, InnerSlot: map[netip.Prefix]uint32{inner: 7}, Owner: LargeCommunity{64512, TagOwner, 9}}.routes()
	if r := shadow[inner]; !r.inside || !r.worseThan(owner[inner]) || fmt.Sprint(unpackLarge(r.large)) != "[64512:1:9 64512:2:7]" {
		t.Errorf("the backup is %+v", r)
	}
	b := &budget{window: time.Hour, max: 1, spent: map[netip.Prefix][]time.Time{}}
	for i := range 6 {
		have, want := owner, shadow
		if i%2 == 1 {
			have, want = shadow, owner
		}
		if p := makePlan(have, want, b, false, time.Unix(int64(i), 0)); len(p.add) != 1 || len(p.deferred) != 0 {
			t.Errorf("change %d: %+v", i, p)
		}
	}
	if err := (Desired{Inner: []netip.Prefix{inner}, Backup: []netip.Prefix{inner}}).Validate(); err == nil {
		t.Error("owner and backup at once is accepted")
	}
}

func FuzzCommunity(f *testing.F) {
	for _, s := range []string{"65535:0", "1:2", ":", "65536:0", "1:2:3", "-1:+2", "0x1:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var c, again Community
		if c.UnmarshalText([]byte(s)) != nil {
			return
		}
		if err := again.UnmarshalText([]byte(c.String())); err != nil || again != c {
			t.Errorf("%q -> %v -> %v, %v", s, c, again, err)
		}
	})
}

func FuzzLevel(f *testing.F) {
	f.Add("normal")
	f.Add("withdrawn")
	f.Fuzz(func(t *testing.T, s string) {
		var l Level
		if err := l.UnmarshalText([]byte(s)); err == nil && l.String() != s {
			t.Errorf("%q became %v", s, l)
		}
	})
}
