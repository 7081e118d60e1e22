package member

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/shadowcast/shadowcast/sa"
)

const (
	keyInfo = "shadowcast gossip v1"
	keySize = 32 // AES-256

	// joinEvery is the time between attempts to reach members that are missing.
	joinEvery = 10 * time.Second
	leaveTime = time.Second
)

// Config is what New needs.
type Config struct {
	Self  string
	Fleet string         // identifier of the fleet, the label of every packet
	Key   sa.Key         // of the fleet
	Bind  netip.AddrPort // UDP and TCP
	About Meta           // what we say of ourselves
	// Others are the members that may be, and where they are: seeds and allow-list.
	Others map[string]netip.AddrPort
	// Refused is called for what is refused, Changed when a member comes or
	// goes; both from memberlist's goroutines, which they must not hold up.
	Refused func(reason, peer string, source netip.Addr, detail string)
	Changed func(name string, s State)
	Logger  *slog.Logger

	joinEvery time.Duration // 0: joinEvery
}

// Reasons of refusals.
const (
	RefuseKey     = "gossip key"     // encrypted under another key, or not at all
	RefuseFleet   = "another fleet"  // the label of another fleet, or none
	RefuseName    = "unknown member" // not in the fleet section
	RefuseAddress = "wrong address"  // another one than in the fleet section
	RefuseMeta    = "metadata"
	RefuseMessage = "malformed"
)

// State is what gossip says of one member.
type State struct {
	// Presence is Alive or Gone, "" before it was heard of.
	Presence string
	Since    time.Time
	Meta     Meta
}

// The values of State.Presence.
const (
	Alive = "alive"
	Gone  = "gone" // died or left of its own accord: memberlist does not say which
)

// Gossip is this appliance's part.
type Gossip struct {
	cfg  Config
	meta []byte
	key  []byte

	mu     sync.Mutex
	states map[string]State
}

// New checks the configuration. Nothing is sent before Run.
func New(cfg Config) (*Gossip, error) {
	if cfg.Self == "" || cfg.Fleet == "" || !cfg.Bind.IsValid() || cfg.Refused == nil || cfg.Changed == nil || cfg.Logger == nil {
		return nil, errors.New("make gossip: name, fleet, address, callbacks or logger are missing")
	}
	if len(cfg.Fleet) > memberlist.LabelMaxSize {
		return nil, fmt.Errorf("make gossip: fleet identifier has %d octets, want at most %d", len(cfg.Fleet), memberlist.LabelMaxSize)
	}
	if cfg.joinEvery == 0 {
		cfg.joinEvery = joinEvery
	}
	g := &Gossip{cfg: cfg, states: map[string]State{}}
	var err error
	if g.meta, err = cfg.About.encode(); err != nil {
		return nil, fmt.Errorf("make gossip: %w", err)
	}
	if g.key, err = hkdf.Key(sha256.New, cfg.Key, nil, keyInfo, keySize); err != nil {
		return nil, fmt.Errorf("make gossip: derive the key: %w", err)
	}
	return g, nil
}

// Run gossips until ctx ends, then says good-bye. An error means that the
// address could not be used.
func (g *Gossip) Run(ctx context.Context) error {
	c := memberlist.DefaultWANConfig()
	c.Name, c.Label, c.SecretKey = g.cfg.Self, g.cfg.Fleet, g.key
	c.BindAddr, c.BindPort = g.cfg.Bind.Addr().String(), int(g.cfg.Bind.Port())
	c.AdvertiseAddr, c.AdvertisePort = c.BindAddr, c.BindPort
	c.Delegate, c.Events, c.Alive = delegate{g}, events{g}, g
	c.Logger = log.New(lines{g}, "", 0)
	m, err := memberlist.Create(c)
	if err != nil {
		return fmt.Errorf("gossip at %s: %w", g.cfg.Bind, err)
	}
	t := time.NewTicker(g.cfg.joinEvery)
	defer t.Stop()
	for {
		if missing := g.missing(); len(missing) > 0 {
			// What fails is tried again; who is there shows in the states.
			if _, err := m.Join(missing); err != nil {
				g.cfg.Logger.Debug("gossip: reach members", "reason", err)
			}
		}
		select {
		case <-ctx.Done():
			if err := m.Leave(leaveTime); err != nil {
				g.cfg.Logger.Debug("gossip: say good-bye", "reason", err) // the others notice
			}
			return m.Shutdown()
		case <-t.C:
		}
	}
}

// missing returns where the members are that are not alive.
func (g *Gossip) missing() (out []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for n, at := range g.cfg.Others {
		if g.states[n].Presence != Alive {
			out = append(out, at.String())
		}
	}
	return out
}

// State returns what gossip says of the member called name.
func (g *Gossip) State(name string) State {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.states[name]
}

// NotifyAlive implements memberlist.AliveDelegate: the allow-list.
func (g *Gossip) NotifyAlive(n *memberlist.Node) error {
	source, _ := netip.AddrFromSlice(n.Addr)
	at := netip.AddrPortFrom(source.Unmap(), n.Port)
	refuse := func(reason, format string, args ...any) error {
		err := fmt.Errorf(format, args...)
		g.cfg.Refused(reason, n.Name, at.Addr(), err.Error())
		return err
	}
	want, known := g.cfg.Others[n.Name]
	if n.Name == g.cfg.Self {
		want, known = g.cfg.Bind, true
	}
	switch {
	case !known:
		return refuse(RefuseName, "%.80q is no appliance of this fleet", n.Name)
	case at != want:
		return refuse(RefuseAddress, "%s says that it is at %s, the fleet section at %s", n.Name, at, want)
	}
	if _, err := decode(n.Meta); err != nil {
		return refuse(RefuseMeta, "%w", err)
	}
	return nil
}

func (g *Gossip) note(n *memberlist.Node, presence string) {
	if n.Name == g.cfg.Self {
		return
	}
	m, err := decode(n.Meta) // checked by NotifyAlive; one that is gone may have none
	g.mu.Lock()
	s := g.states[n.Name]
	if err == nil {
		s.Meta = m
	}
	changed := s.Presence != presence
	if changed {
		s.Presence, s.Since = presence, time.Now()
	}
	g.states[n.Name] = s
	g.mu.Unlock()
	if changed {
		g.cfg.Changed(n.Name, s)
	}
}

// events implements memberlist.EventDelegate.
type events struct{ g *Gossip }

func (e events) NotifyJoin(n *memberlist.Node)   { e.g.note(n, Alive) }
func (e events) NotifyUpdate(n *memberlist.Node) { e.g.note(n, Alive) }
func (e events) NotifyLeave(n *memberlist.Node)  { e.g.note(n, Gone) }

// delegate implements memberlist.Delegate: metadata and nothing else.
type delegate struct{ g *Gossip }

func (d delegate) NodeMeta(int) []byte             { return d.g.meta }
func (d delegate) NotifyMsg([]byte)                {}
func (d delegate) GetBroadcasts(_, _ int) [][]byte { return nil }
func (d delegate) LocalState(bool) []byte          { return nil }
func (d delegate) MergeRemoteState([]byte, bool)   {}
