package replica

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	peerv1 "github.com/shadowcast/shadowcast/api/peer/v1"
	"github.com/shadowcast/shadowcast/sa"
)

const (
	// MaxNewcomers bounds the list of one announcement.
	MaxNewcomers = 1024
	// NewcomerAhead is how far the clocks of two appliances may be apart, NewcomerAge
	// how old an announcement may be, both measured by the receiver.
	NewcomerAhead = time.Minute
	NewcomerAge   = 10 * time.Minute
)

// Unique is what a connection says about a second session of a client.
type Unique uint8

// The policies that reach beyond a slot.
const (
	UniqueReplace Unique = iota + 1 // it ends the first
	UniqueKeep                      // it is ended
)

func (u Unique) String() string {
	return map[Unique]string{UniqueReplace: "replace", UniqueKeep: "keep"}[u]
}

// Newcomer is a new session of a client that may have one only.
type Newcomer struct {
	Identity    Hash // keyed, of the client's address family and identity
	Source      Hash // keyed, of its address and port
	Policy      Unique
	Slot        sa.Slot
	ID          string    // of the session
	Established time.Time // by its owner's clock; microseconds count
}

// Before reports whether n is older than m. Both owners decide by it, so it never says
// the same of n and m and of m and n.
func (n Newcomer) Before(m Newcomer) bool {
	return cmp.Or(cmp.Compare(n.Established.UnixMicro(), m.Established.UnixMicro()), cmp.Compare(n.Slot, m.Slot), cmp.Compare(n.ID, m.ID)) < 0
}

// Incumbent is an older session that stays, so that the newcomer must go.
type Incumbent struct {
	Newcomer string // session
	Slot     sa.Slot
	ID       string
}

// AnnouncerConfig is what an owner needs to tell another appliance of new sessions.
type AnnouncerConfig struct {
	Self            string
	TLS             func(to string) *tls.Config
	PeerName        PeerNameFunc                                  // nil: the only DNS name
	HandshakeFailed func(to string, source netip.Addr, err error) // nil: nobody is told
}

// Announcer tells one other appliance. One goroutine may use it.
type Announcer struct {
	cfg  AnnouncerConfig
	to   Shadow
	conn *grpc.ClientConn // nil: none
}

// NewAnnouncer connects to nobody yet.
func NewAnnouncer(cfg AnnouncerConfig, to Shadow) *Announcer {
	if cfg.PeerName == nil {
		cfg.PeerName = dnsName
	}
	return &Announcer{cfg: cfg, to: to}
}

// Announce tells of ns, at most MaxNewcomers, and returns the incumbents that exclude
// some of them. After an error the next call connects anew.
func (x *Announcer) Announce(ctx context.Context, ns []Newcomer) (out []Incumbent, err error) {
	defer func() {
		if err != nil {
			x.Close()
			err = fmt.Errorf("announce %d sessions to %s: %w", len(ns), x.to.Name, err)
		}
	}()
	if x.conn == nil {
		var failed func(netip.Addr, error)
		if x.cfg.HandshakeFailed != nil {
			failed = func(source netip.Addr, err error) { x.cfg.HandshakeFailed(x.to.Name, source, err) }
		}
		if x.conn, err = DialWatched(x.to.Name, x.to.Addr, x.cfg.TLS(x.to.Name), failed); err != nil {
			return nil, err
		}
	}
	req := &peerv1.AnnounceRequest{Owner: x.cfg.Self}
	sent := map[string]bool{}
	for _, n := range ns {
		sent[n.ID] = true
		req.Newcomers = append(req.Newcomers, &peerv1.Newcomer{Identity: n.Identity[:], Source: n.Source[:], Policy: peerv1.Unique(n.Policy),
			Slot: uint32(n.Slot), Id: n.ID, EstablishedMicros: uint64(n.Established.UnixMicro())})
	}
	var by peer.Peer
	rep, err := peerv1.NewReplicaClient(x.conn).Announce(ctx, req, grpc.Peer(&by))
	if err != nil {
		return nil, err
	}
	name, err := NameOf(peer.NewContext(ctx, &by), x.cfg.PeerName)
	if err != nil || name != x.to.Name {
		return nil, fmt.Errorf("certificate names %q, want %q: %w", name, x.to.Name, errors.Join(err, errWrongName))
	}
	for _, i := range rep.GetIncumbents() {
		switch {
		case !sent[i.GetNewcomer()]:
			return nil, fmt.Errorf("answer is about session %.80q, or twice", i.GetNewcomer())
		case i.GetSlot() > uint32(sa.MaxSlot) || !sa.Slot(i.GetSlot()).Valid():
			return nil, fmt.Errorf("answer names slot %d, which is out of range", i.GetSlot())
		}
		if err := checkID(i.GetId()); err != nil {
			return nil, err
		}
		sent[i.Newcomer] = false
		out = append(out, Incumbent{Newcomer: i.Newcomer, Slot: sa.Slot(i.Slot), ID: i.Id})
	}
	return out, nil
}

// Close ends the connection; Announce makes another.
func (x *Announcer) Close() {
	if x.conn != nil {
		_ = x.conn.Close() // only reports that it is closed
		x.conn = nil
	}
}

// Announce hears of other owners' new sessions.
func (r *Receiver) Announce(ctx context.Context, req *peerv1.AnnounceRequest) (*peerv1.AnnounceReply, error) {
	if r.cfg.Newcomers == nil {
		return nil, status.Error(codes.Unimplemented, "sessions are not announced here")
	}
	if err := checkName(req.GetOwner()); err != nil {
		return nil, r.refuse(ctx, KindGreeting, status.Errorf(codes.InvalidArgument, "read announcement: %v", err))
	}
	if err := r.certified(ctx, req.Owner); err != nil {
		return nil, r.refuse(ctx, KindName, err)
	}
	if n := len(req.GetNewcomers()); n > MaxNewcomers {
		return nil, r.refuse(ctx, KindOversized, status.Errorf(codes.InvalidArgument, "announcement of %d sessions, at most %d fit", n, MaxNewcomers))
	}
	now := time.Now()
	ns := make([]Newcomer, 0, len(req.GetNewcomers()))
	for _, m := range req.GetNewcomers() {
		n, err := readNewcomer(m, now)
		if err == nil && r.cfg.KnownSlot != nil && !r.cfg.KnownSlot(n.Slot) {
			err = kindError{KindUnknownSlot, fmt.Errorf("session %.80q: the fleet has no slot %d", n.ID, n.Slot)}
		}
		if err != nil {
			return nil, r.refuse(ctx, kindOf(err), status.Errorf(codes.InvalidArgument, "read announcement: %v", err))
		}
		ns = append(ns, n)
	}
	rep := &peerv1.AnnounceReply{}
	for _, i := range r.cfg.Newcomers(ctx, req.Owner, ns) {
		rep.Incumbents = append(rep.Incumbents, &peerv1.Incumbent{Newcomer: i.Newcomer, Slot: uint32(i.Slot), Id: i.ID})
	}
	return rep, nil
}

// readNewcomer checks what a peer says of one session; its errors know their kind.
func readNewcomer(m *peerv1.Newcomer, now time.Time) (Newcomer, error) {
	n := Newcomer{Policy: Unique(m.GetPolicy()), ID: m.GetId()}
	bad := func(kind, format string, a ...any) (Newcomer, error) {
		return Newcomer{}, kindError{kind, fmt.Errorf(format, a...)}
	}
	if err := checkID(n.ID); err != nil {
		return bad(KindMalformed, "%w", err)
	}
	if len(m.GetIdentity()) != len(Hash{}) || len(m.GetSource()) != len(Hash{}) {
		return bad(KindMalformed, "session %.80q: hashes have %d and %d octets, want %d", n.ID, len(m.GetIdentity()), len(m.GetSource()), len(Hash{}))
	}
	n.Identity, n.Source = Hash(m.Identity), Hash(m.Source)
	if m.GetPolicy() != peerv1.Unique_UNIQUE_REPLACE && m.GetPolicy() != peerv1.Unique_UNIQUE_KEEP {
		return bad(KindMalformed, "session %.80q: policy %d is neither replace nor keep", n.ID, m.GetPolicy())
	}
	if m.GetSlot() > uint32(sa.MaxSlot) || !sa.Slot(m.GetSlot()).Valid() {
		return bad(KindUnknownSlot, "session %.80q: slot %d is out of range", n.ID, m.GetSlot())
	}
	n.Slot = sa.Slot(m.Slot)
	// Compared as numbers first: the difference of times far apart is no duration.
	at := m.GetEstablishedMicros()
	if latest := now.Add(NewcomerAhead); at > uint64(latest.UnixMicro()) {
		return bad(KindClock, "session %.80q is established in the future: %d us after 1970, here it is %d", n.ID, at, now.UnixMicro())
	}
	if earliest := now.Add(-NewcomerAge); at < uint64(earliest.UnixMicro()) {
		return bad(KindClock, "session %.80q was established more than %s ago: %d us after 1970, here it is %d", n.ID, NewcomerAge, at, now.UnixMicro())
	}
	n.Established = time.UnixMicro(int64(at))
	return n, nil
}
