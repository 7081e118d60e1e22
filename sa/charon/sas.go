package charon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/strongswan/govici/vici"
)

// IKESA is an IKE_SA as charon lists it.
type IKESA struct {
	Name          string // of the connection
	UniqueID      uint32
	State         string // ESTABLISHED, PASSIVE, REKEYING, CONNECTING ...
	ID            sa.IKEID
	Initiator     bool // this gateway initiated it
	Local, Remote netip.AddrPort
	LocalID       string
	RemoteID      string // IKE identity
	RemoteEAPID   string // EAP identity, if any
	LocalVIPs     []netip.Addr
	RemoteVIPs    []netip.Addr // inner addresses of the client

	TasksQueued, TasksActive, TasksPassive []string

	NATLocal, NATRemote, NATAny bool

	Encr, Integ, PRF, DH string
	EncrBits             int

	Established, Rekey, Reauth time.Duration // since, until, until; 0 if not scheduled

	Children []ChildSA
}

// ChildSA is a CHILD_SA as charon lists it.
type ChildSA struct {
	Name     string // of the child configuration
	UniqueID uint32
	ReqID    uint32
	State    string // INSTALLED, REKEYING, REKEYED ...
	Mode     string // TUNNEL, TRANSPORT ...
	Protocol string // ESP, AH
	In, Out  sa.SPI
	Encap    bool // UDP-encapsulated
	ESN      bool

	Encr, Integ, DH string
	EncrBits        int

	BytesIn, PacketsIn, BytesOut, PacketsOut uint64

	Installed, Rekey, Life time.Duration // since, until, until; 0 if not scheduled

	LocalTS, RemoteTS []string
}

// Active reports whether charon has an exchange of its own under way or queued.
func (s IKESA) Active() bool { return len(s.TasksActive)+len(s.TasksQueued) > 0 }

// ListSAs returns all IKE_SAs with their children. Without blocking, an IKE_SA
// that is busy at that moment is missing from the answer.
func (v *Vici) ListSAs(ctx context.Context, blocking bool) ([]IKESA, error) {
	return v.listSAs(ctx, blocking)
}

// FindSA returns the IKE_SA of the given unique id.
func (v *Vici) FindSA(ctx context.Context, id uint32) (IKESA, error) {
	l, err := v.listSAs(ctx, true, "ike-id", int64(id))
	if err == nil && len(l) == 0 {
		err = fmt.Errorf("find IKE_SA %d: %w", id, ErrNoSA)
	}
	if err != nil {
		return IKESA{}, err
	}
	return l[0], nil
}

// ErrNoSA means that charon has no such IKE_SA.
var ErrNoSA = errors.New("no such IKE_SA")

func (v *Vici) listSAs(ctx context.Context, blocking bool, filter ...any) ([]IKESA, error) {
	if !blocking {
		filter = append(filter, "noblock", true)
	}
	ms, err := v.Stream(ctx, "list-sas", "list-sa", message(filter...))
	if err != nil {
		return nil, err
	}
	out := make([]IKESA, 0, len(ms))
	for _, m := range ms {
		s, err := firstIKE(m)
		if err != nil {
			return nil, fmt.Errorf("vici list-sas: %w", err)
		}
		out = append(out, s)
	}
	return out, nil
}

// firstIKE reads the one section of m that is an IKE_SA; its key is the name of
// the connection.
func firstIKE(m *vici.Message) (IKESA, error) {
	for _, k := range m.Keys() {
		if s := section(m, k); s != nil {
			return parseIKE(k, s)
		}
	}
	return IKESA{}, errors.New("message without IKE_SA")
}

func parseIKE(name string, m *vici.Message) (IKESA, error) {
	r := reader{m: m}
	s := IKESA{
		Name: name, UniqueID: uint32(r.uint("uniqueid", 32)), State: r.str("state"),
		ID:        sa.IKEID{Initiator: sa.IKESPI(r.hex("initiator-spi")), Responder: sa.IKESPI(r.hex("responder-spi"))},
		Initiator: r.yes("initiator"),
		Local:     r.endpoint("local"), Remote: r.endpoint("remote"),
		LocalID: r.str("local-id"), RemoteID: r.str("remote-id"), RemoteEAPID: r.str("remote-eap-id"),
		LocalVIPs: r.addrs("local-vips"), RemoteVIPs: r.addrs("remote-vips"),
		TasksQueued: list(m, "tasks-queued"), TasksActive: list(m, "tasks-active"), TasksPassive: list(m, "tasks-passive"),
		NATLocal: r.yes("nat-local"), NATRemote: r.yes("nat-remote"), NATAny: r.yes("nat-any"),
		Encr: r.str("encr-alg"), EncrBits: int(r.uint("encr-keysize", 16)), Integ: r.str("integ-alg"), PRF: r.str("prf-alg"), DH: r.str("dh-group"),
		Established: r.seconds("established"), Rekey: r.seconds("rekey-time"), Reauth: r.seconds("reauth-time"),
	}
	if kids := section(m, "child-sas"); kids != nil {
		for _, k := range kids.Keys() {
			kid := section(kids, k)
			if kid == nil || section(kid, "old") != nil { // the latter: child-rekey events
				continue
			}
			c, err := parseChild(kid)
			if err != nil {
				return IKESA{}, fmt.Errorf("IKE_SA %s: %w", name, err)
			}
			s.Children = append(s.Children, c)
		}
	}
	if r.err != nil {
		return IKESA{}, fmt.Errorf("IKE_SA %s: %w", name, r.err)
	}
	return s, nil
}

func parseChild(m *vici.Message) (ChildSA, error) {
	r := reader{m: m}
	c := ChildSA{
		Name: r.str("name"), UniqueID: uint32(r.uint("uniqueid", 32)), ReqID: uint32(r.uint("reqid", 32)),
		State: r.str("state"), Mode: r.str("mode"), Protocol: r.str("protocol"),
		In: sa.SPI(r.hex("spi-in")), Out: sa.SPI(r.hex("spi-out")),
		Encap: r.yes("encap"), ESN: r.str("esn") == "1",
		Encr: r.str("encr-alg"), EncrBits: int(r.uint("encr-keysize", 16)), Integ: r.str("integ-alg"), DH: r.str("dh-group"),
		BytesIn: r.uint("bytes-in", 64), PacketsIn: r.uint("packets-in", 64),
		BytesOut: r.uint("bytes-out", 64), PacketsOut: r.uint("packets-out", 64),
		Installed: r.seconds("install-time"), Rekey: r.seconds("rekey-time"), Life: r.seconds("life-time"),
		LocalTS: list(m, "local-ts"), RemoteTS: list(m, "remote-ts"),
	}
	if r.err != nil {
		return ChildSA{}, fmt.Errorf("CHILD_SA %s: %w", c.Name, r.err)
	}
	return c, nil
}

// reader reads typed values and remembers the first error. Missing keys are zero.
type reader struct {
	m   *vici.Message
	err error
}

func (r *reader) fail(key, val string) {
	if r.err == nil {
		r.err = fmt.Errorf("field %s has value %q", key, val)
	}
}

func (r *reader) str(key string) string { return str(r.m, key) }
func (r *reader) yes(key string) bool   { return str(r.m, key) == "yes" }

func (r *reader) number(key string, base, bits int) uint64 {
	s := r.str(key)
	if s == "" {
		return 0
	}
	n, err := strconv.ParseUint(s, base, bits)
	if err != nil {
		r.fail(key, s)
	}
	return n
}

func (r *reader) uint(key string, bits int) uint64 { return r.number(key, 10, bits) }
func (r *reader) hex(key string) uint64            { return r.number(key, 16, 64) }

// seconds reads a time; charon prints negative ones for what is overdue.
func (r *reader) seconds(key string) time.Duration {
	s := r.str(key)
	if s == "" {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		r.fail(key, s)
	}
	return time.Duration(n) * time.Second
}

func (r *reader) addr(key, s string) netip.Addr {
	if s == "" || s == "%any" || s == "%any6" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		r.fail(key, s)
	}
	return a
}

func (r *reader) endpoint(side string) netip.AddrPort {
	return netip.AddrPortFrom(r.addr(side+"-host", r.str(side+"-host")), uint16(r.uint(side+"-port", 16)))
}

func (r *reader) addrs(key string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list(r.m, key) {
		out = append(out, r.addr(key, s))
	}
	return out
}

func str(m *vici.Message, key string) string {
	if m == nil {
		return ""
	}
	s, _ := m.Get(key).(string)
	return s
}

func list(m *vici.Message, key string) []string {
	if m == nil {
		return nil
	}
	l, _ := m.Get(key).([]string)
	return l
}

func section(m *vici.Message, key string) *vici.Message {
	if m == nil {
		return nil
	}
	s, _ := m.Get(key).(*vici.Message)
	return s
}

func num(m *vici.Message, key string) int {
	n, _ := strconv.Atoi(str(m, key))
	return n
}
