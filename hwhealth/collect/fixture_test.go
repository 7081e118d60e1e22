package collect

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// dataDir holds field data that is not part of the repository.
const dataDir = "../../../shared/hwhealth/data"

// archive returns the regular files of a .tar.gz below the data directory.
func archive(t testing.TB, name string) map[string][]byte {
	t.Helper()
	file, err := os.Open(filepath.Join(dataDir, name))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("missing capability: field data %s (see docs/health.md)", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	gz, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	tr := tar.NewReader(gz)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if out[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

// unpackTtar writes a text archive of node_exporter and procfs below dir: a
// header "Path: p", "Lines: n", n lines in which NULLBYTE and EOF are escapes,
// "Mode: m"; "Directory: d"; "SymlinkTo: t" after a Path.
func unpackTtar(r io.Reader, dir string) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 4<<20)
	path, skip := "", false
	for sc.Scan() {
		key, value, _ := strings.Cut(sc.Text(), ": ")
		switch key {
		case "Directory":
			if unread.MatchString(value) {
				continue
			}
			if err := os.MkdirAll(filepath.Join(dir, value), 0o755); err != nil {
				return err
			}
		case "Path":
			path, skip = filepath.Join(dir, value), unread.MatchString(value)
			if skip {
				continue
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
		case "SymlinkTo":
			if skip {
				continue
			}
			if err := os.Symlink(value, path); err != nil {
				return err
			}
		case "Lines":
			n := 0
			if _, err := fmt.Sscanf(value, "%d", &n); err != nil {
				return fmt.Errorf("%s: lines %q", path, value)
			}
			var b strings.Builder
			for i := range n {
				if !sc.Scan() {
					return fmt.Errorf("%s: ends after %d of %d lines", path, i, n)
				}
				line := strings.ReplaceAll(sc.Text(), "NULLBYTE", "\x00")
				if cut, ok := strings.CutSuffix(line, "EOF"); ok {
					b.WriteString(cut) // the file has no newline at its end
				} else {
					b.WriteString(line + "\n")
				}
			}
			if skip {
				continue
			}
			if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
				return err
			}
		}
	}
	return sc.Err()
}

// unread are the parts of the trees that no reader looks at.
var unread = regexp.MustCompile(`bcache|infiniband|cpufreq|/node|btrfs|/xfs|fc_host|bus/cpu|iscsi|selinux|drm|rapl|powercap|clocksource|scsi_tape|` +
	`^fixtures/proc/(\d|self|fs|stat|mdstat|.*/(nfs|ip_vs|tcp|udp|unix|arp|stat|dev_snmp6))|/md/|ecn/|/dmi|/watchdog|mellanox|vmstat|zoneinfo|slabinfo|schedstat`)

// scratch is a directory in memory where there is one: the trees have hundreds
// of small files.
func scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "shadowcast-collect-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// tree makes a private copy of a fixture tree: "node_exporter" or "procfs".
func tree(t testing.TB, which string) Roots {
	t.Helper()
	dir := scratch(t)
	switch which {
	case "node_exporter":
		for name, b := range archive(t, "fixtures/node_exporter_fixtures.tar.gz") {
			rel, ok := strings.CutPrefix(name, "node_exporter/collector/fixtures/")
			switch {
			case rel == "sys.ttar":
				if err := unpackTtar(strings.NewReader(string(b)), dir); err != nil {
					t.Fatal(err)
				}
			case ok && strings.HasPrefix(rel, "proc/"):
				write(t, filepath.Join(dir, rel), string(b))
			}
		}
		return Roots{Sys: filepath.Join(dir, "sys"), Proc: filepath.Join(dir, "proc"), Dev: filepath.Join(dir, "dev")}
	case "procfs":
		for name, b := range archive(t, "fixtures/procfs_fixtures.tar.gz") {
			if strings.HasSuffix(name, "fixtures.ttar") {
				if err := unpackTtar(strings.NewReader(string(b)), dir); err != nil {
					t.Fatal(err)
				}
			}
		}
		dir = filepath.Join(dir, "fixtures")
		return Roots{Sys: filepath.Join(dir, "sys"), Proc: filepath.Join(dir, "proc"), Dev: filepath.Join(dir, "dev")}
	}
	t.Fatalf("no fixture tree %q", which)
	return Roots{}
}

// write writes a file and the directories above it.
func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// link makes a symbolic link and the directories above it.
func link(t testing.TB, target, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// at is when tests read.
var at = time.Unix(1700000000, 0)

// key names a sample: class/serial signal.
func key(s hwhealth.Sample) string { return s.Device.Key() + " " + string(s.Signal) }

// check asks every sample to be well formed and indexes them.
func check(t testing.TB, samples []hwhealth.Sample) map[string]hwhealth.Sample {
	t.Helper()
	out := map[string]hwhealth.Sample{}
	for _, s := range samples {
		if err := s.Check(); err != nil {
			t.Errorf("%v", err)
		}
		if s.Missing && s.Why == "" {
			t.Errorf("%s is missing without a reason", key(s))
		}
		if s.Kind == hwhealth.Counter && s.Value < 0 {
			t.Errorf("%s counts %v", key(s), s.Value)
		}
		if _, ok := out[key(s)]; ok && s.Kind != hwhealth.Event {
			t.Errorf("%s is told twice in one reading", key(s))
		}
		out[key(s)] = s
	}
	return out
}

// want asks for values.
func want(t testing.TB, got map[string]hwhealth.Sample, values map[string]float64) {
	t.Helper()
	for k, v := range values {
		s, ok := got[k]
		switch {
		case !ok:
			t.Errorf("%s is not told; told are %v", k, names(got))
		case s.Missing:
			t.Errorf("%s is missing: %s", k, s.Why)
		case s.Value < v-1e-6 || s.Value > v+1e-6:
			t.Errorf("%s is %v, want %v", k, s.Value, v)
		}
	}
}

// wantMissing asks for values that are missing for a reason.
func wantMissing(t testing.TB, got map[string]hwhealth.Sample, reasons map[string]string) {
	t.Helper()
	for k, why := range reasons {
		s, ok := got[k]
		if !ok || !s.Missing || !strings.Contains(s.Why, why) {
			t.Errorf("%s: %+v, want missing because of %q; told are %v", k, s, why, names(got))
		}
	}
}

func names(got map[string]hwhealth.Sample) []string {
	var out []string
	for k := range got {
		out = append(out, k)
	}
	return out
}
