package hwhealth_test

import (
	"archive/tar"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect/ipmi"
)

// Recorded optics and servers are played through the predictor: what the catalogue
// calls an alarm must be one, and what it calls a trap must not.

const fieldData = "../../shared/hwhealth/data/"

// field opens recorded data and unpacks it.
func field(t *testing.T, name string) io.Reader {
	t.Helper()
	f, err := os.Open(fieldData + name)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("missing capability: field data %s (see docs/health.md)", path.Dir(name))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	gz, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	return gz
}

// optics plays one day of the optical testbed: how many emulated failures O1.fall
// caught, and at how many of the other samples it held.
func optics(t *testing.T, file string) (caught, failures, wrong, healthy int) {
	t.Helper()
	r := csv.NewReader(field(t, "optical_testbed/"+file))
	head, err := r.Read()
	if err != nil {
		t.Fatal(err)
	}
	id, at, power, failure := slices.Index(head, "ID"), slices.Index(head, "Timestamp"), slices.Index(head, "InputPower"), slices.Index(head, "Failure")
	p := hwhealth.New()
	module := hwhealth.Device{Class: hwhealth.ClassOptic, Serial: "ampli1"}
	failing, seen := false, false
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return caught, failures, wrong, healthy
		}
		if err != nil {
			t.Fatal(err)
		}
		if row[id] != "Ampli1" || row[power] == "" {
			continue
		}
		dbm, err := strconv.ParseFloat(row[power], 64)
		if err != nil {
			t.Fatal(err)
		}
		sec, err := strconv.ParseInt(row[at], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Unix(sec, 0)
		p.Observe(hwhealth.Of("ethtool", module, hwhealth.OpticRxPower, dbm, now), now)
		hit := slices.ContainsFunc(p.Assess(now).Causes, func(c hwhealth.Cause) bool { return c.Term == "O1.fall" && c.Age == 0 })
		bad := row[failure] != "" && row[failure] != "0"
		if bad && !failing {
			failures++
			seen = false
		}
		switch failing = bad; {
		case bad && hit && !seen:
			seen = true
			caught++
		case !bad:
			healthy++
			if hit {
				wrong++
			}
		}
	}
}

func TestOpticsOfTheTestbed(t *testing.T) {
	for _, x := range []struct {
		file string
		// The bounds are those that the data's README gives for a short mean minus
		// 4 dB; healthy attenuation in the second one swings by up to 18 dB.
		failures, wrongPerMille int
	}{{"SoftFailure.csv.gz", 46, 1}, {"HardFailure.csv.gz", 131, 81}} {
		caught, failures, wrong, healthy := optics(t, x.file)
		t.Logf("%s: %d of %d failures caught, %d of %d healthy samples alarm", x.file, caught, failures, wrong, healthy)
		if failures != x.failures || caught != failures || healthy < 8000 || wrong*1000 > healthy*x.wrongPerMille {
			t.Errorf("%s: caught %d of %d failures, want %d; %d of %d healthy samples alarm", x.file, caught, failures, x.failures, wrong, healthy)
		}
	}
}

// One server's fans stand still and are "critical" because it is off, another one's
// clock battery dies; none of the five was failing.
func TestServersOfTheSample(t *testing.T) {
	servers := 0
	for tr := tar.NewReader(field(t, "ipmi_sample/ipmi_10min.tar.gz")); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name, ok := strings.CutSuffix(path.Base(h.Name), ".txt")
		if !ok {
			continue
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		servers++
		p, ladder, policy := hwhealth.New(), hwhealth.Ladder{}, hwhealth.DefaultPolicy()
		now, worst, lists := time.Unix(1748908800, 0), hwhealth.Normal, 0
		terms := map[string]bool{}
		for _, part := range strings.Split(string(text), "Timestamp:")[1:] {
			_, list, _ := strings.Cut(part, "\n")
			sensors, _, err := ipmi.Parse(list)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			now = now.Add(10 * time.Minute)
			lists++
			for _, s := range ipmi.Samples(sensors, "machine", now) {
				p.Observe(s, now)
			}
			a := p.Assess(now)
			ladder.Step(&a, policy, hwhealth.Withdraw, now)
			worst = max(worst, ladder.Wants())
			for _, c := range a.Causes {
				terms[c.Term+" "+c.Device.Name] = true
			}
			for _, l := range a.Limits {
				t.Errorf("%s: hard limit %s of %s: %s", name, l.Limit, l.Device, l.Detail)
			}
		}
		t.Logf("%s: %d lists, worst state %s, causes %v", name, lists, worst, terms)
		if lists < 100 || worst >= hwhealth.Degraded {
			t.Errorf("%s: state %s after %d lists, for %v", name, worst, lists, terms)
		}
		for term := range terms {
			if strings.HasPrefix(term, "F1.") {
				t.Errorf("%s: %s", name, term)
			}
		}
	}
	if servers != 5 {
		t.Errorf("%d servers in the sample, want 5", servers)
	}
}
