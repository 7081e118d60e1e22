package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/server"
)

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

// loop makes the changes that had to wait, has BGP follow BFD, and rebuilds lost
// sessions.
func (s *Speaker) loop(ctx context.Context, srv *server.BgpServer) error {
	reopen := time.NewTicker(reopenCheck)
	defer reopen.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	parked := map[netip.Addr]time.Time{} // peers that are deleted and wait
	for {
		s.mu.Lock()
		at := s.nextAt
		s.mu.Unlock()
		for _, until := range parked {
			if at.IsZero() || until.Before(at) {
				at = until
			}
		}
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
			var err error
			if !s.nextAt.IsZero() && !time.Now().Before(s.nextAt) {
				err = s.applyLocked(s.nextForce)
			}
			s.mu.Unlock()
			if err != nil {
				s.log.Warn("bgp change failed, will retry", "err", err)
			}
		}
		for _, p := range s.cfg.Peers {
			s.care(ctx, srv, p, parked)
		}
	}
}

// care does what is due for the session with p.
func (s *Speaker) care(ctx context.Context, srv *server.BgpServer, p Peer, parked map[netip.Addr]time.Time) {
	now := time.Now()
	if until, ok := parked[p.Address]; ok {
		if now.Before(until) {
			return
		}
		delete(parked, p.Address)
		if err := srv.AddPeer(ctx, &api.AddPeerRequest{Peer: apiPeer(p)}); err != nil {
			s.log.Warn("bgp session not opened", "peer", p.Name, "err", err)
			parked[p.Address] = now.Add(retryAfter)
		}
		return
	}
	if why := s.obs.takeBFDDown(p.Address); why != "" {
		if err := srv.ResetPeer(ctx, &api.ResetPeerRequest{Address: p.Address.String(), Communication: "BFD is down: " + why}); err != nil {
			s.log.Warn("bgp session not reset", "peer", p.Name, "err", err)
		}
	}
	if text := s.obs.stuck(p.Address, now); text != "" {
		s.obs.refused(p.Address, text+s.drops.hint(p.Address))
	}
	lost, hold := s.obs.takeLost(p.Address, p.BFD.Enabled, now)
	if !lost {
		return
	}
	if hold > 0 {
		if !s.spare(p) {
			hold = 0
		}
		s.obs.flaps(p.Address, hold)
	}
	if err := rebuild(ctx, srv, p, hold); err != nil {
		s.log.Warn("bgp session not rebuilt", "peer", p.Name, "err", err)
		hold = retryAfter
	}
	if hold > 0 {
		parked[p.Address] = now.Add(hold)
	}
}

// spare reports whether another router of p's side and family has a session: p is not
// the only way in, or to the inside.
func (s *Speaker) spare(p Peer) bool {
	return slices.ContainsFunc(s.cfg.Peers, func(o Peer) bool {
		return o.Address != p.Address && o.Role == p.Role && o.Address.Is4() == p.Address.Is4() && s.obs.get(o.Address).up
	})
}

// rebuild replaces a peer whose session was lost by a new one, or takes it away
// where the new one is to wait. In GoBGP 4.8 a reset that finds the session down
// already stays behind and closes the next one as soon as it is up
// (osrg/gobgp#3561), so that one failure is two flaps; and updates that the lost
// session did not send any more may go out first on the next one. A new peer has no
// leftovers, connects without the idle time, and ends a shutdown by the prefix
// limit. BFD is not part of it, and goes on meanwhile. Its price: a session that ends
// within its first milliseconds can leave one parked goroutine of GoBGP's update
// queue behind.
func rebuild(ctx context.Context, srv *server.BgpServer, p Peer, hold time.Duration) error {
	if err := srv.DeletePeer(ctx, &api.DeletePeerRequest{Address: p.Address.String()}); err != nil {
		return fmt.Errorf("delete bgp peer: %w", err)
	}
	if hold > 0 {
		return nil
	}
	if err := srv.AddPeer(ctx, &api.AddPeerRequest{Peer: apiPeer(p)}); err != nil {
		return fmt.Errorf("add bgp peer: %w", err)
	}
	return nil
}
