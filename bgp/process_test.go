package bgp

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// GoBGP listens in the namespace of its process, so each speaker of these tests
// is this test binary, executed again inside a namespace and driven by JSON
// lines on its standard input and output.
const speakerEnv = "SHADOWCAST_TEST_SPEAKER"

func TestMain(m *testing.M) {
	if spec := os.Getenv(speakerEnv); spec != "" {
		os.Exit(speakerMain(spec))
	}
	os.Exit(m.Run())
}

// speakerSpec is what a speaker process is told; passwords travel apart,
// because they redact themselves.
type speakerSpec struct {
	Config struct {
		ASN           uint32
		RouterID      netip.Addr
		Node          string
		Peers         []Peer
		FleetLiveness []netip.Prefix
	}
	Passwords map[string]string
}

type command struct {
	Op      string
	Desired Desired
}

type answer struct {
	Event   *Event `json:",omitempty"`
	Ready   bool   `json:",omitempty"`
	Reply   bool   `json:",omitempty"`
	Err     string `json:",omitempty"`
	Took    time.Duration
	Peers   []PeerState    `json:",omitempty"`
	Ann     []Announcement `json:",omitempty"`
	Stopped bool           `json:",omitempty"`
	Leak    string         `json:",omitempty"`
	Parked  bool           `json:",omitempty"`
}

// speakerMain is the speaker process.
func speakerMain(text string) int {
	var spec speakerSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	var mu sync.Mutex
	enc := json.NewEncoder(os.Stdout)
	say := func(a answer) { mu.Lock(); defer mu.Unlock(); _ = enc.Encode(a) }
	c := Config{
		ASN: spec.Config.ASN, RouterID: spec.Config.RouterID, Node: spec.Config.Node,
		Peers: spec.Config.Peers, FleetLiveness: spec.Config.FleetLiveness,
		OnEvent: func(e Event) { say(answer{Event: &e}) },
	}
	for i := range c.Peers {
		c.Peers[i].Password = Password(spec.Passwords[c.Peers[i].Name])
	}
	s, err := New(c, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		say(answer{Stopped: true, Err: err.Error()})
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case err := <-done:
		say(answer{Stopped: true, Err: fmt.Sprint(err)})
		cancel()
		return 1
	case <-s.Ready():
		say(answer{Ready: true})
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var cmd command
		a := answer{Reply: true}
		err := json.Unmarshal(in.Bytes(), &cmd)
		t0 := time.Now()
		switch {
		case err != nil:
		case cmd.Op == "set":
			err = s.Set(cmd.Desired)
		case cmd.Op == "withdraw":
			c, done := context.WithTimeout(ctx, 3*time.Second)
			err = s.Withdraw(c)
			done()
		case cmd.Op == "peers":
			a.Peers, a.Ann = s.Peers(), s.Announcements()
		}
		a.Took = time.Since(t0)
		if err != nil {
			a.Err = err.Error()
		}
		say(a)
	}
	cancel()
	a := answer{Stopped: true}
	if err := <-done; err != nil {
		a.Err = err.Error()
	}
	// Goroutines parked in GoBGP's update queues are told apart: see rebuild.
	if err := goleak.Find(goleak.IgnoreTopFunction("github.com/eapache/channels.(*InfiniteChannel).infiniteBuffer")); err != nil {
		a.Leak = err.Error()
	}
	a.Parked = goleak.Find() != nil
	say(a)
	return 0
}

// speaker is a speaker process.
type speaker struct {
	l       *lab
	name    string
	cmd     *exec.Cmd
	in      io.WriteCloser
	replies chan answer
	log     *logFile
	mu      sync.Mutex
	events  []Event
	last    answer // Stopped
	eof     chan struct{}
}

func (l *lab) speaker(ns string, spec speakerSpec) *speaker {
	l.t.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		l.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	s := &speaker{l: l, name: ns, in: pw, replies: make(chan answer, 1), eof: make(chan struct{})}
	var out io.ReadCloser
	s.cmd, out, s.log = l.start(ns, []string{speakerEnv + "=" + string(text)}, pr, self)
	pr.Close()
	ready := make(chan struct{})
	go func() {
		defer close(s.eof)
		dec := json.NewDecoder(out)
		for {
			var a answer
			if dec.Decode(&a) != nil {
				return
			}
			switch {
			case a.Ready:
				close(ready)
			case a.Event != nil:
				s.mu.Lock()
				s.events = append(s.events, *a.Event)
				s.mu.Unlock()
			case a.Stopped:
				s.mu.Lock()
				s.last = a
				s.mu.Unlock()
			default:
				s.replies <- a
			}
		}
	}()
	l.t.Cleanup(func() { pw.Close() })
	select {
	case <-ready:
	case <-s.eof:
		l.t.Fatalf("speaker %s ended: %+v\n%s", ns, s.last, s.log)
	case <-time.After(20 * time.Second):
		l.t.Fatalf("speaker %s not ready", ns)
	}
	return s
}

// do sends a command and returns its answer.
func (s *speaker) do(c command) answer {
	s.l.t.Helper()
	b, _ := json.Marshal(c)
	if _, err := s.in.Write(append(b, '\n')); err != nil {
		s.l.t.Fatalf("%s: %v", s.name, err)
	}
	select {
	case a := <-s.replies:
		return a
	case <-time.After(20 * time.Second):
		s.l.t.Fatalf("%s does not answer %s", s.name, c.Op)
	}
	return answer{}
}

func (s *speaker) set(d Desired) {
	s.l.t.Helper()
	if a := s.do(command{Op: "set", Desired: d}); a.Err != "" {
		s.l.t.Fatalf("%s: set: %s", s.name, a.Err)
	}
}

func (s *speaker) peer(name string) PeerState {
	s.l.t.Helper()
	for _, p := range s.do(command{Op: "peers"}).Peers {
		if p.Name == name {
			return p
		}
	}
	s.l.t.Fatalf("%s has no peer %s", s.name, name)
	return PeerState{}
}

// waitUp waits until all sessions are up, with BFD where configured.
func (s *speaker) waitUp() {
	s.l.t.Helper()
	var last []PeerState
	defer func() {
		if s.l.t.Failed() {
			s.l.t.Logf("%s: peers %+v", s.name, last)
		}
	}()
	s.l.wait(25*time.Second, "session of "+s.name, func() bool {
		last = s.do(command{Op: "peers"}).Peers
		for _, p := range last {
			if !p.Up || p.BFD != "off" && p.BFD != "up" {
				return false
			}
		}
		return true
	})
}

// event waits for an event at or after since.
func (s *speaker) event(d time.Duration, what string, since time.Time, match func(Event) bool) Event {
	s.l.t.Helper()
	var got Event
	s.l.wait(d, s.name+" event: "+what, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, e := range s.events {
			if !e.At.Before(since) && match(e) {
				got = e
				return true
			}
		}
		return false
	})
	return got
}

// count counts events at or after since.
func (s *speaker) count(since time.Time, k EventKind) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.Kind == k && !e.At.Before(since) {
			n++
		}
	}
	return n
}

func (s *speaker) signal(sig syscall.Signal) time.Time {
	t0 := time.Now()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.l.t.Fatal(err)
	}
	return t0
}

// racesOfOurs returns the race detector's reports in which one of the two accesses is
// code of this repository. GoBGP 4.8 races with itself where two connections of a peer
// meet: a flag of the session is read by one and written by the other.
func racesOfOurs(log string) (out []string) {
	for _, report := range strings.Split(log, "WARNING: DATA RACE")[1:] {
		report, _, _ = strings.Cut(report, "==================")
		access, ours := false, false // inside the stack of an access, its first frame not read yet
		for line := range strings.Lines(report) {
			switch frame := strings.TrimSpace(line); {
			case strings.Contains(line, " by goroutine "), strings.Contains(line, " by main goroutine"):
				access = true
			case access && frame != "" && !strings.HasPrefix(frame, "/") && !strings.HasPrefix(frame, "runtime."):
				ours, access = ours || strings.Contains(frame, "shadowcast/"), false
			}
		}
		if ours {
			out = append(out, report)
		}
	}
	return out
}

func TestRacesOfOurs(t *testing.T) {
	const report = `==================
WARNING: DATA RACE
Read at 0x1 by goroutine 51:
  github.com/osrg/gobgp/v4/pkg/server.f()
      /src/f.go:1 +0x1

Previous write at 0x1 by goroutine 44:
  runtime.slicecopy()
      /go/slice.go:1 +0x1
  %s()
      /src/g.go:2 +0x1

Goroutine 51 (running) created at:
  github.com/shadowcast/shadowcast/bgp.New()
==================
`
	if got := racesOfOurs(fmt.Sprintf(report, "github.com/osrg/gobgp/v4/pkg/server.g")); len(got) != 0 {
		t.Errorf("a race of the library with itself is taken for ours: %q", got)
	}
	if got := racesOfOurs("x\n" + fmt.Sprintf(report, "github.com/shadowcast/shadowcast/bgp.g") + fmt.Sprintf(report, "github.com/osrg/gobgp/v4/pkg/server.g")); len(got) != 1 {
		t.Errorf("%d races of ours, want 1", len(got))
	}
}

// stop ends the speaker in order and returns its last words.
func (s *speaker) stop() answer {
	s.l.t.Helper()
	s.in.Close()
	select {
	case <-s.eof:
	case <-time.After(20 * time.Second):
		s.l.t.Fatalf("%s does not stop", s.name)
	}
	for _, race := range racesOfOurs(s.log.String()) {
		s.l.t.Errorf("%s: %s", s.name, race)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}
