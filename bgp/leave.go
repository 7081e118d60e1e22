package bgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/server"
	"github.com/vishvananda/netlink"
)

const (
	pollEvery = 2 * time.Millisecond
	// stopBound is what leaving may take in all, besides the final join.
	stopBound = 2 * time.Second
	// joinBound is how long Run waits for GoBGP's goroutines.
	joinBound = 5 * time.Second
)

// poll calls done until it says so or ctx ends.
func poll(ctx context.Context, done func() bool) error {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
	return nil
}

// Withdraw takes back all VIPs, and returns when every router with a session has
// got the withdrawal: it was written, and the router's kernel has acknowledged
// it. Liveness and inner prefixes stay. A later Set may announce again.
func (s *Speaker) Withdraw(ctx context.Context) error {
	s.mu.Lock()
	if s.srv == nil {
		s.desired.Level = Withdrawn
		s.mu.Unlock()
		return nil
	}
	srv := s.srv
	vips := slices.ContainsFunc(s.desired.VIPs, func(p netip.Prefix) bool { _, ok := s.have[p]; return ok })
	before := sentUpdates(ctx, srv)
	s.desired.Level = Withdrawn
	err := s.applyLocked(true)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if !vips {
		return nil
	}
	if err := poll(ctx, s.flushed(ctx, srv, before)); err != nil {
		return fmt.Errorf("wait for withdrawals to go out: %w", err)
	}
	return nil
}

// counters are the UPDATEs written to each router whose session was up.
type counters map[string]uint64

func sentUpdates(ctx context.Context, srv *server.BgpServer) counters {
	m := counters{}
	_ = srv.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		if st := p.GetState(); st.GetSessionState() == api.PeerState_SESSION_STATE_ESTABLISHED {
			m[st.GetNeighborAddress()] = st.GetMessages().GetSent().GetUpdate()
		}
	})
	return m
}

// flushed returns a condition: every session that was up and still is has
// written more UPDATEs than before, none since the last look, and its socket
// holds nothing unacknowledged. Withdrawals go to every session, whatever its
// role, so each must move; a session that ended has no route of ours.
func (s *Speaker) flushed(ctx context.Context, srv *server.BgpServer, before counters) func() bool {
	last := counters{}
	return func() bool {
		now := sentUpdates(ctx, srv)
		quiet := true
		for _, p := range s.cfg.Peers {
			addr := p.Address.String()
			was, ok := before[addr]
			n, up := now[addr]
			if !ok || !up || n < was {
				continue
			}
			if n == was && s.familyAnnounced(p) || n != last[addr] || s.unacknowledged(p) {
				quiet = false
			}
		}
		last = now
		return quiet
	}
}

// familyAnnounced reports whether VIPs of the session's family were withdrawn:
// a session hears only of its own family.
func (s *Speaker) familyAnnounced(p Peer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.desired.VIPs {
		if v.Addr().Is4() == p.Address.Is4() {
			return true
		}
	}
	return false
}

// unacknowledged reports whether the connection holds data the router's kernel
// has not acknowledged. Where the kernel cannot tell, written is enough.
func (s *Speaker) unacknowledged(p Peer) bool {
	st := s.obs.get(p.Address)
	if !st.up || st.local == 0 {
		return false
	}
	sock, err := netlink.SocketGet(
		&net.TCPAddr{IP: p.LocalAddress.AsSlice(), Port: int(st.local)},
		&net.TCPAddr{IP: p.Address.AsSlice(), Port: int(st.remote)})
	return err == nil && sock.WQueue > 0
}

// stop leaves in order: GoBGP's own Stop would close sessions as "peer
// deconfigured" without a word. BFD ends last, or the routers would take the end
// for a failure.
func (s *Speaker) stop(srv *server.BgpServer, cancel context.CancelFunc, served <-chan struct{}) error {
	ctx, done := context.WithTimeout(context.Background(), stopBound)
	defer done()
	var errs []error
	if err := s.Withdraw(ctx); err != nil {
		errs = append(errs, err)
	}
	s.mu.Lock()
	s.srv = nil
	clear(s.have)
	s.deferred, s.nextAt = nil, time.Time{}
	s.mu.Unlock()

	var addrs []string
	_ = srv.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		addrs = append(addrs, p.GetState().GetNeighborAddress())
	})
	text := "shadowcast " + s.cfg.Node + " leaves service"
	for _, a := range addrs {
		if err := srv.DisablePeer(ctx, &api.DisablePeerRequest{Address: a, Communication: text}); err != nil {
			errs = append(errs, fmt.Errorf("shut down session with %s: %w", a, err))
		}
	}
	if err := poll(ctx, func() bool { return len(sentUpdates(ctx, srv)) == 0 }); err != nil {
		errs = append(errs, fmt.Errorf("wait for bgp sessions to close: %w", err))
	}
	for _, a := range addrs {
		if err := srv.DeletePeer(ctx, &api.DeletePeerRequest{Address: a}); err != nil {
			errs = append(errs, fmt.Errorf("delete bgp peer %s: %w", a, err))
		}
	}
	cancel()
	// Not joined by a wait group: if GoBGP hangs, Run must still return.
	stopped := make(chan struct{})
	go func() { defer close(stopped); srv.Stop(); <-served }()
	select {
	case <-stopped:
	case <-time.After(joinBound):
		errs = append(errs, errors.New("stop bgp: gobgp still runs, its goroutines are left behind"))
	}
	return errors.Join(errs...)
}
