package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm"
)

// writeFile replaces path atomically; sync makes it survive a power cut.
func writeFile(path string, b []byte, sync bool) (err error) {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	_, err = f.Write(b)
	if err == nil && sync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err = os.Rename(tmp, path); err != nil || !sync {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// remembered is what a restarted daemon must know of a slot. It lives in the
// run directory, which a reboot empties, and holds no key material.
type remembered struct {
	Role   ssm.Role            `json:"role"`
	Ticket sa.Ticket           `json:"ticket"`
	Lives  map[ssm.Node]uint64 `json:"lives,omitempty"`
	// Set is the shadow set of an owner that chooses it, Version its number.
	Set     []ssm.Node `json:"set,omitempty"`
	Version uint64     `json:"version,omitempty"`
}

type memory struct{ dir string }

func (m memory) path(s sa.Slot) string {
	return filepath.Join(m.dir, "slot-"+strconv.Itoa(int(s))+".json")
}

func (m memory) store(s sa.Slot, r remembered) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeFile(m.path(s), b, false)
}

// load returns the zero value where nothing is remembered.
func (m memory) load(s sa.Slot) (r remembered, err error) {
	b, err := os.ReadFile(m.path(s))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return remembered{}, fmt.Errorf("read %s: %w", m.path(s), err)
	}
	return r, nil
}

// incarnation returns the number of this life of the appliance's memory: it
// stays the same while the run directory does, and rises over a reboot.
func (m memory) incarnation() (uint64, error) {
	p := filepath.Join(m.dir, "incarnation")
	b, err := os.ReadFile(p)
	if err == nil {
		n, perr := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		if perr != nil {
			return 0, fmt.Errorf("read %s: %w", p, perr)
		}
		return n, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	n := uint64(time.Now().UnixNano())
	return n, writeFile(p, []byte(strconv.FormatUint(n, 10)+"\n"), false)
}
