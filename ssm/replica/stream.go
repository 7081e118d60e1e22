package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"time"

	"google.golang.org/grpc/status"

	peerv1 "github.com/shadowcast/shadowcast/api/peer/v1"
	"github.com/shadowcast/shadowcast/sa"
)

const (
	backoffLeast = 100 * time.Millisecond
	backoffMost  = 5 * time.Second
)

// phase is where the owner's side of a stream stands.
type phase uint8

const (
	phaseDown    phase = iota // no stream
	phaseList                 // an inventory is to be requested
	phaseListing              // it is being received
	phaseStrays               // what the shadow must not have is being deleted
	phaseLive                 // changes in order; also the rest of a snapshot
)

type digestState uint8

const (
	digestUnknown digestState = iota
	digestEqual
	digestDiffers
)

var (
	errRemoved  = errors.New("no longer a shadow of the slot")
	errTicket   = errors.New("the owner took a fresh ticket")
	errGreeting = fmt.Errorf("shadow did not answer the greeting within %v", helloWithin)
)

// shadow is the owner's side of one stream. Everything but the channels is
// guarded by p.mu.
type shadow struct {
	p    *Publisher
	name string
	addr netip.AddrPort

	cursor  *cursor
	wake    chan struct{} // there may be something to send; 1 deep
	gone    chan struct{} // closed by remove
	moved   chan struct{} // closed and replaced when something was acknowledged
	removed bool
	started bool

	phase      phase
	why        string // of phaseDown
	ready      bool   // as last announced
	twinReady  bool
	twinReason string
	lastAck    time.Time
	connects   uint64
	bytes      uint64
	superseded sa.Ticket

	version    uint32    // spoken on this stream
	ticket     sa.Ticket // in the greeting
	begun      bool      // SnapshotBegin was sent
	strays     []string  // to be deleted first
	listed     map[string]Hash
	config     string
	configSent bool
	replayTurn bool // samples go before more changes

	digest   digestState
	number   uint64 // of the last request
	asked    bool   // it is under way
	queued   bool   // it is to be sent next
	askedAt  time.Time
	repaired time.Time
	expect   Digest
	sessions int

	out outbox // used by the sending goroutine alone
}

func (sh *shadow) poke() {
	select {
	case sh.wake <- struct{}{}:
	default:
	}
}

// stir wakes those who wait in Flush.
func (sh *shadow) stir() {
	close(sh.moved)
	sh.moved = make(chan struct{})
}

func (sh *shadow) remove() {
	sh.removed = true
	close(sh.gone)
	sh.stir()
}

// run keeps a stream to the shadow until ctx ends or it is removed.
func (sh *shadow) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	defer func() { cancel(); <-stop }()
	go func() { // ends with run
		defer close(stop)
		select {
		case <-sh.gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	log := sh.p.log.With("peer", sh.name)
	said := ""
	for pause := backoffLeast; ; pause = min(2*pause, backoffMost) {
		greeted, err := sh.session(ctx)
		why := reasonOf(err)
		if ctx.Err() != nil {
			why = "publishing ended"
		}
		sh.down(why)
		if ctx.Err() != nil {
			return
		}
		if greeted {
			pause, said = backoffLeast, ""
		}
		if errors.Is(err, errTicket) {
			continue
		}
		if why != said {
			log.Warn("replication stream failed", "reason", why)
			said = why
		}
		sh.refused(err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(float64(pause) * (.5 + rand.Float64()))):
		}
	}
}

// reasonOf renders the error of a stream in one line.
func reasonOf(err error) string {
	if s, ok := status.FromError(err); ok && err != nil {
		return s.Code().String() + ": " + clip(s.Message())
	}
	return clip(fmt.Sprint(err))
}

func clip(s string) string { return s[:min(len(s), 300)] }

// down marks the stream as ended.
func (sh *shadow) down(why string) {
	sh.p.mu.Lock()
	defer sh.p.mu.Unlock()
	sh.phase, sh.why = phaseDown, why
	sh.p.tell()
	sh.digest, sh.asked, sh.queued, sh.configSent = digestUnknown, false, false, false
	sh.strays, sh.listed, sh.begun = nil, nil, false
	sh.twinReady, sh.twinReason = false, "has not reported"
	sh.cursor.have = nil
}

// refused notes that the shadow knows of a higher ticket.
func (sh *shadow) refused(err error) {
	for _, d := range status.Convert(err).Details() {
		r, ok := d.(*peerv1.Refused)
		if !ok {
			continue
		}
		sh.p.mu.Lock()
		news := sa.Ticket(r.Ticket) > max(sh.superseded, sh.p.ticket)
		if news {
			sh.superseded = sa.Ticket(r.Ticket)
		}
		sh.p.mu.Unlock()
		if news && sh.p.cfg.OnSuperseded != nil {
			sh.p.cfg.OnSuperseded(sh.name, sa.Ticket(r.Ticket), clip(r.Owner))
		}
	}
}

// session is the life of one stream; greeted tells whether the shadow accepted.
func (sh *shadow) session(ctx context.Context) (greeted bool, err error) {
	var failed func(netip.Addr, error)
	if f := sh.p.cfg.HandshakeFailed; f != nil {
		failed = func(source netip.Addr, err error) { f(sh.name, source, err) }
	}
	conn, err := DialWatched(sh.name, sh.addr, sh.p.cfg.TLS(sh.name), failed)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(helloWithin, func() { cancel(errGreeting) })
	defer late.Stop()
	stream, err := peerv1.NewReplicaClient(conn).Shadow(ctx)
	if err == nil {
		err = sh.greet(stream)
	}
	if !late.Stop() {
		return false, errGreeting
	}
	if err != nil {
		return false, err
	}
	done := make(chan struct{})
	go func() { // waited for below
		defer close(done)
		for {
			m, err := stream.Recv()
			if err == nil {
				err = sh.handle(m, time.Now())
			}
			if err != nil {
				cancel(err)
				return
			}
		}
	}()
	err = sh.send(ctx, stream)
	if !errors.Is(err, io.EOF) { // else Recv has the reason
		cancel(err)
	}
	<-done
	return true, context.Cause(ctx)
}

// greet says Hello and decides how to begin.
func (sh *shadow) greet(stream peerv1.Replica_ShadowClient) error {
	cfg := &sh.p.cfg
	sh.p.mu.Lock()
	sh.ticket = sh.p.ticket
	ticket := sh.ticket
	sh.p.mu.Unlock()
	hello := &peerv1.Hello{
		ProtocolVersion: ProtocolVersion, MinProtocolVersion: MinProtocolVersion,
		Slot: uint32(cfg.Slot), Ticket: uint64(ticket), Owner: cfg.Self, Shadow: sh.name,
		Incarnation: cfg.Incarnation, Epoch: sh.p.epoch,
	}
	err := stream.Send(&peerv1.ToShadow{Kind: &peerv1.ToShadow_Hello{Hello: hello}})
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	ack := m.GetHelloAck()
	if ack == nil {
		return errors.New("shadow did not answer the greeting with an acknowledgement")
	}
	if v := ack.ProtocolVersion; v < MinProtocolVersion || v > ProtocolVersion {
		return fmt.Errorf("shadow wants protocol version %d, spoken are %d to %d", v, MinProtocolVersion, ProtocolVersion)
	} else if v < packedSince && cfg.Legacy == nil {
		return fmt.Errorf("shadow speaks protocol version %d, documents for it cannot be made", v)
	}
	name, err := NameOf(stream.Context(), cfg.PeerName)
	if err != nil {
		return fmt.Errorf("read the shadow's certificate: %w", err)
	}
	if name != sh.name {
		return fmt.Errorf("certificate at %s names %q, want %q", sh.addr, name, sh.name)
	}
	return sh.welcome(ack, time.Now())
}

// welcome resumes where the shadow is, or asks for its inventory.
func (sh *shadow) welcome(ack *peerv1.HelloAck, now time.Time) error {
	sh.p.mu.Lock()
	defer sh.p.mu.Unlock()
	if sh.removed {
		return errRemoved
	}
	sh.connects++
	sh.version = ack.ProtocolVersion
	resumed := ack.Epoch == sh.p.epoch && sh.p.state.resume(sh.cursor, ack.Seq, now)
	sh.phase = phaseList
	if resumed {
		sh.phase = phaseLive
	}
	sh.p.log.Info("replication stream open", "peer", sh.name, "resumed", resumed, "changes", sh.cursor.pending)
	return nil
}

// send sends until the stream or ctx ends.
func (sh *shadow) send(ctx context.Context, stream peerv1.Replica_ShadowClient) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		m, wait, err := sh.next(time.Now())
		if err != nil {
			return err
		}
		if m != nil {
			if err := sh.translate(m); err != nil {
				return err
			}
			if err := stream.Send(m); err != nil {
				return err
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-sh.wake:
		case <-timer.C:
		}
	}
}

// handle takes a message of the shadow.
func (sh *shadow) handle(m *peerv1.FromShadow, now time.Time) error {
	sh.p.mu.Lock()
	defer sh.p.mu.Unlock()
	if sh.removed {
		return errRemoved
	}
	switch k := m.GetKind().(type) {
	case *peerv1.FromShadow_Ack:
		sh.lastAck = now
		err := sh.p.state.ack(sh.cursor, k.Ack.GetSeq(), now)
		sh.p.state.ackSamples(sh.cursor, k.Ack.GetReplaySeq())
		sh.stir()
		return err
	case *peerv1.FromShadow_Readiness:
		sh.twinReady, sh.twinReason = k.Readiness.GetReady(), clip(k.Readiness.GetReason())
		sh.p.tell()
	case *peerv1.FromShadow_DigestReply:
		return sh.compare(k.DigestReply, now)
	case *peerv1.FromShadow_Inventory:
		return sh.list(k.Inventory, now)
	default:
		return fmt.Errorf("shadow sent a message that does not belong here (%T)", k)
	}
	return nil
}

// compare takes the shadow's digest and starts a repair where it differs.
func (sh *shadow) compare(r *peerv1.DigestReply, now time.Time) error {
	if r.GetNumber() != sh.number || len(r.GetDigest()) != len(Digest{}) {
		return fmt.Errorf("shadow answers digest request %d with %d octets, want request %d", r.GetNumber(), len(r.GetDigest()), sh.number)
	}
	if !sh.asked {
		return nil // an inventory was requested meanwhile
	}
	sh.asked = false
	sh.poke()
	sh.p.tell()
	if Digest(r.Digest) == sh.expect && r.Sessions == uint64(sh.sessions) {
		sh.digest = digestEqual
		return nil
	}
	sh.digest = digestDiffers
	if sh.repaired.IsZero() || now.Sub(sh.repaired) >= sh.p.cfg.DigestEvery {
		sh.p.log.Warn("shadow differs, sending the difference", "peer", sh.name,
			"sessions", r.Sessions, "want", sh.sessions)
		sh.repaired = now
		sh.cursor.repairs++
		sh.phase = phaseList
	}
	return nil
}

// list takes a part of the shadow's inventory.
func (sh *shadow) list(inv *peerv1.Inventory, now time.Time) error {
	if sh.phase != phaseListing {
		return errors.New("shadow sent an inventory that was not requested")
	}
	for _, it := range inv.GetItems() {
		if err := checkID(it.GetId()); err != nil {
			return fmt.Errorf("read inventory: %w", err)
		}
		if len(it.GetHash()) != len(Hash{}) {
			return fmt.Errorf("read inventory: hash of %q has %d octets", it.Id, len(it.Hash))
		}
		sh.listed[it.Id] = Hash(it.Hash)
	}
	if len(sh.listed) > MaxSessions {
		return fmt.Errorf("read inventory: more than %d sessions", MaxSessions)
	}
	if inv.GetLast() {
		sh.strays = sh.p.state.begin(sh.cursor, sh.listed, now)
		sh.listed, sh.phase = nil, phaseStrays
		sh.poke()
	}
	return nil
}
