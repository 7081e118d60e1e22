package trace

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
)

var (
	noon   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	sensor = hwhealth.Device{Class: hwhealth.ClassThermal, Serial: "coretemp/temp1", Name: "coretemp <core>"}
	eth    = hwhealth.Device{Class: hwhealth.ClassLink, Serial: "0000:01:00.0", Name: "eth0"}
	kernel = hwhealth.Device{Class: hwhealth.ClassKernel, Serial: "machine"}
)

func celsius(v float64, at time.Time) hwhealth.Sample {
	s := hwhealth.Of("hwmon", sensor, hwhealth.Temperature, v, at)
	s.Limits.HighWarn, s.Limits.HighCrit = 80, 100
	return s
}

// all gathers what a trace says.
type all struct {
	starts  []Start
	samples []hwhealth.Sample
}

func (a *all) Begin(s Start) error { a.starts = append(a.starts, s); return nil }
func (a *all) Reading(at time.Time, s []hwhealth.Sample) error {
	for _, x := range s {
		if !x.At.Equal(at) {
			return errors.New("a sample has another time than its reading")
		}
	}
	a.samples = append(a.samples, s...)
	return nil
}

// same compares samples; NaN equals NaN.
func same(a, b hwhealth.Sample) bool {
	limits := func(l hwhealth.Limits) (out [4]float64) {
		for i, v := range []float64{l.LowCrit, l.LowWarn, l.HighWarn, l.HighCrit} {
			if math.IsNaN(v) {
				v = -1e9
			}
			out[i] = v
		}
		return out
	}
	la, lb := limits(a.Limits), limits(b.Limits)
	a.Limits, b.Limits = hwhealth.Limits{}, hwhealth.Limits{}
	at := a.At.Equal(b.At)
	a.At, b.At = time.Time{}, time.Time{}
	return at && la == lb && reflect.DeepEqual(a, b)
}

func record(t *testing.T, dir, boot string, batches ...[]hwhealth.Sample) {
	t.Helper()
	r := NewRecorder(dir, "ams", boot, hwhealth.DefaultPolicy())
	for _, b := range batches {
		if err := r.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// What is written is read, over midnight, a restart, a changed limit and what a
// power cut left of a line.
func TestWhatIsRecordedIsRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	late := time.Date(2026, 3, 1, 23, 59, 59, 500e6, time.UTC)
	event := hwhealth.Of("kmsg", kernel, hwhealth.KernelFSError, 1, late)
	event.Why = `EXT4-fs error "x"`
	warmer := celsius(50, late.Add(2*time.Second))
	warmer.Limits.HighCrit = 95
	nonsense := celsius(math.NaN(), late)
	first := []hwhealth.Sample{celsius(40, late), hwhealth.Of("sysfs-net", eth, hwhealth.LinkDowns, 1<<40, late), event,
		hwhealth.MissingOf("sysfs-net", eth, hwhealth.LinkSpeed, "unreadable", late)}
	second := []hwhealth.Sample{celsius(41.5, late.Add(time.Second)), warmer, hwhealth.Of("sysfs-net", eth, hwhealth.LinkDowns, 1<<40+1, late.Add(2*time.Second))}
	record(t, dir, "one", append(slices.Clone(first), nonsense), second)
	f, err := os.OpenFile(filepath.Join(dir, "2026-03-02.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"at":177240` + strings.Repeat("9", 9000)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	third := []hwhealth.Sample{celsius(42, late.Add(time.Minute))}
	record(t, dir, "two", third)
	var got all
	if err := Read(dir, &got); err != nil {
		t.Fatal(err)
	}
	want := slices.Concat(first, second, third)
	if len(got.samples) != len(want) {
		t.Fatalf("%d samples were read, want %d", len(got.samples), len(want))
	}
	for i := range want {
		if !same(got.samples[i], want[i]) {
			t.Errorf("sample %d is read as\n%+v, was\n%+v", i, got.samples[i], want[i])
		}
	}
	boots := ""
	for _, s := range got.starts {
		boots += s.Boot + " "
	}
	if boots != "one one two " || got.starts[0].Node != "ams" || !reflect.DeepEqual(*got.starts[2].Policy, hwhealth.DefaultPolicy()) {
		t.Errorf("starts: %+v", got.starts)
	}
}

func TestOldDaysGo(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "notes.jsonl")
	if err := os.WriteFile(other, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := NewRecorder(dir, "ams", "b", hwhealth.DefaultPolicy())
	for d := range keepDays + 5 {
		if err := r.Write([]hwhealth.Sample{celsius(40, noon.AddDate(0, 0, d))}); err != nil {
			t.Fatal(err)
		}
	}
	names, err := days(dir)
	if err != nil || len(names) != keepDays || names[0] != "2026-03-06.jsonl" {
		t.Errorf("%d files from %v (%v), want the newest %d", len(names), names, err, keepDays)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
}

func TestRecorderTellsAndRecovers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "trace")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := NewRecorder(dir, "ams", "b", hwhealth.DefaultPolicy())
	if err := r.Write([]hwhealth.Sample{celsius(40, noon)}); err == nil || !strings.Contains(err.Error(), dir) {
		t.Fatalf("a file in place of the directory: %v", err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := r.Write([]hwhealth.Sample{celsius(41, noon)}); err != nil {
		t.Fatal(err)
	}
	var got all
	if err := Read(dir, &got); err != nil || len(got.samples) != 1 {
		t.Errorf("%d samples, %v", len(got.samples), err)
	}
}

func TestBadTraces(t *testing.T) {
	start := `{"start":{"version":1,"node":"ams","boot":"b","at":1772366400000}}` + "\n"
	series := `{"series":{"n":1,"source":"hwmon","device":{"class":"thermal","serial":"a"},"signal":"thermal.temperature","kind":"level","unit":"celsius"}}` + "\n"
	for _, c := range []struct{ text, want string }{
		{"nonsense\n", "trace:1: invalid character"},
		{series, "trace:1: the first line must be a start"},
		{strings.Replace(start, "1", "7", 1), "trace:1: version is 7, this program reads 1"},
		{strings.Replace(start, "1772366400000", "-4", 1), "trace:1: start: at is -4"},
		{start + `{"at":1772366400000,"values":[[3,1]]}` + "\n", "trace:2: series 3 was not told"},
		{start + `{"at":0,"values":[]}` + "\n", "trace:2: at is 0"},
		{start + `{"values":[[1,1]]}` + "\n", "trace:2: want one of start, series, and at with values"},
		{start + "{}\n", "trace:2: want one of"},
		{start + series + `{"at":1772366400000,"values":[[1]]}` + "\n", `trace:3: value "[1]": want [series, value]`},
		{start + series + `{"at":1772366400000,"values":[["x",1]]}` + "\n", "want numbers, and a text"},
		{start + series + `{"at":1772366400000,"value":[]}` + "\n", `trace:3: json: unknown field "value"`},
		{start + series + `{"at":1772366400000}{"at":5}` + "\n", "trace:3: more than one object"},
		{start + strings.Replace(series, `"n":1`, `"n":0`, 1), "trace:2: series: n is 0, want 1 to 65536"},
		{start + strings.Replace(series, `"unit":"celsius"`, `"unit":"celsius","limits":[1]`, 1), "trace:2: series 1: 1 limits, want 4"},
		{start + strings.Replace(series, "level", "counter", 1), "trace:2: series 1: sample of thermal a thermal.temperature: kind is \"counter\""},
		{start + strings.Repeat("x", maxLine+1) + "\n", "trace:2: line is longer"},
	} {
		err := read(strings.NewReader(c.text), "trace", &all{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80q: %v, want %q", c.text, err, c.want)
		}
	}
	dir := t.TempDir()
	for _, c := range []struct{ dir, want string }{{dir, "has no file YYYY-MM-DD.jsonl"}, {filepath.Join(dir, "none"), "no such file"}} {
		if _, err := Replay(c.dir, time.Second); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.dir, err, c.want)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "2026-03-01.jsonl"), []byte(start), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Replay(dir, time.Second); err == nil || !strings.Contains(err.Error(), "has no reading") {
		t.Errorf("a trace without a reading: %v", err)
	}
	policy := strings.Replace(start, `"boot"`, `"policy":{"SlowHold":-1},"boot"`, 1)
	if err := os.WriteFile(filepath.Join(dir, "2026-03-01.jsonl"), []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Replay(dir, time.Second); err == nil || !strings.Contains(err.Error(), ":1: start: policy: ") {
		t.Errorf("a policy that makes no sense: %v", err)
	}
}

// A replay comes to the states that the same samples give a predictor and a ladder
// which are asked every second.
func TestReplayIsWhatTheDaemonSaw(t *testing.T) {
	dir := t.TempDir()
	heat := func(at time.Duration) float64 {
		if at > 10*time.Minute && at < 30*time.Minute {
			return 95
		}
		return 50
	}
	rec := NewRecorder(dir, "ams", "b", hwhealth.DefaultPolicy())
	p, l := hwhealth.New(), hwhealth.Ladder{}
	var want []string
	for at := time.Duration(0); at < 3*time.Hour; at += time.Second {
		now := noon.Add(at)
		a := p.Assess(now)
		if l.Step(&a, hwhealth.DefaultPolicy(), hwhealth.Withdraw, now) {
			want = append(want, now.Format(time.TimeOnly)+" "+a.State.String())
		}
		if at%(5*time.Second) == 0 {
			s := celsius(heat(at), now)
			p.Observe(s, now)
			if err := rec.Write([]hwhealth.Sample{s}); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, err := Replay(dir, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range r.Changes {
		got = append(got, c.At.Format(time.TimeOnly)+" "+c.To)
	}
	if !slices.Equal(got, want) || len(want) < 3 {
		t.Errorf("changes %v, want %v", got, want)
	}
	if c := r.Changes[0]; c.To != "draining" || len(c.Causes) == 0 || !strings.Contains(c.Causes[0], "critical temperature within ten minutes") {
		t.Errorf("the first change is %+v", c)
	}
	if r.Node != "ams" || r.Samples != 3*720 || r.Starts != 1 || r.Boots != 1 || r.Refused != 0 || len(r.Points) >= maxPoints {
		t.Errorf("result %+v with %d points", r, len(r.Points))
	}
	var svg bytes.Buffer
	if err := r.SVG(&svg); err != nil {
		t.Fatal(err)
	}
	text := svgTexts(t, svg.Bytes())
	for _, want := range []string{"ams: health from 2026-03-01T12:00:00Z to 2026-03-01T14:59:55Z", "draining", "degraded", "T1.near: thermal coretemp <core> (coretemp/temp1)", "13:00", "100%", "0.01%"} {
		if !slices.ContainsFunc(text, func(s string) bool { return strings.HasPrefix(s, strings.TrimSuffix(want, " ")) || s == want }) {
			t.Errorf("the plot does not say %q: %q", want, text)
		}
	}
}

// svgTexts parses an SVG strictly and returns its texts.
func svgTexts(t *testing.T, b []byte) (out []string) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(b))
	in := false
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("the plot is no XML: %v", err)
		}
		switch x := tok.(type) {
		case xml.StartElement:
			in = x.Name.Local == "text"
			for _, a := range x.Attr {
				if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
					t.Errorf("%s has %s=%q", x.Name.Local, a.Name.Local, a.Value)
				}
			}
		case xml.EndElement:
			in = false
		case xml.CharData:
			if in {
				out = append(out, string(x))
			}
		}
	}
}

// A daemon that was off for a day assessed nothing meanwhile; after a reboot the
// counters that begin at boot have no past.
func TestReplayOverRestartAndReboot(t *testing.T) {
	dir := t.TempDir()
	link := func(n float64, at time.Time) []hwhealth.Sample {
		return []hwhealth.Sample{hwhealth.Of("sysfs-net", eth, hwhealth.LinkDowns, n, at)}
	}
	record(t, dir, "one", link(0, noon), link(0, noon.Add(10*time.Second)))
	record(t, dir, "one", link(0, noon.Add(24*time.Hour)), link(0, noon.Add(24*time.Hour+10*time.Second)))
	record(t, dir, "two", link(9, noon.Add(25*time.Hour)), link(9, noon.Add(25*time.Hour+time.Minute)))
	r, err := Replay(dir, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if r.Starts != 3 || r.Boots != 2 || len(r.Changes) != 0 || r.Final != "normal" {
		t.Errorf("%+v", r)
	}
	gaps := 0
	for _, p := range r.Points {
		if p.Gap {
			gaps++
		}
	}
	if gaps != 2 || len(r.Points) > 100 {
		t.Errorf("%d gaps in %d points, want 2: nothing is assessed where nothing is recorded", gaps, len(r.Points))
	}
	var svg bytes.Buffer
	if err := r.SVG(&svg); err != nil {
		t.Fatal(err)
	}
	if text := svgTexts(t, svg.Bytes()); !slices.Contains(text, "no cause of a risk") {
		t.Errorf("the plot says %q", text)
	}
}

// A long trace is drawn with bounded points, and none of its peaks is lost.
func TestPointsAreBounded(t *testing.T) {
	p := &player{Result: Result{distance: time.Second}}
	for i := range 100_000 {
		x := Point{At: noon.Add(time.Duration(i) * time.Second), R1h: .001, Causes: map[string]float64{}}
		if i == 77_777 {
			x.R1h, x.State, x.Causes["peak"] = .9, hwhealth.Draining, 1
		}
		p.add(x)
	}
	if len(p.Points) >= maxPoints || len(p.Points) < maxPoints/4 {
		t.Errorf("%d points", len(p.Points))
	}
	if i := slices.IndexFunc(p.Points, func(x Point) bool { return x.R1h == .9 && x.State == hwhealth.Draining && x.Causes["peak"] == 1 }); i < 0 {
		t.Error("the peak is lost")
	}
}

func FuzzReplay(f *testing.F) {
	f.Add([]byte(`{"start":{"version":1,"node":"a","boot":"b","at":1}}
{"series":{"n":1,"source":"h","device":{"class":"thermal","serial":"a"},"signal":"thermal.temperature","kind":"level","unit":"celsius","limits":[null,null,80,100]}}
{"at":1000,"values":[[1,55]]}
{"at":2000,"values":[[1,null,"why"]]}
`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := &player{every: time.Minute, predictor: hwhealth.New(), Result: Result{Policy: hwhealth.DefaultPolicy(), distance: time.Minute}}
		if read(bytes.NewReader(b), "fuzz", p) != nil || p.Samples == 0 {
			return
		}
		p.assess(p.To)
		if err := p.SVG(io.Discard); err != nil {
			t.Error(err)
		}
	})
}
