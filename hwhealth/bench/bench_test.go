package bench

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shadowcast/shadowcast/hwhealth/drive"
)

// shared is the directory with the recorded data and its scorer; it is not part
// of the repository.
const shared = "../../../shared/hwhealth"

func needData(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(shared, "data")
	if d := os.Getenv("HWHEALTH_DATA"); d != "" {
		dir = d
	}
	r, err := Open(dir)
	if err != nil {
		t.Skipf("missing capability: the recorded drives of the health benchmark (%v)", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestFigures asserts what docs/health.md says of the folds that the table was
// not fitted on.
func TestFigures(t *testing.T) {
	dir := needData(t)
	res, err := Run(dir, t.TempDir(), drive.Default())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]struct{ fdr, far float64 }{"far3": {.59, .030}, "far5": {.67, .049}}
	for _, p := range res.Points {
		if p.Unseen == nil {
			t.Fatalf("%s: nothing to score in %s", p.Point.Name, dir)
		}
		if w, ok := want[p.Point.Name]; ok && (p.Unseen.FDR < w.fdr || p.Unseen.FAREver > w.far) {
			t.Errorf("%s: FDR %.4f at FAR_ever %.4f, want at least %.2f at no more than %.3f", p.Point.Name, p.Unseen.FDR, p.Unseen.FAREver, w.fdr, w.far)
		}
		if p.Unseen.Flappers != 0 {
			t.Errorf("%s: %.5f of the drives flap", p.Point.Name, p.Unseen.Flappers)
		}
	}
	t.Run("score.py", func(t *testing.T) { scorerAgrees(t, dir, res) })
}

// scorerAgrees runs the benchmark's own score.py over the same alarms.
func scorerAgrees(t *testing.T, dir string, res *Result) {
	script := filepath.Join(shared, "data", "score.py")
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("missing capability: python3, to run the benchmark's score.py")
	}
	raw, err := exec.Command(python, script, res.Path, res.Points[1].File, "--json").Output()
	if err != nil {
		t.Fatalf("score.py: %v", err)
	}
	var ref struct {
		Failed                   int
		Healthy                  int
		FDR, Caught90, Touched30 float64
		Lead25                   float64 `json:"lead_p25"`
		Lead50                   float64 `json:"lead_median"`
		Lead75                   float64 `json:"lead_p75"`
		FAREver                  float64 `json:"FAR_ever"`
		FAR30                    float64 `json:"FAR_30d"`
		Onsets                   float64 `json:"onsets_per_100dy"`
		Time                     float64 `json:"time_pct"`
		Flap, Flappers           float64
	}
	if err := json.Unmarshal(raw, &ref); err != nil {
		t.Fatal(err)
	}
	var s Scorer
	alarms := readAlarms(t, res.Points[1].File)
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		d, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		s.Add(d.FirstHour, d.Label, alarms[d.Serial])
	}
	got := s.Score()
	if got.Failed != ref.Failed || got.Healthy != ref.Healthy {
		t.Fatalf("%d failed and %d healthy, score.py says %d and %d", got.Failed, got.Healthy, ref.Failed, ref.Healthy)
	}
	for name, v := range map[string][2]float64{
		"FDR": {got.FDR, ref.FDR}, "caught90": {got.Caught90, ref.Caught90}, "touched30": {got.Touched30, ref.Touched30},
		"lead25": {got.Lead25, ref.Lead25}, "lead50": {got.Lead50, ref.Lead50}, "lead75": {got.Lead75, ref.Lead75},
		"FAR_ever": {got.FAREver, ref.FAREver}, "FAR_30d": {got.FAR30, ref.FAR30}, "onsets": {got.Onsets, ref.Onsets},
		"time": {100 * got.Time, ref.Time}, "flap": {got.Flap, ref.Flap}, "flappers": {got.Flappers, ref.Flappers},
	} {
		if math.Abs(v[0]-v[1]) > 1e-6*math.Max(1, math.Abs(v[1])) {
			t.Errorf("%s is %v, score.py says %v", name, v[0], v[1])
		}
	}
}

func readAlarms(t *testing.T, path string) map[string][]Interval {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]Interval{}
	for _, l := range strings.Split(strings.TrimSpace(string(b)), "\n")[1:] {
		f := strings.Split(l, ",")
		iv := Interval{Off: math.Inf(1)}
		if _, err := fmt.Sscan(f[1], &iv.On); err != nil {
			t.Fatal(err)
		}
		if f[2] != "" {
			if _, err := fmt.Sscan(f[2], &iv.Off); err != nil {
				t.Fatal(err)
			}
		}
		out[f[0]] = append(out[f[0]], iv)
	}
	return out
}

// write makes a benchmark directory; a name that ends in .gz is compressed.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		var w io.WriteCloser = f
		if strings.HasSuffix(name, ".gz") {
			w = gzip.NewWriter(f)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	rows = "i,hour,smart_5,smart_10,smart_12,smart_187,smart_188,smart_189,smart_196,smart_197,smart_198\n" +
		"0,100,0,0,1,0,0,0,,0,0\n1,50,0,0,1,0,0,0,,0,0\n1,500,8,0,1,40,0,0,,16,16\n"
	labelled = "serial,vendor,model,size_tb,first_hour,last_hour,min_date,max_date,n_records,failed,fold,rows\n" +
		"A,ST,ST4000DM000,4.0,100,9000,2014-01-01,2016-01-01,400,0,3,1\nB,ST,ST4000DM000,4.0,50,1500,2014-01-01,2014-09-01,60,1,4,2\n"
	blind = "serial,vendor,model,size_tb,first_hour\nA,ST,ST4000DM000,4.0,100\nB,ST,ST4000DM000,4.0,50\n"
)

// TestBlindDrivesGetTheSameAlarms replays the same drives with and without the
// label columns.
func TestBlindDrivesGetTheSameAlarms(t *testing.T) {
	with, without := t.TempDir(), t.TempDir()
	a, err := Run(write(t, map[string]string{"drives.csv.gz": labelled, "changes.csv.gz": rows}), with, drive.Default())
	if err != nil {
		t.Fatal(err)
	}
	b, err := Run(write(t, map[string]string{"drives_blind.csv.gz": blind, "changes.csv.gz": rows}), without, drive.Default())
	if err != nil {
		t.Fatal(err)
	}
	if !a.Labelled || b.Labelled || b.Points[0].Unseen != nil {
		t.Fatalf("labels: %v and %v, a blind run has no score", a.Labelled, b.Labelled)
	}
	for k, p := range a.Points {
		x, err := os.ReadFile(p.File)
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.ReadFile(b.Points[k].File)
		if err != nil {
			t.Fatal(err)
		}
		if string(x) != string(y) {
			t.Errorf("%s: labels changed the alarms:\n%s\n%s", p.Point.Name, x, y)
		}
		if !strings.Contains(string(x), "\nB,500,") || strings.Contains(string(x), "\nA,") {
			t.Errorf("%s: want an alarm of B from hour 500 and none of A:\n%s", p.Point.Name, x)
		}
	}
}

func TestReaderSaysWhatIsWrongAndWhere(t *testing.T) {
	for _, c := range []struct{ name, drives, rows, want string }{
		{"no column", "serial,vendor\nA,ST\n", rows, `no column "model"`},
		{"empty file", "", rows, "it is empty"},
		{"short row", blind + "C,ST\n", rows, "drives_blind.csv:4: 2 fields"},
		{"no number", strings.Replace(blind, ",100", ",ten", 1), rows, "drives_blind.csv:2: first_hour"},
		{"bad value", blind, strings.Replace(rows, "16,16", "16,x", 1), "changes.csv:4: smart_198"},
		{"order", blind, rows + "0,600,0,0,1,0,0,0,,0,0\n", "changes.csv:5: i is 0 after 1"},
		{"time goes back", blind, rows + "1,400,0,0,1,0,0,0,,0,0\n", "goes back from hour 500 to 400"},
		{"row of no drive", blind, rows + "7,600,0,0,1,0,0,0,,0,0\n", "row of drive 7"},
	} {
		_, err := Run(write(t, map[string]string{"drives_blind.csv": c.drives, "changes.csv": c.rows}), t.TempDir(), drive.Default())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := Open(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty directory: %v, want fs.ErrNotExist", err)
	}
}

// TestStepsLooksAtTheTickAfterAnExpiry checks the shortcut against looking at
// every single tick.
func TestStepsLooksAtTheTickAfterAnExpiry(t *testing.T) {
	m := drive.Default().For("ST", "ST4000DM000")
	v := func(a5, a187, a197 float64) drive.Values {
		x := drive.NoValues()
		x[drive.Column(5)], x[drive.Column(187)], x[drive.Column(197)] = a5, a187, a197
		return x
	}
	data := []Row{{50, v(0, 0, 0)}, {700, v(8, 0, 0)}, {733, v(8, 3, 9)}, {1800, v(8, 3, 0)}}
	const until = 20000
	sparse := map[float64]float64{}
	h := drive.NewHistory(true)
	Steps(50, data, until, h, func(t float64) { sparse[t] = m.Lifetime(h, t) }, func() float64 { return math.Inf(1) })

	h = drive.NewHistory(true)
	i, last := 0, 0.0
	for at := 50.0; at < until; at += 24 {
		for i < len(data) && data[i].Hour <= at {
			h.Observe(data[i].Hour, data[i].Values)
			last = m.Lifetime(h, data[i].Hour)
			if sparse[data[i].Hour] != last {
				t.Fatalf("row at %v: %v, want %v", data[i].Hour, sparse[data[i].Hour], last)
			}
			i++
		}
		l := m.Lifetime(h, at)
		if got, looked := sparse[at]; looked && got != l || !looked && l != last {
			t.Fatalf("tick %v: looked %v, L is %v, was %v", at, looked, l, last)
		}
		last = l
	}
}

func FuzzReader(f *testing.F) {
	f.Add(blind, rows)
	f.Add(labelled, rows)
	f.Add("serial,model,first_hour\nA,,1e308\n", "i,hour\n0,-1\n")
	f.Fuzz(func(t *testing.T, d, c string) {
		_, _ = Run(write(t, map[string]string{"drives.csv": d, "changes.csv": c}), t.TempDir(), drive.Default())
	})
}
