package smart

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dataDir holds field data that is not part of the repository.
const dataDir = "../../../../shared/hwhealth/data"

// corpus calls f for every regular file of a .tar.gz below the data directory.
func corpus(t testing.TB, name string, f func(name string, b []byte)) {
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
	tr := tar.NewReader(gz)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		f(h.Name, b)
	}
}

// grep counts the lines of text that contain all of the words.
func grep(text string, words ...string) int {
	n := 0
lines:
	for line := range strings.Lines(text) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		n++
	}
	return n
}
