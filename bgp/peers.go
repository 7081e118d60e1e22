package bgp

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/api"
)

// PeerState is a snapshot of one session.
type PeerState struct {
	Name         string
	Address      netip.Addr
	LocalAddress netip.Addr
	ASN          uint32
	Role         Role
	// Session is the BGP state: stopped, idle, active, opensent, openconfirm or
	// established.
	Session string
	// BFD is off, down, init, up or admin_down.
	BFD string
	// Up, and since when; when down, since when it has been, zero if it never
	// was up.
	Up    bool
	Since time.Time
	// Flaps counts losses of an established session. GoBGP's own counters stay 0.
	Flaps uint64
	// LastDown says why it was lost last; LastError why it does not come up.
	LastDown   string
	LastError  string
	Received   uint64 // prefixes the router sent
	Accepted   uint64 // of these, past the AS loop check
	Advertised uint64 // prefixes it got from us
}

// Peers returns the state of every configured session, in configured order.
func (s *Speaker) Peers() []PeerState {
	srv := s.server()
	found := map[string]*api.Peer{}
	if srv != nil {
		ctx := context.Background()
		_ = srv.ListPeer(ctx, &api.ListPeerRequest{EnableAdvertised: true}, func(p *api.Peer) {
			found[p.GetState().GetNeighborAddress()] = p
		})
	}
	out := make([]PeerState, 0, len(s.cfg.Peers))
	for _, c := range s.cfg.Peers {
		h := s.obs.get(c.Address)
		p := PeerState{
			Name: c.Name, Address: c.Address, LocalAddress: c.LocalAddress, ASN: c.ASN, Role: c.Role,
			Session: "stopped", BFD: "off",
			Up: h.up, Since: h.since, Flaps: h.flaps, LastDown: h.reason, LastError: s.diag.get(c.Address),
		}
		if st, ok := s.bfd.Status(c.Address); ok {
			p.BFD = st.State.String()
		}
		if g := found[c.Address.String()]; g != nil {
			p.Session = strings.ToLower(strings.TrimPrefix(g.GetState().GetSessionState().String(), "SESSION_STATE_"))
			for _, f := range g.GetAfiSafis() {
				p.Received += f.GetState().GetReceived()
				p.Accepted += f.GetState().GetAccepted()
				p.Advertised += f.GetState().GetAdvertised()
			}
		}
		out = append(out, p)
	}
	return out
}
