package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
	"github.com/shadowcast/shadowcast/bgp/bfd"
	"golang.org/x/sync/errgroup"
)

const (
	// retryAfter is how long a change that GoBGP refused waits.
	retryAfter = time.Second
	// reopenAfter is how long a session closed by the prefix limit stays so.
	reopenAfter = time.Minute
	reopenCheck = 5 * time.Second
)

// Speaker is the BGP speaker. Its methods may be called from any goroutine.
type Speaker struct {
	cfg   Config
	log   *slog.Logger
	obs   *observer
	diag  *diagnosis
	drops *tcpDrops
	bfd   *bfd.Server
	queue *queue
	ready chan struct{}
	wake  chan struct{} // nextAt moved, or a session was lost
	ran   sync.Once

	// A mutex rather than an owning goroutine: Set must return GoBGP's verdict,
	// and works before Run as well.
	mu        sync.Mutex
	srv       *server.BgpServer // nil unless running
	desired   Desired
	have      map[netip.Prefix]route     // announced
	retiring  map[netip.Prefix]time.Time // VIPs taken from the wanted ones, until then
	deferred  map[netip.Prefix]time.Time
	budget    budget
	nextAt    time.Time // when to look again; zero: never
	nextForce bool      // the pending change is a forced one GoBGP refused
}

// New checks c and returns a speaker that announces nothing yet.
func New(c Config, log *slog.Logger) (*Speaker, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("check bgp configuration: %w", err)
	}
	c = c.withDefaults()
	s := &Speaker{
		cfg:      c,
		log:      log,
		diag:     newDiagnosis(),
		drops:    newTCPDrops(readNetstat),
		queue:    newQueue(),
		ready:    make(chan struct{}),
		wake:     make(chan struct{}, 1),
		have:     map[netip.Prefix]route{},
		retiring: map[netip.Prefix]time.Time{},
		budget:   budget{window: c.ChangeWindow, dwell: c.Dwell, max: c.MaxChanges, spent: map[netip.Prefix][]time.Time{}},
	}
	s.obs = newObserver(c.Peers, s.diag, log, func(evs []Event) {
		s.queue.push(evs)
		s.poke()
	})
	var watched []bfd.Peer
	for _, p := range c.Peers {
		if p.BFD.Enabled {
			watched = append(watched, bfd.Peer{Remote: p.Address, Local: p.LocalAddress, Interval: p.BFD.Interval, Multiplier: p.BFD.Multiplier})
		}
	}
	s.bfd = bfd.New(watched, log, func(e bfd.Event) {
		s.obs.onBFD(e)
		s.poke()
	})
	return s, nil
}

// String names the task.
func (s *Speaker) String() string { return "bgp speaker" }

// Ready is closed when the speaker listens and all peers are configured.
// Sessions may still be down.
func (s *Speaker) Ready() <-chan struct{} { return s.ready }

// Run speaks BGP until ctx ends, then leaves in order: it withdraws the VIPs,
// closes every session with a shutdown message (RFC 8203), and waits for what it
// started. It may be called once.
func (s *Speaker) Run(ctx context.Context) error {
	first := false
	s.ran.Do(func() { first = true })
	if !first {
		return errors.New("run bgp speaker: it ran before")
	}
	level := &slog.LevelVar{}
	handler := &logHandler{next: s.log.Handler(), names: s.obs.names, refused: s.obs.refused, drops: s.drops}
	srv := server.NewBgpServer(server.LoggerOption(slog.New(handler), level))

	// The parts live on a context of their own: they must outlast ctx, to leave
	// in order.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	ctx, failed := context.WithCancel(ctx)
	defer failed()
	var g errgroup.Group
	g.Go(func() error {
		defer failed() // without BFD there is no going on
		return s.bfd.Run(inner)
	})
	g.Go(func() error { s.queue.run(inner, s.cfg.OnEvent); return nil })
	served := make(chan struct{})
	go func() { defer close(served); srv.Serve() }() // awaited by stop

	err := s.start(inner, srv)
	if err == nil {
		close(s.ready)
		err = s.loop(ctx, srv)
	}
	err = errors.Join(err, s.stop(srv, cancel, served))
	cancel()
	return errors.Join(err, g.Wait())
}

// start brings GoBGP up, nothing announced but what Set already asked for.
func (s *Speaker) start(ctx context.Context, srv *server.BgpServer) error {
	g := &api.Global{Asn: s.cfg.ASN, RouterId: s.cfg.RouterID.String(), ListenPort: int32(s.cfg.ListenPort)}
	for _, a := range s.cfg.ListenAddrs {
		g.ListenAddresses = append(g.ListenAddresses, a.String())
	}
	if err := srv.StartBgp(ctx, &api.StartBgpRequest{Global: g}); err != nil {
		return fmt.Errorf("start bgp: %w", err)
	}
	if err := installPolicies(ctx, srv, s.cfg); err != nil {
		return err
	}
	err := srv.WatchEvent(ctx, server.WatchEventMessageCallbacks{
		OnPathUpdate: s.obs.onPaths,
		OnPeerUpdate: s.obs.onPeer,
	}, server.WatchPeer(), server.WatchPostUpdate(false, "", ""))
	if err != nil {
		return fmt.Errorf("watch bgp events: %w", err)
	}
	s.mu.Lock()
	s.srv = srv
	err = s.applyLocked(true)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	for _, p := range s.cfg.Peers {
		if err := srv.AddPeer(ctx, &api.AddPeerRequest{Peer: apiPeer(p)}); err != nil {
			return fmt.Errorf("add bgp peer %s: %w", p.Name, err)
		}
	}
	return nil
}

func (s *Speaker) server() *server.BgpServer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.srv
}

// Set makes d the whole state to announce. It is idempotent: what is announced
// as desired already is not sent again. Announcing and withdrawing happen at
// once, changes of an announced VIP within the change budget or by d.Force;
// a change over the budget is made later, unless another Set overtakes it.
// Before Run, Set only remembers d.
func (s *Speaker) Set(d Desired) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("check desired bgp state: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	evs := s.retireLocked(d, time.Now())
	s.desired = d.clone()
	s.obs.setOwn(d.Liveness)
	s.obs.report(evs)
	if s.srv == nil {
		return nil
	}
	err := s.applyLocked(d.Force)
	s.poke()
	return err
}

// retireLocked notes the VIPs that d no longer has: a configuration that takes a
// VIP away while packets come for it. Such a VIP is announced as draining for a
// while, so that routers that have another way turn to it first. A withdrawal of
// all VIPs is none: it is ordered, and the caller has seen to it that no packet comes.
func (s *Speaker) retireLocked(d Desired, now time.Time) (evs []Event) {
	for _, p := range d.VIPs {
		delete(s.retiring, p)
	}
	if d.Level == Withdrawn || s.desired.Level == Withdrawn {
		clear(s.retiring)
		return nil
	}
	for _, p := range s.desired.VIPs {
		if _, announced := s.have[p]; announced && !slices.Contains(d.VIPs, p) {
			s.retiring[p] = now.Add(s.cfg.RetireFor)
			evs = append(evs, Event{Kind: VIPRetired, At: now, Prefix: p,
				Reason: fmt.Sprintf("it is no longer configured: announced as draining for %v, then withdrawn", s.cfg.RetireFor)})
		}
	}
	return evs
}

// wantedLocked is what is to be announced now, and when that changes by itself;
// the zero Time: never.
func (s *Speaker) wantedLocked(now time.Time) (want map[netip.Prefix]route, next time.Time) {
	want = s.desired.routes()
	for p, until := range s.retiring {
		if !now.Before(until) {
			delete(s.retiring, p)
			continue
		}
		want[p] = s.have[p].retired()
		if next.IsZero() || until.Before(next) {
			next = until
		}
	}
	return want, next
}

// poke makes the loop look again.
func (s *Speaker) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// applyLocked sends the difference. What GoBGP refuses stays different, and is
// tried again.
func (s *Speaker) applyLocked(force bool) error {
	now := time.Now()
	want, retired := s.wantedLocked(now)
	p := makePlan(s.have, want, &s.budget, force || !retired.IsZero(), now)
	var errs []error
	for _, prefix := range sortedPrefixes(p.withdraw) {
		if err := s.srv.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{path(prefix, p.withdraw[prefix])}}); err != nil {
			errs = append(errs, fmt.Errorf("withdraw %v: %w", prefix, err))
			continue
		}
		delete(s.have, prefix)
		s.log.Info("bgp prefix withdrawn", "prefix", prefix, "reason", s.desired.Level)
	}
	for _, prefix := range sortedPrefixes(p.add) {
		r := p.add[prefix]
		if _, err := s.srv.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{path(prefix, r)}}); err != nil {
			errs = append(errs, fmt.Errorf("announce %v: %w", prefix, err))
			continue
		}
		if _, ok := s.have[prefix]; ok {
			s.budget.spend(prefix, now)
		}
		s.have[prefix] = r
		s.log.Info("bgp prefix announced", "prefix", prefix, "med", r.med, "reason", s.desired.Level, "forced", force)
	}
	for _, prefix := range sortedPrefixes(p.deferred) {
		if s.deferred[prefix].IsZero() {
			s.log.Info("bgp change deferred by the change budget", "prefix", prefix, "until", p.deferred[prefix])
		}
	}
	s.deferred, s.nextAt, s.nextForce = p.deferred, p.next, false
	if !retired.IsZero() && (s.nextAt.IsZero() || retired.Before(s.nextAt)) {
		s.nextAt = retired
	}
	if len(errs) > 0 {
		s.nextAt, s.nextForce = now.Add(retryAfter), force
	}
	return errors.Join(errs...)
}

// path renders an announcement. The unspecified next hop makes GoBGP put in the
// local address of each session.
func path(p netip.Prefix, r route) *apiutil.Path {
	nlri, _ := gobgp.NewIPAddrPrefix(p)
	out := &apiutil.Path{Family: gobgp.RF_IPv4_UC, Nlri: nlri}
	origin := uint8(gobgp.BGP_ORIGIN_ATTR_TYPE_IGP)
	if r.inside {
		origin = gobgp.BGP_ORIGIN_ATTR_TYPE_INCOMPLETE
	}
	out.Attrs = append(out.Attrs, gobgp.NewPathAttributeOrigin(origin))
	if p.Addr().Is6() {
		out.Family = gobgp.RF_IPv6_UC
		a, _ := gobgp.NewPathAttributeMpReachNLRI(out.Family, []gobgp.PathNLRI{{NLRI: nlri}}, netip.IPv6Unspecified())
		out.Attrs = append(out.Attrs, a)
	} else {
		a, _ := gobgp.NewPathAttributeNextHop(netip.IPv4Unspecified())
		out.Attrs = append(out.Attrs, a)
	}
	if r.hasMED {
		out.Attrs = append(out.Attrs, gobgp.NewPathAttributeMultiExitDisc(r.med))
	}
	if cs := unpackCommunities(r.communities); len(cs) > 0 {
		list := make([]uint32, len(cs))
		for i, c := range cs {
			list[i] = uint32(c)
		}
		out.Attrs = append(out.Attrs, gobgp.NewPathAttributeCommunities(list))
	}
	if cs := unpackLarge(r.large); len(cs) > 0 {
		list := make([]*gobgp.LargeCommunity, len(cs))
		for i, c := range cs {
			list[i] = gobgp.NewLargeCommunity(c.Global, c.Function, c.Value)
		}
		out.Attrs = append(out.Attrs, gobgp.NewPathAttributeLargeCommunities(list))
	}
	return out
}

// Announcement is one prefix as the routers know it.
type Announcement struct {
	Prefix      netip.Prefix
	Role        Role // which routers get it
	MED         uint32
	Communities []Community
	Large       []LargeCommunity
	// ChangeAt is when a deferred change will be made; zero: none waits.
	ChangeAt time.Time
}

// Announcements returns what is announced now, sorted by prefix.
func (s *Speaker) Announcements() []Announcement {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Announcement, 0, len(s.have))
	for _, p := range sortedPrefixes(s.have) {
		r := s.have[p]
		a := Announcement{Prefix: p, Role: Outside, MED: r.med, Communities: unpackCommunities(r.communities), Large: unpackLarge(r.large), ChangeAt: s.deferred[p]}
		if r.inside {
			a.Role = Inside
		}
		out = append(out, a)
	}
	return out
}

// Liveness returns the liveness routes of other appliances seen now and the
// routers that tell of each; a Sighting with Gone set is one that used to.
func (s *Speaker) Liveness() map[netip.Prefix][]Sighting { return s.obs.liveness() }
