package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
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
	have      map[netip.Prefix]route // announced
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
		cfg:    c,
		log:    log,
		diag:   &diagnosis{last: map[netip.Addr]string{}},
		queue:  newQueue(),
		ready:  make(chan struct{}),
		wake:   make(chan struct{}, 1),
		have:   map[netip.Prefix]route{},
		budget: budget{window: c.ChangeWindow, max: c.MaxChanges, spent: map[netip.Prefix][]time.Time{}},
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
	handler := &logHandler{next: s.log.Handler(), names: s.obs.names, diag: s.diag}
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

func apiPeer(p Peer) *api.Peer {
	family := &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
	if p.Address.Is6() {
		family.Afi = api.Family_AFI_IP6
	}
	n := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: p.Address.String(),
			PeerAsn:         p.ASN,
			AuthPassword:    string(p.Password),
			Description:     p.Name,
		},
		Timers: &api.Timers{Config: &api.TimersConfig{
			ConnectRetry:           2,
			HoldTime:               uint64(p.HoldTime / time.Second),
			KeepaliveInterval:      uint64(p.Keepalive / time.Second),
			IdleHoldTimeAfterReset: 1,
		}},
		Transport: &api.Transport{LocalAddress: p.LocalAddress.String()},
		AfiSafis: []*api.AfiSafi{{
			Config:       &api.AfiSafiConfig{Family: family, Enabled: true},
			PrefixLimits: &api.PrefixLimit{Family: family, MaxPrefixes: p.MaxPrefixes},
		}},
	}
	if p.Role == Outside {
		// Liveness routes of other appliances carry our common AS number once.
		n.Conf.AllowOwnAsn = 1
	}
	if p.TTLSecurity {
		n.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 255}
	}
	return n
}

// loop makes the changes that had to wait, and rebuilds lost sessions.
func (s *Speaker) loop(ctx context.Context, srv *server.BgpServer) error {
	reopen := time.NewTicker(reopenCheck)
	defer reopen.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s.mu.Lock()
		at := s.nextAt
		s.mu.Unlock()
		if at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-reopen.C:
		case <-timer.C:
			s.mu.Lock()
			err := s.applyLocked(s.nextForce)
			s.mu.Unlock()
			if err != nil {
				s.log.Warn("bgp change failed, will retry", "err", err)
			}
		}
		for _, p := range s.cfg.Peers {
			if why := s.obs.takeBFDDown(p.Address); why != "" {
				if err := srv.ResetPeer(ctx, &api.ResetPeerRequest{Address: p.Address.String(), Communication: "BFD is down: " + why}); err != nil {
					s.log.Warn("bgp session not reset", "peer", p.Name, "err", err)
				}
			}
			if !s.obs.takeLost(p.Address, p.BFD.Enabled, time.Now()) {
				continue
			}
			if err := rebuild(ctx, srv, p); err != nil {
				s.log.Warn("bgp session not rebuilt", "peer", p.Name, "err", err)
			}
		}
	}
}

// rebuild replaces a peer whose session was lost by a new one. In GoBGP 4.8 a
// reset that finds the session down already stays behind and closes the next one
// as soon as it is up (osrg/gobgp#3561), so that one failure is two flaps; and
// updates that the lost session did not send any more may go out first on the next
// one. A new peer has no leftovers, connects without the idle time, and ends a
// shutdown by the prefix limit. BFD is not part of it, and goes on meanwhile. Its
// price: a session that ends within its first milliseconds can leave one parked
// goroutine of GoBGP's update queue behind.
func rebuild(ctx context.Context, srv *server.BgpServer, p Peer) error {
	addr := p.Address.String()
	if err := srv.DeletePeer(ctx, &api.DeletePeerRequest{Address: addr}); err != nil {
		return fmt.Errorf("delete bgp peer: %w", err)
	}
	if err := srv.AddPeer(ctx, &api.AddPeerRequest{Peer: apiPeer(p)}); err != nil {
		return fmt.Errorf("add bgp peer: %w", err)
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
	s.desired = d.clone()
	s.obs.setOwn(d.Liveness)
	if s.srv == nil {
		return nil
	}
	err := s.applyLocked(d.Force)
	s.poke()
	return err
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
	want := s.desired.routes()
	p := makePlan(s.have, want, &s.budget, force, now)
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
	if cs := r.unpackCommunities(); len(cs) > 0 {
		list := make([]uint32, len(cs))
		for i, c := range cs {
			list[i] = uint32(c)
		}
		out.Attrs = append(out.Attrs, gobgp.NewPathAttributeCommunities(list))
	}
	return out
}

// Announcement is one prefix as the routers know it.
type Announcement struct {
	Prefix      netip.Prefix
	Role        Role // which routers get it
	MED         uint32
	Communities []Community
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
		a := Announcement{Prefix: p, Role: Outside, MED: r.med, Communities: r.unpackCommunities(), ChangeAt: s.deferred[p]}
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
