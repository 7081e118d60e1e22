package replica

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// PublisherConfig is what an owner needs to feed the shadows of one slot during
// one tenure.
type PublisherConfig struct {
	Slot        sa.Slot
	Ticket      sa.Ticket // the owner holds the slot with
	Self        string    // the owner's name, as in its certificate
	Incarnation uint64    // of the daemon; rises at every start
	// TLS returns the client configuration for a shadow.
	TLS func(shadow string) *tls.Config
	// PeerName reads the name of the other end; nil: the only DNS name.
	PeerName PeerNameFunc
	// Legacy turns a document that was put into the one for a shadow of protocol
	// version 1, during an upgrade of the fleet; nil refuses such shadows. Hashes
	// stay those that were put.
	Legacy func(doc []byte) ([]byte, error)
	// Select says whether a session goes to a shadow; nil: all do. It is called
	// with the Publisher locked and must not call it back.
	Select func(id, shadow string) bool
	// OnReady is called from Run when a shadow becomes ready or ceases to be.
	OnReady func(shadow string, ready bool, reason string)
	// OnSuperseded is called, at most once per ticket and shadow, when a shadow
	// refuses this owner because it knows of a higher ticket; owner may be empty.
	OnSuperseded func(shadow string, ticket sa.Ticket, owner string)
	// HandshakeFailed is called when shadow or whoever answers at its address
	// is refused in the TLS handshake, or refuses us; nil: nobody is told.
	HandshakeFailed func(shadow string, source netip.Addr, err error)
	MaxLag          time.Duration // older unacknowledged changes: not ready; 0: 1 s
	DigestEvery     time.Duration // between comparisons; 0: 10 s
	MaxDeleted      int           // deletions remembered for absent shadows; 0: 65536
	Logger          *slog.Logger  // nil: slog.Default
}

// Shadow is where a shadow is found.
type Shadow struct {
	Name string
	Addr netip.AddrPort
}

// Publisher keeps the shadows of one slot in step with its owner. Put, Delete
// and Replay never wait for a shadow.
type Publisher struct {
	cfg   PublisherConfig
	log   *slog.Logger
	epoch uint64

	mu       sync.Mutex
	state    *state
	ticket   sa.Ticket
	config   string // digest of the owner's configuration
	shadows  map[string]*shadow
	complete chan struct{}      // closed by Complete
	changed  chan struct{}      // the set of shadows changed; 1 deep
	news     chan struct{}      // a shadow's readiness may have changed; 1 deep
	stop     context.CancelFunc // of Run, nil while it does not run
	ended    bool               // Run has returned or never will: nobody will acknowledge any more
	finished chan struct{}      // closed when Run has returned
}

// NewPublisher checks the configuration. Sessions can be put at once; nothing
// is sent before Run and Complete.
func NewPublisher(cfg PublisherConfig) (*Publisher, error) {
	err := checkName(cfg.Self)
	switch {
	case err != nil:
	case !cfg.Slot.Valid():
		err = fmt.Errorf("slot %d is out of range", cfg.Slot)
	case cfg.Ticket == 0:
		err = errors.New("the owner holds no ticket")
	case cfg.Incarnation == 0:
		err = errors.New("incarnation is 0")
	case cfg.TLS == nil:
		err = errors.New("no TLS configuration")
	}
	if err != nil {
		return nil, fmt.Errorf("publish slot %d: %w", cfg.Slot, err)
	}
	if cfg.PeerName == nil {
		cfg.PeerName = dnsName
	}
	if cfg.MaxLag <= 0 {
		cfg.MaxLag = time.Second
	}
	if cfg.DigestEvery <= 0 {
		cfg.DigestEvery = 10 * time.Second
	}
	if cfg.MaxDeleted <= 0 {
		cfg.MaxDeleted = 1 << 16
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	var b [8]byte
	rand.Read(b[:]) // never fails
	return &Publisher{
		cfg: cfg, log: cfg.Logger.With("slot", cfg.Slot),
		ticket: cfg.Ticket, finished: make(chan struct{}),
		epoch: binary.BigEndian.Uint64(b[:]) | 1,
		state: newState(cfg.MaxDeleted), shadows: map[string]*shadow{},
		complete: make(chan struct{}), changed: make(chan struct{}, 1), news: make(chan struct{}, 1),
	}, nil
}

// Put makes doc the session's document. The Publisher keeps doc, which must not
// change any more. Putting an equal hash again costs nothing.
func (p *Publisher) Put(id string, doc []byte, h Hash) error {
	if err := checkID(id); err != nil {
		return fmt.Errorf("put session: %w", err)
	}
	if len(doc) == 0 || len(doc) > MaxDoc {
		return fmt.Errorf("put session %s: document has %d octets, want 1 to %d", id, len(doc), MaxDoc)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.live >= MaxSessions && p.state.entries[id] == nil {
		return fmt.Errorf("put session %s: slot holds %d sessions already", id, MaxSessions)
	}
	if p.state.put(id, doc, h, p.want(id), time.Now()) {
		p.wake()
	}
	return nil
}

// Delete tells every shadow that the session ended. An unknown one is ignored.
func (p *Publisher) Delete(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.remove(id, time.Now()) {
		p.wake()
	}
}

// Replay publishes what changed since the last call; an empty call says that
// nothing did and keeps the age of the last sample honest. It returns how many
// samples were dropped because their session is unknown or they are malformed.
func (p *Publisher) Replay(samples []Sample) (dropped int) {
	ok := samples
	for i := range samples {
		if checkSample(&samples[i]) != nil { // rare: copy only then
			ok = slices.DeleteFunc(slices.Clone(samples), func(x Sample) bool { return checkSample(&x) != nil })
			dropped = len(samples) - len(ok)
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	dropped += p.state.addSamples(ok, time.Now())
	p.wake()
	return dropped
}

// Complete says that the owner has put every session it knows. Only then are
// shadows dialled: an owner that is still loading would have them delete what it
// does not know yet.
func (p *Publisher) Complete() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.complete:
	default:
		close(p.complete)
	}
}

// SetTicket notes that the owner took a fresh ticket within its tenure. Every
// stream is opened again with it and goes on where it was. A lower one than
// before is an error.
func (p *Publisher) SetTicket(t sa.Ticket) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t < p.ticket {
		return fmt.Errorf("set ticket of slot %d: %d is below %d", p.cfg.Slot, t, p.ticket)
	}
	p.ticket = t
	p.wake()
	return nil
}

// SetConfig publishes the digest of connections, credentials and HA version.
func (p *Publisher) SetConfig(digest string) error {
	if len(digest) > MaxID {
		return fmt.Errorf("publish configuration: digest has %d octets, the limit is %d", len(digest), MaxID)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.config = digest
	p.wake()
	return nil
}

// SetShadows replaces the set. Those that stay keep their stream.
func (p *Publisher) SetShadows(set []Shadow) error {
	seen := map[string]bool{}
	for _, x := range set {
		err := checkName(x.Name)
		switch {
		case err != nil:
		case x.Name == p.cfg.Self:
			err = fmt.Errorf("%s is the owner", x.Name)
		case seen[x.Name]:
			err = fmt.Errorf("%s is named twice", x.Name)
		case !x.Addr.IsValid() || x.Addr.Port() == 0:
			err = fmt.Errorf("%s: %s is no address", x.Name, x.Addr)
		}
		if err != nil {
			return fmt.Errorf("set shadows of slot %d: %w", p.cfg.Slot, err)
		}
		seen[x.Name] = true
	}
	if len(set) > MaxShadows {
		return fmt.Errorf("set shadows of slot %d: %d shadows, the limit is %d", p.cfg.Slot, len(set), MaxShadows)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, sh := range p.shadows {
		if !slices.ContainsFunc(set, func(x Shadow) bool { return x.Name == name && x.Addr == sh.addr }) {
			p.state.dropCursor(sh.cursor)
			delete(p.shadows, name)
			sh.remove()
		}
	}
	for _, x := range set {
		if p.shadows[x.Name] != nil {
			continue
		}
		c := p.state.addCursor(time.Now()) // a free one exists: the set fits
		p.state.aim(c, func(id string) bool { return p.cfg.Select == nil || p.cfg.Select(id, x.Name) })
		p.shadows[x.Name] = &shadow{p: p, name: x.Name, addr: x.Addr, cursor: c,
			wake: make(chan struct{}, 1), gone: make(chan struct{}), moved: make(chan struct{}),
			why: "never connected"}
	}
	select {
	case p.changed <- struct{}{}:
	default:
	}
	return nil
}

// Reselect asks Select again for every session and sends the difference.
func (p *Publisher) Reselect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.state.each(func(e *entry) { p.state.retarget(e, p.want(e.id), now) })
	p.wake()
}

// Len is the number of sessions.
func (p *Publisher) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.live
}

// want is the set of cursors whose shadows should hold a session.
func (p *Publisher) want(id string) (w uint8) {
	for name, sh := range p.shadows {
		if p.cfg.Select == nil || p.cfg.Select(id, name) {
			w |= sh.cursor.bit
		}
	}
	return w
}

// wake tells every stream that there may be something to send.
func (p *Publisher) wake() {
	for _, sh := range p.shadows {
		sh.poke()
	}
}

// Flush waits until everything put, deleted and sampled so far is acknowledged
// by the shadow.
func (p *Publisher) Flush(ctx context.Context, name string) error {
	p.mu.Lock()
	sh := p.shadows[name]
	seq, sseq := p.state.seq, p.state.sseq
	for {
		if sh == nil || p.shadows[name] != sh {
			p.mu.Unlock()
			return fmt.Errorf("flush slot %d to %s: not a shadow of the slot", p.cfg.Slot, name)
		}
		if p.ended {
			p.mu.Unlock()
			return fmt.Errorf("flush slot %d to %s: publishing has ended", p.cfg.Slot, name)
		}
		if sh.phase == phaseLive && p.state.reached(sh.cursor, seq, sseq) {
			p.mu.Unlock()
			return nil
		}
		moved, why := sh.moved, sh.reason(time.Now(), p.cfg.MaxLag)
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return fmt.Errorf("flush slot %d to %s (%s): %w", p.cfg.Slot, name, why, ctx.Err())
		case <-moved:
		}
		p.mu.Lock()
	}
}

// Close ends Run and waits for it. Shadows keep what they have.
func (p *Publisher) Close() {
	p.mu.Lock()
	stop := p.stop
	p.ended = true
	p.mu.Unlock()
	if stop != nil {
		stop()
		<-p.finished
	}
}

// Run feeds the shadows until ctx ends or Close is called. It runs once.
func (p *Publisher) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p.mu.Lock()
	if p.stop != nil || p.ended {
		p.mu.Unlock()
		return fmt.Errorf("publish slot %d: already running or closed", p.cfg.Slot)
	}
	p.stop = stop
	p.mu.Unlock()
	var wg sync.WaitGroup
	defer close(p.finished)
	defer p.end()
	defer wg.Wait()
	complete := p.complete
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-complete:
			complete = nil
		case <-p.changed:
		case <-p.news:
			p.announce()
			continue
		case <-tick.C:
			p.announce()
			continue
		}
		if complete != nil {
			continue // started when Complete is called
		}
		p.mu.Lock()
		for _, sh := range p.shadows {
			if !sh.started {
				sh.started = true
				wg.Go(func() { sh.run(ctx) })
			}
		}
		p.mu.Unlock()
	}
}

// tell has readiness announced soon.
func (p *Publisher) tell() {
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// end wakes whoever waits in Flush.
func (p *Publisher) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	for _, sh := range p.shadows {
		sh.stir()
	}
}

// announce logs and reports the changes of readiness. Lag makes a shadow not
// ready without an event, so this is called by the clock too.
func (p *Publisher) announce() {
	type change struct {
		name, reason string
		ready        bool
	}
	var changes []change
	p.mu.Lock()
	now := time.Now()
	for name, sh := range p.shadows {
		reason := sh.reason(now, p.cfg.MaxLag)
		if ready := reason == ""; ready != sh.ready {
			sh.ready = ready
			changes = append(changes, change{name, reason, ready})
		}
	}
	p.mu.Unlock()
	for _, c := range changes {
		if c.ready {
			p.log.Info("shadow ready", "peer", c.name)
		} else {
			p.log.Warn("shadow not ready", "peer", c.name, "reason", c.reason)
		}
		if p.cfg.OnReady != nil {
			p.cfg.OnReady(c.name, c.ready, c.reason)
		}
	}
}
