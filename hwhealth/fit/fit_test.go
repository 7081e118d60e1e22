package fit

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shadowcast/shadowcast/hwhealth/drive"
)

// plant writes a benchmark in which half of the drives that ever report an
// uncorrectable error die, 2 % of those that only remap sectors, and 1 % of
// all others.
func plant(t *testing.T) string {
	t.Helper()
	var drives, rows strings.Builder
	drives.WriteString("serial,vendor,model,first_hour,last_hour,failed\n")
	rows.WriteString("i,hour,smart_5,smart_187,smart_197\n")
	for i := range 3000 {
		failed := 0
		fmt.Fprintf(&rows, "%d,100,0,0,0\n", i)
		switch {
		case i%10 == 0:
			fmt.Fprintf(&rows, "%d,5000,0,3,0\n", i)
			failed = i / 10 % 2
		case i%10 == 1:
			fmt.Fprintf(&rows, "%d,5000,3,0,0\n", i)
			if i%500 == 1 {
				failed = 1
			}
		case i%100 == 2:
			failed = 1
		}
		fmt.Fprintf(&drives, "S%05d,ST,ST1000XX,100,9000,%d\n", i, failed)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"drives.csv": drives.String(), "changes.csv": rows.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFitFindsThePlantedHazards(t *testing.T) {
	o := DefaultOptions()
	o.Iterations, o.MinFailures = 60, 1000
	tab, err := Fit(plant(t), "test", o)
	if err != nil {
		t.Fatal(err)
	}
	m := tab.For("ST", "ST1000XX")
	life := func(a5, a187 float64) float64 {
		h := drive.NewHistory(true)
		for i, s := range []float64{0, 1} {
			v := drive.NoValues()
			v[drive.Column(5)], v[drive.Column(187)], v[drive.Column(197)] = s*a5, s*a187, 0
			h.Observe(100+4900*float64(i), v)
		}
		return m.Lifetime(h, 5000)
	}
	if p := -math.Expm1(-life(0, 3)); p < .4 || p > .6 {
		t.Errorf("drives with 187 = 3 die with probability %.3f by the table, half of them did", p)
	}
	if p := -math.Expm1(-life(3, 0)); p > .05 {
		t.Errorf("drives with 5 = 3 die with probability %.3f by the table, 2 %% did", p)
	}
	if l := life(0, 0); l != 0 {
		t.Errorf("L without evidence is %v", l)
	}
	if p := tab.Points[1]; p.FAR > o.Targets[1].FAR+.01 {
		t.Errorf("point %s alarms %.3f of the healthy in cross-validation, asked for %.3f", p.Name, p.FAR, o.Targets[1].FAR)
	}
}

func TestFitNeedsLabels(t *testing.T) {
	dir := plant(t)
	if err := os.WriteFile(filepath.Join(dir, "drives.csv"), []byte("serial,model,first_hour\nA,ST1,1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Fit(dir, "test", DefaultOptions()); err == nil || !strings.Contains(err.Error(), "no labels") {
		t.Errorf("fit without labels: %v", err)
	}
	if _, err := Fit(t.TempDir(), "test", DefaultOptions()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("fit of nothing: %v", err)
	}
}
