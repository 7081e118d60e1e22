package charon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/strongswan/govici/vici"
	"golang.org/x/sys/unix"
)

// Vici is a client of one charon's vici socket. Commands go over one connection,
// one at a time, dialled when first needed and again after it broke; Events uses
// connections of its own. Methods may be called from any goroutine.
type Vici struct {
	path string

	mu  chan struct{} // a mutex that can be waited for with a context
	cmd *viciConn
}

// ErrRefused marks answers in which charon says that a command failed, as
// opposed to a connection that broke.
var ErrRefused = errors.New("charon refused")

// NewVici returns a client of the socket at path; it does not connect yet.
func NewVici(path string) *Vici {
	v := &Vici{path: path, mu: make(chan struct{}, 1)}
	return v
}

// Close closes the command connection. A later command dials again.
func (v *Vici) Close() error {
	v.mu <- struct{}{}
	defer func() { <-v.mu }()
	v.drop()
	return nil
}

func (v *Vici) drop() {
	if v.cmd != nil {
		v.cmd.close()
		v.cmd = nil
	}
}

// Call sends a command and returns its answer. A context without deadline waits
// for ever; when the context ends, the connection is closed and the outcome of
// the command is unknown.
func (v *Vici) Call(ctx context.Context, cmd string, in *vici.Message) (*vici.Message, error) {
	var out *vici.Message
	err := v.do(ctx, cmd, func(s *vici.Session) (err error) {
		out, err = s.CommandRequest(cmd, in)
		if out != nil && err != nil {
			err = refusal(out)
		}
		return err
	})
	return out, err
}

// Stream sends a command whose answer comes as events of the given name.
func (v *Vici) Stream(ctx context.Context, cmd, event string, in *vici.Message) ([]*vici.Message, error) {
	var out []*vici.Message
	err := v.do(ctx, cmd, func(s *vici.Session) (err error) {
		out, err = s.StreamedCommandRequest(cmd, event, in)
		if err != nil {
			return err
		}
		last := out[len(out)-1] // the answer that ends the stream
		out = out[:len(out)-1]
		if last.Err() != nil {
			return refusal(last)
		}
		return nil
	})
	return out, err
}

func refusal(m *vici.Message) error {
	if msg := str(m, "errmsg"); msg != "" {
		return fmt.Errorf("%w: %s", ErrRefused, msg)
	}
	return ErrRefused
}

func (v *Vici) do(ctx context.Context, cmd string, f func(*vici.Session) error) error {
	select {
	case v.mu <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("vici %s: %w", cmd, ctx.Err())
	}
	defer func() { <-v.mu }()
	if v.cmd == nil {
		c, err := dialVici(ctx, v.path)
		if err != nil {
			return fmt.Errorf("vici %s: %w", cmd, err)
		}
		v.cmd = c
	}
	stop := context.AfterFunc(ctx, v.cmd.interrupt)
	err := f(v.cmd.session)
	stopped := stop()
	if err != nil && !errors.Is(err, ErrRefused) {
		v.drop()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
	} else if !stopped {
		v.drop() // interrupted just as the answer came
	}
	if err != nil {
		return fmt.Errorf("vici %s: %w", cmd, err)
	}
	return nil
}

// viciConn is a govici session whose connections can be interrupted: the session
// knows no contexts.
type viciConn struct {
	session *vici.Session
	mu      sync.Mutex
	conns   []net.Conn
}

func dialVici(ctx context.Context, path string) (*viciConn, error) {
	c := &viciConn{}
	var d net.Dialer
	s, err := vici.NewSession(vici.WithAddr("unix", path), vici.WithDialContext(
		func(_ context.Context, network, addr string) (net.Conn, error) {
			for {
				conn, err := d.DialContext(ctx, network, addr)
				if err == nil {
					c.conns = append(c.conns, conn)
					return conn, nil
				}
				// A charon that has just started, or is very busy, has a full backlog.
				if !errors.Is(err, unix.EAGAIN) {
					return nil, err
				}
				select {
				case <-ctx.Done():
					return nil, fmt.Errorf("%w: %w", err, ctx.Err())
				case <-time.After(10 * time.Millisecond):
				}
			}
		}))
	if err != nil {
		c.interrupt()
		return nil, err
	}
	c.session = s
	return c, nil
}

// interrupt closes the connections under the session, so that whatever waits on
// them returns.
func (c *viciConn) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

// close ends the session. The connections go first: the session's own Close
// would talk to charon and might wait for ever.
func (c *viciConn) close() {
	c.interrupt()
	_ = c.session.Close()
}

// message builds a vici message from key, value pairs; values are string, bool,
// integers, []string and *vici.Message. Empty strings and lists are left out.
func message(kv ...any) *vici.Message {
	m := vici.NewMessage()
	for i := 0; i+1 < len(kv); i += 2 {
		switch val := kv[i+1].(type) {
		case string:
			if val == "" {
				continue
			}
		case []string:
			if len(val) == 0 {
				continue
			}
		}
		if err := m.Set(kv[i].(string), kv[i+1]); err != nil {
			panic(fmt.Sprintf("build vici message: key %v: %v", kv[i], err)) // a programming error: fixed types only
		}
	}
	return m
}

// Version returns charon's release, e.g. "5.9.8".
func (v *Vici) Version(ctx context.Context) (string, error) {
	m, err := v.Call(ctx, "version", nil)
	if err != nil {
		return "", err
	}
	return str(m, "version"), nil
}

// ViciStats are figures of one charon.
type ViciStats struct {
	Since                     time.Time // start, in charon's time zone
	IKESAs, HalfOpen          int
	WorkersTotal, WorkersIdle int
	Queued                    int // jobs waiting, all priorities
	Scheduled                 int // jobs waiting for their time
	Plugins                   []string
}

// Stats reads charon's statistics.
func (v *Vici) Stats(ctx context.Context) (ViciStats, error) {
	m, err := v.Call(ctx, "stats", nil)
	if err != nil {
		return ViciStats{}, err
	}
	ikesas, workers, queues := section(m, "ikesas"), section(m, "workers"), section(m, "queues")
	s := ViciStats{
		IKESAs: num(ikesas, "total"), HalfOpen: num(ikesas, "half-open"),
		WorkersTotal: num(workers, "total"), WorkersIdle: num(workers, "idle"),
		Scheduled: num(m, "scheduled"), Plugins: list(m, "plugins"),
	}
	s.Since, _ = time.ParseInLocation("Jan _2 15:04:05 2006", str(section(m, "uptime"), "since"), time.Local)
	for _, p := range []string{"critical", "high", "medium", "low"} {
		s.Queued += num(queues, p)
	}
	return s, nil
}

// Initiate brings up a child of a connection and waits for it; child "" brings
// up the IKE_SA alone.
func (v *Vici) Initiate(ctx context.Context, ike, child string, timeout time.Duration) error {
	_, err := v.Stream(ctx, "initiate", "control-log", message("ike", ike, "child", child, "timeout", timeout.Milliseconds()))
	return err
}

// Target selects SAs for Terminate, Rekey and Redirect: by unique id, or by name
// of the connection or child where the id is 0.
type Target struct {
	ID   uint32
	Name string
}

func (t Target) message(name, id string) ([]any, error) {
	switch {
	case t.ID != 0:
		return []any{id, int64(t.ID)}, nil
	case t.Name != "":
		return []any{name, t.Name}, nil
	}
	return nil, errors.New("neither id nor name given")
}

// TerminateIKE deletes IKE_SAs with their children. force does not wait for the
// peer's answer; a timeout below 0 does not wait at all.
func (v *Vici) TerminateIKE(ctx context.Context, t Target, force bool, timeout time.Duration) error {
	return v.terminate(ctx, t, "ike", "ike-id", force, timeout)
}

// TerminateChild deletes CHILD_SAs.
func (v *Vici) TerminateChild(ctx context.Context, t Target, timeout time.Duration) error {
	return v.terminate(ctx, t, "child", "child-id", false, timeout)
}

func (v *Vici) terminate(ctx context.Context, t Target, name, id string, force bool, timeout time.Duration) error {
	kv, err := t.message(name, id)
	if err != nil {
		return fmt.Errorf("vici terminate: %w", err)
	}
	ms := timeout.Milliseconds()
	if timeout < 0 {
		ms = -1
	}
	kv = append(kv, "timeout", ms)
	if force {
		kv = append(kv, "force", true)
	}
	_, err = v.Stream(ctx, "terminate", "control-log", message(kv...))
	return err
}

// RekeyIKE starts a rekey of IKE_SAs and returns how many matched; it does not
// wait for the exchange.
func (v *Vici) RekeyIKE(ctx context.Context, t Target) (int, error) {
	return v.count(ctx, "rekey", t, "ike", "ike-id")
}

// ReauthIKE starts a reauthentication of IKE_SAs and returns how many matched.
func (v *Vici) ReauthIKE(ctx context.Context, t Target) (int, error) {
	return v.count(ctx, "rekey", t, "ike", "ike-id", "reauth", true)
}

// RekeyChild starts a rekey of CHILD_SAs and returns how many matched.
func (v *Vici) RekeyChild(ctx context.Context, t Target) (int, error) {
	return v.count(ctx, "rekey", t, "child", "child-id")
}

// Redirect tells clients to go to gateway, an address or name (RFC 5685), and
// returns how many IKE_SAs matched.
func (v *Vici) Redirect(ctx context.Context, t Target, gateway string) (int, error) {
	return v.count(ctx, "redirect", t, "ike", "ike-id", "gateway", gateway)
}

func (v *Vici) count(ctx context.Context, cmd string, t Target, name, id string, extra ...any) (int, error) {
	kv, err := t.message(name, id)
	if err != nil {
		return 0, fmt.Errorf("vici %s: %w", cmd, err)
	}
	m, err := v.Call(ctx, cmd, message(append(kv, extra...)...))
	if err != nil {
		return 0, err
	}
	return num(m, "matches"), nil
}
