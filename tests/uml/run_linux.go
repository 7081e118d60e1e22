package uml

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// kernel is where Debian's user-mode-linux puts the kernel.
const kernel = "/usr/bin/linux.uml"

// DefaultMemory is the guest's memory where Options names none.
const DefaultMemory = "768M"

// Options says what to run in the guest and how.
type Options struct {
	Memory  string        // as in linux.uml mem=; DefaultMemory if empty
	Argv    []string      // payload; the running binary with its arguments if empty
	Env     []string      // added to the environment of this process
	Dir     string        // working directory of the payload; the current one if empty
	Stdin   io.Reader     // what the payload reads, lines; none if nil
	Stdout  io.Writer     // payload's stdout and stderr; os.Stdout if nil
	Modules []string      // kernel modules beyond the default list
	Timeout time.Duration // from the start of the boot; none if 0
}

// job is what the host tells PID 1 of the guest.
type job struct {
	Argv    []string `json:"argv"`
	Env     []string `json:"env"`
	Dir     string   `json:"dir"`
	Modules []string `json:"modules"`
	Entropy []byte   `json:"entropy"`
	Result  string   `json:"result"` // file for the exit status
	Stdin   bool     `json:"stdin"`  // the payload reads the console
}

// jobEnv is the kernel parameter, which the kernel turns into an environment
// variable of init, that names the job file.
const jobEnv = "SHADOWCAST_UML_JOB"

// Console markers: what is printed before the first and after the second is the
// kernel's. They are unlikely in a payload's own output.
const (
	beginMark = "\x02shadowcast-uml-begin\n"
	endMark   = "\x03shadowcast-uml-end\n"
)

// Run boots user-mode Linux, runs the payload and returns its exit status, 128+n
// where signal n killed it. A guest that did not get as far as an exit status is
// an error that quotes its console. Every process of the guest is gone when Run
// returns; cancelling ctx ends it early. The calling binary must call Init first
// thing in main.
func Run(ctx context.Context, o Options) (exit int, err error) {
	if o.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("guest still running after %s", o.Timeout))
		defer cancel()
	}
	dir, err := os.MkdirTemp("", "shadowcast-uml")
	if err != nil {
		return -1, fmt.Errorf("make job directory: %w", err)
	}
	defer os.RemoveAll(dir)
	j, err := newJob(o, dir)
	if err != nil {
		return -1, err
	}
	self, err := os.Executable()
	if err != nil {
		return -1, fmt.Errorf("find own binary: %w", err)
	}
	b, err := json.Marshal(j)
	if err != nil {
		return -1, fmt.Errorf("encode job: %w", err)
	}
	jobFile := filepath.Join(dir, "job.json")
	// 0600: the environment may hold secrets, and the entropy is one.
	if err := os.WriteFile(jobFile, b, 0o600); err != nil {
		return -1, fmt.Errorf("write job: %w", err)
	}
	out := o.Stdout
	if out == nil {
		out = os.Stdout
	}
	console := &consoleWriter{w: out, begin: make(chan struct{})}
	mem := o.Memory
	if mem == "" {
		mem = DefaultMemory
	}
	cmd := exec.Command(kernel, "mem="+mem, "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", "init="+self,
		"con=null", "con0=fd:0,fd:1", "quiet", "panic=-1", "uml_dir="+dir+"/", jobEnv+"="+jobFile)
	cmd.Stdout, cmd.Stderr = console, console
	if o.Stdin != nil {
		stop, err := feed(cmd, o.Stdin, console.begin)
		if err != nil {
			return -1, err
		}
		defer stop()
	}
	cmd.Env = append(os.Environ(), "TMPDIR="+memoryDir(mem), "HOME="+dir)
	// An own session, so that one signal reaches all its processes.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	werr := runGroup(ctx, cmd, dir)
	if ferr := console.flush(); ferr != nil && err == nil {
		err = fmt.Errorf("copy guest output: %w", ferr)
	}
	if ctx.Err() != nil {
		return -1, fmt.Errorf("run guest: %w", context.Cause(ctx))
	}
	s, rerr := os.ReadFile(j.Result)
	if rerr != nil {
		return -1, fmt.Errorf("guest ended without an exit status (%v), console: %q", werr, console.tail())
	}
	exit, cerr := strconv.Atoi(strings.TrimSpace(string(s)))
	if cerr != nil {
		return -1, fmt.Errorf("guest could not run the payload: %s", s)
	}
	return exit, err
}

// feed has the guest's console read in, from when the payload begins: what came before
// would be echoed among the kernel's words.
func feed(cmd *exec.Cmd, in io.Reader, begin <-chan struct{}) (stop func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe for the guest's console: %w", err)
	}
	cmd.Stdin = r
	ended := make(chan struct{})
	go func() {
		select {
		case <-begin:
			_, _ = io.Copy(w, in) // ends with the guest
		case <-ended:
		}
	}()
	return func() {
		close(ended)
		r.Close()
		w.Close()
	}, nil
}

func newJob(o Options, dir string) (job, error) {
	j := job{Argv: o.Argv, Dir: o.Dir, Modules: o.Modules, Result: filepath.Join(dir, "exit"), Stdin: o.Stdin != nil, Entropy: make([]byte, 512)}
	j.Env = append(append(os.Environ(), o.Env...), guestEnv+"=1", "TMPDIR="+guestTmp)
	if _, err := rand.Read(j.Entropy); err != nil {
		return j, fmt.Errorf("read entropy: %w", err)
	}
	if len(j.Argv) == 0 {
		self, err := os.Executable()
		if err != nil {
			return j, fmt.Errorf("find own binary: %w", err)
		}
		j.Argv = append([]string{self}, os.Args[1:]...)
	}
	if j.Dir == "" {
		wd, err := os.Getwd()
		if err != nil {
			return j, fmt.Errorf("find working directory: %w", err)
		}
		j.Dir = wd
	}
	return j, nil
}

// memoryDir is where the guest's memory file goes: /dev/shm if it has room, for
// a file on disk is written back all the time.
func memoryDir(mem string) string {
	n, unit := mem, uint64(1)
	if l := len(mem) - 1; l > 0 {
		switch mem[l] {
		case 'k', 'K':
			n, unit = mem[:l], 1<<10
		case 'm', 'M':
			n, unit = mem[:l], 1<<20
		case 'g', 'G':
			n, unit = mem[:l], 1<<30
		}
	}
	size, err := strconv.ParseUint(n, 10, 64)
	var st unix.Statfs_t
	if err == nil && unix.Statfs("/dev/shm", &st) == nil && st.Bavail*uint64(st.Bsize) > size*unit {
		return "/dev/shm"
	}
	return os.TempDir()
}

// runGroup starts cmd (its own session) and returns when it and every process it
// started are gone. User-mode Linux leaves helper processes behind when killed.
// The guard, a shell that waits for the end of this process, covers our own death
// and removes dir then.
func runGroup(ctx context.Context, cmd *exec.Cmd, dir string) error {
	// Pdeathsig follows the thread that started the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The child inherits the processors of this thread.
	own, all, release, ok := ownCPU()
	defer release()
	if ok {
		_ = unix.SchedSetaffinity(0, &own)
	}
	err := cmd.Start()
	if ok {
		_ = unix.SchedSetaffinity(0, &all)
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", kernel, err)
	}
	pgid := cmd.Process.Pid
	// Ahead of compilers and other tests: a starved guest misses its timers. With
	// autogroups it is the session that counts. Without the privilege, or the file,
	// it stays as it is.
	_ = unix.Setpriority(unix.PRIO_PGRP, pgid, -10)
	_ = os.WriteFile("/proc/"+strconv.Itoa(pgid)+"/autogroup", []byte("-10"), 0o644)
	guard := exec.Command("/bin/sh", "-c", "read x; kill -9 -$1; rm -rf \"$2\"", "sh", strconv.Itoa(pgid), dir)
	guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	alive, gerr := guard.StdinPipe()
	if gerr == nil {
		gerr = guard.Start()
	}
	if gerr != nil {
		ctx, cancel := context.WithCancelCause(ctx)
		cancel(gerr)
		waitGroup(ctx, cmd, pgid)
		return fmt.Errorf("start guard of guest: %w", gerr)
	}
	err = waitGroup(ctx, cmd, pgid)
	_ = guard.Process.Kill()
	_ = alive.Close()
	_ = guard.Wait()
	return err
}

func waitGroup(ctx context.Context, cmd *exec.Cmd, pgid int) error {
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-pgid, syscall.SIGKILL) })
	defer stop()
	// WaitDelay: helpers that survive hold the output pipe open.
	cmd.WaitDelay = 2 * time.Second
	_, err := waitPid(cmd.Process.Pid)
	_ = syscall.Kill(-pgid, syscall.SIGKILL)
	if werr := cmd.Wait(); err == nil {
		err = werr
	}
	return err
}

// waitPid waits until pid ended, leaving it to be reaped, so that its number (and
// so its process group's) cannot be reused meanwhile.
func waitPid(pid int) (unix.Siginfo, error) {
	for {
		var si unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &si, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return si, err
		}
	}
}

// runSelf runs this test binary in the guest.
func runSelf() (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	o := Options{Timeout: 15 * time.Minute}
	// The guest's own -test.timeout comes first and prints stacks.
	if f := flag.Lookup("test.timeout"); f != nil {
		if d, err := time.ParseDuration(f.Value.String()); err == nil && d > 0 {
			o.Timeout = d + 30*time.Second
		}
	}
	return Run(ctx, o)
}

// consoleWriter passes on what lies between the two marks, without the carriage
// returns of the terminal, and keeps the rest for error messages.
type consoleWriter struct {
	w     io.Writer
	begun bool
	begin chan struct{} // closed when the payload's output begins; may be nil
	ended bool
	buf   []byte // not yet decided
	noise []byte // the kernel's own words
	err   error
}

const noiseMax = 2048

// Write never fails: an error of the reader must not stop the guest's console.
func (c *consoleWriter) Write(p []byte) (int, error) {
	for _, b := range p {
		if b != '\r' {
			c.buf = append(c.buf, b)
		}
	}
	c.advance(false)
	return len(p), nil
}

func (c *consoleWriter) advance(final bool) {
	if !c.begun {
		i := bytes.Index(c.buf, []byte(beginMark))
		if i < 0 {
			c.keepNoise(final, len(beginMark))
			return
		}
		c.keep(c.buf[:i])
		c.buf, c.begun = c.buf[i+len(beginMark):], true
		if c.begin != nil {
			close(c.begin)
		}
	}
	if !c.ended {
		i := bytes.Index(c.buf, []byte(endMark))
		n := i
		if i < 0 {
			n = len(c.buf)
			if !final {
				n = safeLen(c.buf, endMark)
			}
		}
		if n > 0 && c.err == nil {
			_, c.err = c.w.Write(c.buf[:n])
		}
		c.keep(c.buf[:n])
		c.buf = c.buf[n:]
		if i < 0 {
			return
		}
		c.buf, c.ended = c.buf[len(endMark):], true
	}
	c.keepNoise(final, 0)
}

// safeLen returns how much of b cannot be the beginning of mark.
func safeLen(b []byte, mark string) int {
	for n := min(len(mark)-1, len(b)); n > 0; n-- {
		if strings.HasPrefix(mark, string(b[len(b)-n:])) {
			return len(b) - n
		}
	}
	return len(b)
}

func (c *consoleWriter) keepNoise(final bool, hold int) {
	n := len(c.buf)
	if !final {
		n = max(0, n-hold)
	}
	c.keep(c.buf[:n])
	c.buf = c.buf[n:]
}

func (c *consoleWriter) keep(b []byte) {
	c.noise = append(c.noise, b...)
	if n := len(c.noise) - noiseMax; n > 0 {
		c.noise = c.noise[n:]
	}
}

func (c *consoleWriter) flush() error {
	c.advance(true)
	return c.err
}

func (c *consoleWriter) tail() string { return string(c.noise) }
