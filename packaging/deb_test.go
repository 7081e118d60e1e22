package packaging

import (
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const version = "9.8.7"

// run returns what a command prints and fails the test where it fails.
func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func lookPath(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		t.Skipf("%s is not installed", tool)
	}
}

func TestDeb(t *testing.T) {
	lookPath(t, "dpkg-deb")
	lines := strings.Fields(run(t, "..", "sh", "scripts/deb.sh", version))
	deb := filepath.Join("..", lines[len(lines)-1])
	root := t.TempDir()
	run(t, ".", "dpkg-deb", "-x", deb, root)
	control := run(t, ".", "dpkg-deb", "-f", deb)
	for _, want := range []string{"Package: shadowcast", "Version: " + version, "charon-systemd", "libcharon-extra-plugins"} {
		if !strings.Contains(control, want) {
			t.Errorf("control lacks %q:\n%s", want, control)
		}
	}

	t.Run("content", func(t *testing.T) { content(t, deb, root) })
	t.Run("programs", func(t *testing.T) { programs(t, root) })
	t.Run("man pages", func(t *testing.T) { manPages(t, root) })
	t.Run("scripts", func(t *testing.T) {
		dir := t.TempDir()
		run(t, ".", "dpkg-deb", "-e", deb, dir)
		for _, s := range []string{"postinst", "prerm", "postrm"} {
			run(t, dir, "sh", "-n", s)
		}
		run(t, root, "bash", "-n", "usr/share/bash-completion/completions/shadowctl")
	})
	t.Run("units", func(t *testing.T) { units(t, root) })
}

// content compares the list of files: nothing is missing, nothing is there by
// accident, keys' directories are closed.
func content(t *testing.T, deb, root string) {
	modes := map[string]string{}
	for line := range strings.Lines(run(t, ".", "dpkg-deb", "-c", deb)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "root/root" {
			t.Errorf("odd entry: %s", line)
			continue
		}
		modes[strings.TrimSuffix(strings.TrimPrefix(f[5], "."), "/")] = f[0]
	}
	for path, mode := range map[string]string{
		"/usr/sbin/shadowcastd":                               "-rwxr-xr-x",
		"/usr/bin/shadowctl":                                  "-rwxr-xr-x",
		"/usr/lib/systemd/system/shadowcastd.service":         "-rw-r--r--",
		"/usr/lib/systemd/system/shadowcast-netns.service":    "-rw-r--r--",
		"/usr/lib/sysctl.d/60-shadowcast.conf":                "-rw-r--r--",
		"/usr/lib/tmpfiles.d/shadowcast.conf":                 "-rw-r--r--",
		"/usr/lib/modules-load.d/shadowcast.conf":             "-rw-r--r--",
		"/usr/share/bash-completion/completions/shadowctl":    "-rw-r--r--",
		"/usr/share/zsh/vendor-completions/_shadowctl":        "-rw-r--r--",
		"/usr/share/fish/vendor_completions.d/shadowctl.fish": "-rw-r--r--",
		"/usr/share/doc/shadowcast/copyright":                 "-rw-r--r--",
		"/usr/share/doc/shadowcast/operations.md":             "-rw-r--r--",
		"/usr/share/doc/shadowcast/examples/alerts.yaml":      "-rw-r--r--",
		"/etc/shadowcast":                                     "drwxr-x---",
		"/etc/shadowcast/pki":                                 "drwx------",
	} {
		if modes[path] != mode {
			t.Errorf("%s has the mode %q, want %q", path, modes[path], mode)
		}
	}
	allowed := regexp.MustCompile(`^(/etc/shadowcast(/pki)?|/usr/(sbin/shadowcastd|bin/shadowctl|lib/(systemd/system|sysctl\.d|tmpfiles\.d|modules-load\.d)/.*|share/(man/man[18]/shadow|doc/shadowcast/|bash-completion/|zsh/|fish/).*))$`)
	for path, mode := range modes {
		if mode[0] != 'd' && !allowed.MatchString(path) {
			t.Errorf("%s is in the package", path)
		}
	}
	for from, to := range map[string]string{"configs/systemd": "lib/systemd/system", "configs/sysctl.d": "lib/sysctl.d", "configs/tmpfiles.d": "lib/tmpfiles.d", "configs/modules-load.d": "lib/modules-load.d"} {
		files, err := os.ReadDir(filepath.Join("..", from))
		if err != nil || len(files) == 0 {
			t.Fatalf("read %s: %v", from, err)
		}
		for _, f := range files {
			want, _ := os.ReadFile(filepath.Join("..", from, f.Name()))
			got, err := os.ReadFile(filepath.Join(root, "usr", to, f.Name()))
			if err != nil || string(got) != string(want) {
				t.Errorf("%s in the package differs from %s: %v", f.Name(), from, err)
			}
		}
	}
}

// programs run from the package, and the example that they print is right.
func programs(t *testing.T, root string) {
	if got := run(t, root, "usr/sbin/shadowcastd", "--version"); got != "shadowcastd "+version+"\n" {
		t.Errorf("shadowcastd --version: %q", got)
	}
	if got := run(t, root, "usr/bin/shadowctl", "--version"); !strings.Contains(got, version) {
		t.Errorf("shadowctl --version: %q", got)
	}
	file := filepath.Join(root, "example.yaml")
	if err := os.WriteFile(file, []byte(run(t, root, "usr/bin/shadowctl", "config", "example")), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, root, "usr/bin/shadowctl", "config", "check", file)
}

// manPages has one page for each command, and each is a page.
func manPages(t *testing.T, root string) {
	for _, want := range []string{"man8/shadowcastd.8.gz", "man8/shadowcastd-fence-close.8.gz", "man8/shadowcastd-netns-prepare.8.gz", "man1/shadowctl.1.gz", "man1/shadowctl-slot-show.1.gz", "man1/shadowctl-drain.1.gz"} {
		if _, err := os.Stat(filepath.Join(root, "usr/share/man", want)); err != nil {
			t.Error(err)
		}
	}
	pages, err := filepath.Glob(filepath.Join(root, "usr/share/man/man*/*.gz"))
	if err != nil || len(pages) < 20 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, p := range pages {
		f, err := os.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		text, err := io.ReadAll(z)
		f.Close()
		if err != nil || !strings.Contains(string(text), ".SH NAME") || !strings.Contains(string(text), "shadowcast "+version) {
			t.Errorf("%s is no manual page of this version: %v", filepath.Base(p), err)
		}
	}
}

// maxExposure is what systemd may find fault with: a gateway needs the network
// stack of the host and the capabilities that the unit lists.
const maxExposure = 5.0

// units are without mistakes for systemd itself, and hardened.
func units(t *testing.T, root string) {
	lookPath(t, "systemd-analyze")
	dir := t.TempDir()
	var paths []string
	for _, u := range []string{"shadowcastd.service", "shadowcast-netns.service"} {
		b, err := os.ReadFile(filepath.Join(root, "usr/lib/systemd/system", u))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("/usr/sbin/", root+"/usr/sbin/", "/usr/bin/shadowctl", root+"/usr/bin/shadowctl").Replace(string(b))
		p := filepath.Join(dir, u)
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	if out := run(t, dir, "systemd-analyze", append([]string{"verify", "--man=no"}, paths...)...); out != "" {
		t.Errorf("systemd-analyze verify:\n%s", out)
	}
	out := run(t, dir, "systemd-analyze", "security", "--offline=true", "--no-pager", paths[0])
	m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no exposure level:\n%s", out)
	}
	score, err := strconv.ParseFloat(m[1], 64)
	if err != nil || score > maxExposure {
		t.Errorf("exposure level %s, want at most %.1f:\n%s", m[1], maxExposure, out)
	}
	t.Logf("systemd-analyze security shadowcastd.service: %s", m[1])
	text, _ := os.ReadFile(paths[0])
	for _, line := range []string{"Type=notify", "KillMode=process", "LimitCORE=0", "LimitMEMLOCK=infinity", "RuntimeDirectoryPreserve=yes", "ProtectSystem=strict"} {
		if !slices.Contains(strings.Split(string(text), "\n"), line) {
			t.Errorf("the unit lacks %s", line)
		}
	}
}
