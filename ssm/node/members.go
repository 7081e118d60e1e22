package node

import (
	"context"
	"net/netip"
	"runtime"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm/member"
	"github.com/shadowcast/shadowcast/ssm/refusal"
)

// gossipAgain is the time between attempts to use the gossip port.
const gossipAgain = 10 * time.Second

// newMembers prepares this appliance's part of membership: the fleet section
// says who may be a member and where.
func newMembers(a *Appliance, key sa.Key) (*member.Gossip, error) {
	me := a.self()
	c := member.Config{Self: a.cfg.Node, Fleet: a.identity.Fleet(), Key: key, Bind: me.Gossip(), Others: map[string]netip.AddrPort{}, Logger: a.log,
		About: member.Meta{Version: a.version, Site: me.Site, Rack: me.Labels.Rack, Power: me.Labels.Power,
			Lat: me.Location.Lat, Lon: me.Location.Lon, Processors: runtime.NumCPU()},
		Refused: func(reason, peer string, source netip.Addr, detail string) {
			a.refusals.Add(refusal.Key{Channel: fromGossip, Reason: reason, Peer: peer, Source: source}, detail, time.Now())
		},
		Changed: func(name string, s member.State) {
			a.events.Add(Entry{Kind: "member", Text: "gossip: appliance " + name + " is " + s.Presence})
		}}
	for _, p := range a.cfg.Others() {
		c.Others[p.Name] = p.Gossip()
	}
	return member.New(c)
}

// runMembers gossips until ctx ends. It informs only, so a port that cannot be
// used does not end the daemon.
func (a *Appliance) runMembers(ctx context.Context) error {
	for {
		if err := a.members.Run(ctx); ctx.Err() != nil {
			return nil
		} else if err != nil {
			a.problem(0, "gossip with the other appliances", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(gossipAgain):
		}
	}
}

// fillMember adds to x what gossip says.
func (a *Appliance) fillMember(x *v1.Peer) {
	s := a.members.State(x.Name)
	if s.Presence == "" {
		return
	}
	x.Membership, x.MembershipSince = s.Presence, timestamppb.New(s.Since)
	x.Rack, x.Power, x.Processors = s.Meta.Rack, s.Meta.Power, uint32(s.Meta.Processors)
	if x.Version == "" {
		x.Version = s.Meta.Version
	}
	if x.Reason == "" && s.Meta.Site != x.Site {
		x.Reason = "it says that its site is " + s.Meta.Site
	}
}
