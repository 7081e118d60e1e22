package charon

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// sleeper starts a process that dir's record names as its charon, after first.
func sleeper(t *testing.T, first string) (dir string, ended <-chan struct{}) {
	t.Helper()
	dir = t.TempDir()
	c := exec.Command("sh", "-c", first+"\ntouch "+filepath.Join(dir, "up")+"\nexec sleep 300")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		c.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		c.Process.Kill()
		<-done
	})
	for { // until first is done
		if _, err := os.Stat(filepath.Join(dir, "up")); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	started, err := startTime(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(record{PID: c.Process.Pid, StartTime: started, BootID: boot})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "charon.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, done
}

func TestEnd(t *testing.T) {
	at := t.Context()
	dir, ended := sleeper(t, "")
	if err := End(at, dir); err != nil {
		t.Error(err)
	}
	<-ended
	if _, err := os.Stat(filepath.Join(dir, "charon.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record is still there: %v", err)
	}
	if err := End(at, dir); err != nil {
		t.Errorf("where none runs: %v", err)
	}
	// One that does not heed SIGTERM, when there is no time.
	dir, ended = sleeper(t, "trap '' TERM")
	none, cancel := context.WithCancel(at)
	cancel()
	if err := End(none, dir); err != nil {
		t.Error(err)
	}
	<-ended
}

// A process that came by the number of a charon that is gone lives on.
func TestEndSparesOthers(t *testing.T) {
	dir, ended := sleeper(t, "")
	file := filepath.Join(dir, "charon.json")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	r.StartTime--
	if b, err = json.Marshal(r); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := End(t.Context(), dir); err != nil {
		t.Error(err)
	}
	select {
	case <-ended:
		t.Error("it was ended")
	case <-time.After(50 * time.Millisecond):
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := End(t.Context(), dir); err == nil {
		t.Error("a record that cannot be read is no error")
	}
}
