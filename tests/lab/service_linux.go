package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// service is a unit that a machine runs as its file says; see unitFile.confine for what
// is left out.
type service struct {
	name   string
	m      *machine
	unit   unitFile
	proc   *Proc
	notify *net.UnixConn
	ready  atomic.Int32 // READY=1 so far
	pulses atomic.Int32 // WATCHDOG=1 so far
}

// systemctl does what the command would on a machine with systemd: enabling is
// systemd's own work, running is the lab's. It knows enable and disable with --now,
// start, stop, restart, reload.
func (m *machine) systemctl(ctx context.Context, args []string) (string, error) {
	var units []string
	verb, now := "", false
	for _, a := range args {
		switch {
		case a == "--now":
			now = true
		case strings.HasPrefix(a, "-"):
			return "", fmt.Errorf("systemctl %s: the lab does not know %s", strings.Join(args, " "), a)
		case verb == "":
			verb = a
		default:
			units = append(units, strings.TrimSuffix(a, ".service"))
		}
	}
	said := ""
	if verb == "enable" || verb == "disable" {
		var err error
		if said, err = m.run(ctx, []string{"SYSTEMD_OFFLINE=1"}, append([]string{"/usr/bin/systemctl", "--root=/", verb}, units...)...); err != nil || !now {
			return said, err
		}
		verb = map[string]string{"enable": "start", "disable": "stop"}[verb]
	}
	for _, u := range units {
		var err error
		switch verb {
		case "start":
			err = m.startService(ctx, u)
		case "stop":
			err = m.stopService(ctx, u)
		case "restart":
			if err = m.stopService(ctx, u); err == nil {
				err = m.startService(ctx, u)
			}
		case "reload":
			err = m.reloadService(ctx, u)
		default:
			err = fmt.Errorf("systemctl %s: the lab does not know it", verb)
		}
		if err != nil {
			return said, err
		}
	}
	return said, nil
}

// unitFile reads a unit of the machine.
func (m *machine) unitFile(name string) (unitFile, error) {
	b, err := os.ReadFile(m.path("/usr/lib/systemd/system/" + name + ".service"))
	if err != nil {
		return nil, fmt.Errorf("find unit %s on %s: %w", name, m.name, err)
	}
	u, err := parseUnit(string(b))
	if err != nil {
		return nil, fmt.Errorf("read unit %s: %w", name, err)
	}
	return u, nil
}

// running is the service of that name, nil where it does not run.
func (m *machine) running(name string) *service {
	if s := m.services[name]; s != nil && s.proc != nil && s.proc.Alive() {
		return s
	}
	return nil
}

func (m *machine) startService(ctx context.Context, name string) error {
	if m.running(name) != nil {
		return nil
	}
	u, err := m.unitFile(name)
	if err != nil {
		return err
	}
	for _, r := range u.list("Unit.Requires") {
		if r, ok := strings.CutSuffix(r, ".service"); ok {
			if err := m.startService(ctx, r); err != nil {
				return err
			}
		}
	}
	for _, p := range u.list("Unit.ConditionPathExists") {
		if _, err := os.Stat(m.path(p)); err != nil {
			return fmt.Errorf("start %s on %s: its condition is not met: %w", name, m.name, err)
		}
	}
	if err := m.serviceDirectories(u); err != nil {
		return err
	}
	if old := m.services[name]; old != nil {
		old.close()
	}
	s := &service{name: name, m: m, unit: u}
	m.services[name] = s
	if err := s.all(ctx, "ExecStartPre"); err != nil {
		return err
	}
	if u.one("Service.Type", "simple") == "oneshot" {
		return s.all(ctx, "ExecStart")
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	return s.all(ctx, "ExecStartPost")
}

// serviceDirectories makes what RuntimeDirectory and the like name.
func (m *machine) serviceDirectories(u unitFile) error {
	for key, parent := range map[string]string{"Runtime": "/run", "State": "/var/lib", "Configuration": "/etc"} {
		mode, err := strconv.ParseUint(u.one("Service."+key+"DirectoryMode", "0755"), 8, 32)
		if err != nil {
			return fmt.Errorf("read %sDirectoryMode: %w", key, err)
		}
		for _, d := range u.list("Service." + key + "Directory") {
			at := m.path(filepath.Join(parent, d))
			if err := errors.Join(os.MkdirAll(at, 0o755), os.Chmod(at, os.FileMode(mode))); err != nil {
				return fmt.Errorf("make directory of a unit on %s: %w", m.name, err)
			}
		}
	}
	return nil
}

// command is argv as the unit has it carried out on the machine.
func (s *service) command(argv []string) ([]string, error) {
	confined, err := s.unit.confine()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	sh := []string{"/bin/sh", "-c", `umask "$0"; exec "$@"`, s.unit.one("Service.UMask", "0022")}
	return append(append(sh, confined...), argv...), nil
}

// all carries out the lines of ExecStartPre and the like.
func (s *service) all(ctx context.Context, key string) error {
	pid := ""
	if s.proc != nil {
		pid = strconv.Itoa(s.proc.PID())
	}
	lines, err := s.unit.commands("Service."+key, pid)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	for _, l := range lines {
		argv, err := s.command(l.argv)
		if err != nil {
			return err
		}
		if out, err := s.m.run(ctx, nil, argv...); err != nil && !l.may {
			return fmt.Errorf("%s of %s: %w", key, s.name, err)
		} else if err := s.log(out); err != nil {
			return err
		}
	}
	return nil
}

// logFile takes what the unit's programs say, as the journal would.
func (s *service) logFile() string {
	return filepath.Join(s.m.lab.out, s.m.name+"."+s.name+".log")
}

func (s *service) log(text string) error {
	f, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("write log of %s: %w", s.name, err)
	}
	return nil
}

// start starts the main process and waits until it is ready (sd_notify(3)).
func (s *service) start(ctx context.Context) error {
	lines, err := s.unit.commands("Service.ExecStart", "")
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	if len(lines) != 1 {
		return fmt.Errorf("%s has %d lines ExecStart, want one", s.name, len(lines))
	}
	argv, err := s.command(lines[0].argv)
	if err != nil {
		return err
	}
	const dir = "/run/systemd/notify"
	inside := filepath.Join(dir, s.name)
	env := append([]string{"PATH=" + systemPath, "TMPDIR=/tmp", "HOME=/root", "LANG=C.UTF-8", "NOTIFY_SOCKET=" + inside}, s.unit["Service.Environment"]...)
	watchdog, err := unitTime(s.unit.one("Service.WatchdogSec", "0s"))
	if err != nil {
		return fmt.Errorf("%s: WatchdogSec: %w", s.name, err)
	}
	if watchdog > 0 {
		env = append(env, "WATCHDOG_USEC="+strconv.FormatInt(watchdog.Microseconds(), 10))
	}
	if err := os.MkdirAll(s.m.path(dir), 0o755); err != nil {
		return fmt.Errorf("make socket for %s: %w", s.name, err)
	}
	if err := os.Remove(s.m.path(inside)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("make socket for %s: %w", s.name, err)
	}
	if s.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.m.path(inside), Net: "unixgram"}); err != nil {
		return fmt.Errorf("make socket for %s: %w", s.name, err)
	}
	s.m.lab.wg.Go(s.hear)
	if s.proc, err = s.m.lab.start(s.m.ns, s.name+" of "+s.m.name, s.logFile(), env, s.m.enter(argv...)...); err != nil {
		return err
	}
	if s.unit.one("Service.Type", "simple") != "notify" {
		return nil
	}
	return s.waitReady(ctx, 0)
}

// waitReady waits until the main process has said so more than n times.
func (s *service) waitReady(ctx context.Context, n int32) error {
	limit, err := unitTime(s.unit.one("Service.TimeoutStartSec", "90s"))
	if err != nil {
		return fmt.Errorf("%s: TimeoutStartSec: %w", s.name, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not ready within %s", limit))
	defer cancel()
	err = poll(ctx, 5*time.Millisecond, s.name+" of "+s.m.name, func() (bool, error) { return s.ready.Load() > n || !s.proc.Alive(), nil })
	if err == nil && !s.proc.Alive() {
		err = fmt.Errorf("%s of %s ended: %w, see %s", s.name, s.m.name, s.proc.err, s.logFile())
	}
	return err
}

// hear counts what the processes tell until the socket is closed.
func (s *service) hear() {
	b := make([]byte, 4096)
	for {
		n, err := s.notify.Read(b)
		if err != nil {
			return
		}
		for _, line := range strings.Split(string(b[:n]), "\n") {
			switch line {
			case "READY=1":
				s.ready.Add(1)
			case "WATCHDOG=1":
				s.pulses.Add(1)
			}
		}
	}
}

func (s *service) close() {
	if s.notify != nil {
		s.notify.Close()
	}
}

// stopService ends the main process, and nothing else: with KillMode=process that is
// what systemd does.
func (m *machine) stopService(ctx context.Context, name string) error {
	s := m.running(name)
	if s == nil {
		return nil
	}
	limit, err := unitTime(s.unit.one("Service.TimeoutStopSec", "90s"))
	if err != nil {
		return fmt.Errorf("%s: TimeoutStopSec: %w", s.name, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not ended within %s", limit))
	defer cancel()
	err = s.proc.Terminate(ctx)
	s.close()
	return errors.Join(err, s.all(ctx, "ExecStopPost"))
}

// reloadService carries out ExecReload and, where that makes the main process say that
// it is ready again, waits for it.
func (m *machine) reloadService(ctx context.Context, name string) error {
	s := m.running(name)
	if s == nil {
		return fmt.Errorf("reload %s on %s: it does not run", name, m.name)
	}
	before := s.ready.Load()
	if err := s.all(ctx, "ExecReload"); err != nil || s.unit.one("Service.Type", "simple") != "notify" {
		return err
	}
	return s.waitReady(ctx, before)
}
