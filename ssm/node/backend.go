package node

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/bgp"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/slot"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/replica"
	"github.com/shadowcast/shadowcast/ssm/session"
)

// serveOperator answers shadowctl until ctx ends.
func (a *Appliance) serveOperator(ctx context.Context) error {
	s := operator.NewServer(a.cfg.Socket(), operator.Backend{Status: backend{a}, Slots: backend{a}, Sessions: backend{a}, Drains: drains{a}, UpgradeLock: a.upgradeLock, Health: a.health, ShadowSets: a.shadowSets, Registrars: a.registrars, Refusals: refusalList{a}}, a.events.log)
	if a.cfg.Operator.IsValid() {
		s.ListenTLS(a.cfg.Operator, a.identity.PeopleTLS())
	}
	s.SetServing(true)
	return s.Run(ctx)
}

// backend answers the operator API from snapshots.
type backend struct{ a *Appliance }

func (b backend) Appliance(ctx context.Context) (*v1.Appliance, error) {
	a := b.a
	v, err := a.view(ctx)
	if err != nil {
		return nil, err
	}
	out := &v1.Appliance{Name: a.cfg.Node, Site: a.self().Site, Version: a.version, Boot: uintText(a.incarnation),
		Started: timestamppb.New(a.started), Uptime: durationpb.New(time.Since(a.started)), Shadowing: a.cfg.Shadowing,
		FleetDigest: a.cfg.Fleet.Digest(), Draining: v.Standing >= ssm.StandingDraining}
	for _, s := range v.Slots {
		switch s.Role {
		case ssm.RoleOwner, ssm.RoleResuming:
			out.SlotsActive++
			if r := a.places.at(s.Slot); r != nil {
				out.Sessions += uint64(r.sessions.Load())
			}
		case ssm.RoleShadow, ssm.RoleTaking:
			out.SlotsShadowed++
		}
	}
	return out, nil
}

func (b backend) Peers(ctx context.Context) ([]*v1.Peer, error) {
	a := b.a
	v, err := a.view(ctx)
	if err != nil {
		return nil, err
	}
	var out []*v1.Peer
	for _, p := range v.Peers {
		cfg := a.appliance(string(p.Node))
		x := &v1.Peer{Name: cfg.Name, Site: cfg.Site, Address: cfg.Address.String(), Boot: uintText(p.Incarnation), State: v1.PeerState_PEER_STATE_UP,
			Draining: p.Standing >= ssm.StandingDraining}
		switch {
		case p.Heard.IsZero():
			x.State, x.Reason = v1.PeerState_PEER_STATE_DOWN, "never heard"
		case p.Suspect:
			x.State, x.Reason = v1.PeerState_PEER_STATE_SUSPECT, "its probes are missing"
			if p.RouteLost {
				x.Reason += ", its liveness route is withdrawn"
			}
		case p.Deaf:
			x.State, x.Reason = v1.PeerState_PEER_STATE_SUSPECT, "it is heard and does not hear this appliance"
		}
		if !p.Heard.IsZero() {
			x.LastHeard = timestamppb.New(p.Heard)
		}
		if st, ok := a.peers.Stats(cfg.Name); ok {
			x.Loss, x.LossOut = st.LossIn, st.LossOut
			if st.Samples > 0 {
				x.Rtt, x.Jitter = durationpb.New(st.RTT), durationpb.New(st.Jitter)
			}
		}
		if x.State != v1.PeerState_PEER_STATE_UP {
			if r, ok := a.refusals.Latest(cfg.Name); ok && time.Since(r.Last) < refusedFor {
				x.State, x.Reason = v1.PeerState_PEER_STATE_REFUSED, x.Reason+"; "+r.Channel+" refused: "+r.Reason
			}
		}
		x.Replication = a.replicationWith(cfg.Name, v)
		a.about.fill(x)
		a.fillMember(x)
		for _, s := range v.Slots {
			if s.Owner == p.Node {
				x.Claims = append(x.Claims, &v1.Claim{Slot: uint32(s.Slot), Ticket: uint64(s.Ticket)})
			}
		}
		out = append(out, x)
	}
	return out, nil
}

func (b backend) BGP(context.Context) (*v1.GetBGPResponse, error) {
	a := b.a
	out := &v1.GetBGPResponse{Enabled: a.routes.speaker != nil}
	if !out.Enabled {
		return out, nil
	}
	out.Asn, out.RouterId = a.cfg.BGP.ASN, a.cfg.BGP.RouterID.String()
	out.Level = v1.BGPLevel_BGP_LEVEL_WITHDRAWN
	for _, p := range a.routes.speaker.Peers() {
		x := &v1.BGPPeer{Name: p.Name, Address: p.Address.String(), Asn: p.ASN, Role: string(p.Role), State: p.Session,
			Bfd: p.BFD, Announced: uint32(p.Advertised), Flaps: uint32(p.Flaps), LastError: p.LastError}
		if x.LastError == "" && !p.Up {
			x.LastError = p.LastDown
		}
		if !p.Since.IsZero() {
			x.Since = timestamppb.New(p.Since)
		}
		out.Peers = append(out.Peers, x)
	}
	for _, n := range a.routes.speaker.Announcements() {
		x := &v1.Announcement{Prefix: n.Prefix.String(), Med: n.MED, Kind: "pool"}
		switch {
		case slices.Contains(a.cfg.Fleet.VIPs, n.Prefix.Addr()) && n.Prefix.IsSingleIP():
			x.Kind, x.Level = "vip", v1.BGPLevel_BGP_LEVEL_NORMAL
			if n.MED > a.cfg.BGP.MEDBase {
				x.Level = v1.BGPLevel_BGP_LEVEL_DEGRADED
			}
			if slices.Contains(n.Communities, bgp.GracefulShutdown) {
				x.Level = v1.BGPLevel_BGP_LEVEL_DRAINING
			}
			out.Level = x.Level
		case n.Prefix == hostPrefix(a.self().Address):
			x.Kind = "liveness"
		default:
			for _, s := range a.cfg.Fleet.Slots {
				switch {
				case slices.Contains(s.Pools, n.Prefix):
					x.Slot = uint32(s.Number)
				case slices.Contains(a.routes.behindOf(s.Number), n.Prefix):
					x.Kind, x.Slot = "network", uint32(s.Number)
				}
			}
		}
		for _, c := range n.Communities {
			x.Communities = append(x.Communities, c.String())
		}
		for _, c := range n.Large {
			x.Communities = append(x.Communities, c.String())
		}
		for _, p := range out.Peers {
			if p.Role == string(n.Role) {
				x.Peers = append(x.Peers, p.Name)
			}
		}
		out.Announcements = append(out.Announcements, x)
	}
	return out, nil
}

func (b backend) Slots(ctx context.Context) ([]*v1.Slot, error) {
	v, err := b.a.view(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]*v1.Slot, 0, len(v.Slots))
	for _, s := range v.Slots {
		out = append(out, b.a.slotProto(s))
	}
	return out, nil
}

func (a *Appliance) slotProto(s ssm.SlotView) *v1.Slot {
	x := &v1.Slot{Number: uint32(s.Slot), Home: string(s.Home), Owner: string(s.Owner), OwnerTicket: uint64(s.Ticket), Role: v1.Role_ROLE_NONE,
		State: v1.SlotState_SLOT_STATE_ABSENT, Ticket: uint64(s.Armed), OwnedReason: s.Why, Fence: &v1.Fence{State: v1.FenceState_FENCE_STATE_CLOSED}, Reason: s.Reason}
	if !s.Since.IsZero() {
		x.OwnedSince = timestamppb.New(s.Since)
	}
	for _, p := range fleetSlot(a.cfg, s.Slot).Pools {
		x.Pools = append(x.Pools, p.String())
	}
	for _, p := range a.routes.behindOf(s.Slot) {
		x.Networks = append(x.Networks, p.String())
	}
	switch s.Role {
	case ssm.RoleOwner:
		x.Role, x.State, x.Ticket, x.Reason = v1.Role_ROLE_OWNER, v1.SlotState_SLOT_STATE_ACTIVE, uint64(s.Ticket), ""
	case ssm.RoleResuming:
		x.Role, x.State, x.Reason = v1.Role_ROLE_OWNER, v1.SlotState_SLOT_STATE_CLAIMING, "listening for a higher claim"
	case ssm.RoleDraining:
		x.State = v1.SlotState_SLOT_STATE_LEAVING
	case ssm.RoleTaking:
		x.Role, x.State = v1.Role_ROLE_SHADOW, v1.SlotState_SLOT_STATE_CLAIMING
	case ssm.RoleShadow:
		x.Role, x.State = v1.Role_ROLE_SHADOW, v1.SlotState_SLOT_STATE_PASSIVE
	}
	x.Steering = &v1.Steering{Uplink: steerProto(s.Steer.Uplink), Peer: steerProto(s.Steer.Peer), Via: string(s.Steer.Uplink.Remote)}
	r := a.places.at(s.Slot)
	if r == nil {
		x.Reason = ""
		return x
	}
	if !s.Up {
		x.State = v1.SlotState_SLOT_STATE_STARTING
		if s.Reason != "" && s.Role != ssm.RoleShadow {
			x.State = v1.SlotState_SLOT_STATE_FAILED
		}
	}
	if open, until, err := a.host.Fence(s.Slot); err == nil && open {
		x.Fence.State = v1.FenceState_FENCE_STATE_OPEN
		if until != slot.NoDeadline {
			x.Fence.State, x.Fence.Remaining = v1.FenceState_FENCE_STATE_DEADLINE, durationpb.New(until.Left())
		}
	}
	x.Sessions = uint64(r.sessions.Load())
	x.Charon = &v1.Charon{Pid: int32(r.pid.Load()), State: v1.CharonState_CHARON_STATE_RUNNING}
	if x.Charon.Pid == 0 {
		x.Charon.State = v1.CharonState_CHARON_STATE_DEAD
	} else {
		x.Charon.Uptime, x.Charon.Restarts = durationpb.New(time.Since(time.Unix(0, r.started.Load()))), max(r.lives.Load(), 1)-1
	}
	x.Counters = a.slotCounters(s.Slot, r)
	status := map[string]replica.ShadowStatus{}
	if p := r.published.Load(); p != nil {
		for _, st := range p.Status() {
			status[st.Name] = st
		}
	}
	for _, m := range s.Shadows {
		sh := &v1.Shadow{Name: string(m.Node), Ticket: uint64(m.Ticket), Ready: m.Ready && !m.Leaving, Leaving: m.Leaving}
		if st, ok := status[sh.Name]; ok {
			sh.Connected, sh.LagMessages, sh.Lag, sh.DigestsEqual = st.Connected, uint64(st.Lag), durationpb.New(st.OldestAge), st.DigestEqual
			sh.Sessions, sh.Reason = uint64(st.Sessions), st.Reason
			if st.SampleAge >= 0 {
				sh.ReplayAge = durationpb.New(st.SampleAge)
			}
		} else if sh.Name == a.cfg.Node {
			sh.Reason = s.Reason
		}
		if sh.Leaving {
			sh.Reason = "was let go; its ticket is not void yet"
		}
		if !sh.Ready && sh.Reason == "" && m.Ticket <= s.Ticket {
			sh.Reason = "holds no ticket"
		}
		x.Shadows = append(x.Shadows, sh)
	}
	return x
}

func (a *Appliance) slotCounters(n sa.Slot, r *slotRuntime) map[string]uint64 {
	out := map[string]uint64{}
	if h, err := a.steer.SlotHits(n); err == nil {
		out["packets_uplink_local"], out["packets_peer_local"], out["packets_tunnelled"] = h.LocalUplink, h.LocalPeer, h.Remote
	}
	if l := r.linked.Load(); l != nil {
		st := l.Stats()
		out["ha_received"], out["ha_undecodable"], out["ha_dropped"], out["ha_sent"] = st.Received, st.Undecodable, st.KernelDrops+st.PeerDrops, st.Sent
	}
	if st := r.ledgerStats.Load(); st != nil {
		out["ledger_applied"], out["ledger_ignored"], out["ledger_duplicates"], out["ledger_unknown"] = st.Applied, st.Ignored, st.Duplicates, st.Unknown
		out["ledger_malformed"], out["ledger_limits"], out["ledger_half_open"], out["ledger_committed"] = st.Malformed, st.Limits, st.HalfOpen, st.Committed
		out["ledger_dropped"], out["ledger_suspects"], out["ledger_conflicts"] = st.Dropped, st.Suspects, st.Conflicts
	}
	if d, err := a.host.Drops(n); err == nil {
		out["fence_dropped_in"], out["fence_dropped_out"], out["fence_dropped_barred"] = d.Ingress, d.Egress, d.Barred
	}
	return out
}

func steerProto(t ssm.Target) v1.SteerAction {
	switch {
	case t.Local:
		return v1.SteerAction_STEER_ACTION_LOCAL
	case t.Remote != "":
		return v1.SteerAction_STEER_ACTION_TUNNEL
	}
	return v1.SteerAction_STEER_ACTION_DROP
}

// Handover moves a slot; the request may come to the owner only, because only
// the owner knows when it is done.
func (b backend) Handover(ctx context.Context, n sa.Slot, to, reason string, progress func(*v1.HandoverProgress)) (*v1.HandoverAccount, error) {
	a := b.a
	r := a.places.at(n)
	if r == nil {
		return nil, operator.NotFound("SLOT_NOT_HERE", "slot %d has no place on %s", n, a.cfg.Node)
	}
	v, err := a.view(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range v.Slots {
		if s.Slot == n && s.Role != ssm.RoleOwner {
			return nil, operator.Refused("NOT_OWNER", "%s does not own slot %d; ask its owner %s", a.cfg.Node, n, s.Owner).With("owner", string(s.Owner))
		}
	}
	sessions := uint64(r.sessions.Load())
	id, reports := a.moves.follow()
	defer a.moves.forget(id)
	began := time.Now()
	a.post(ssm.EvMove{Slot: n, To: ssm.Node(to), ID: id, Reason: reason})
	acc := &v1.HandoverAccount{Slot: uint32(n), From: a.cfg.Node, To: to, SessionsMoved: sessions}
	phase, since := v1.HandoverPhase_HANDOVER_PHASE_UNSPECIFIED, began
	enter := func(p v1.HandoverPhase) {
		now := time.Now()
		if phase != v1.HandoverPhase_HANDOVER_PHASE_UNSPECIFIED && p != phase {
			acc.Phases = append(acc.Phases, &v1.PhaseTime{Phase: phase, Elapsed: durationpb.New(now.Sub(since))})
			since = now
		}
		phase = p
	}
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case m := <-reports:
			switch m.Phase {
			case "refused", "aborted":
				return nil, operator.Refused("MOVE_"+strings.ToUpper(m.Phase), "%s: %s", m.Text, m.Reason)
			case "done":
				enter(v1.HandoverPhase_HANDOVER_PHASE_UNSPECIFIED)
				acc.Elapsed = durationpb.New(time.Since(began))
				if v, err := a.view(ctx); err == nil {
					for _, s := range v.Slots {
						if s.Slot == n {
							acc.Ticket = uint64(s.Ticket)
						}
					}
				}
				acc.PacketsLate, acc.Hold = m.Late, durationpb.New(m.Hold)
				return acc, nil
			}
			enter(phases[m.Phase])
			progress(&v1.HandoverProgress{Phase: phases[m.Phase], Message: m.Phase + ": " + m.Reason, Elapsed: durationpb.New(time.Since(began))})
		}
	}
}

var phases = map[string]v1.HandoverPhase{
	"prepare": v1.HandoverPhase_HANDOVER_PHASE_PREPARE, "quiesce": v1.HandoverPhase_HANDOVER_PHASE_NEW_SESSIONS,
	"flush": v1.HandoverPhase_HANDOVER_PHASE_MOVE, "take": v1.HandoverPhase_HANDOVER_PHASE_MOVE, "flip": v1.HandoverPhase_HANDOVER_PHASE_MOVE,
	"drain": v1.HandoverPhase_HANDOVER_PHASE_DRAIN, "close": v1.HandoverPhase_HANDOVER_PHASE_VERIFY,
}

// all returns the documents held here for slot n, or for all slots.
func (b backend) all(ctx context.Context, n sa.Slot) map[*slotRuntime][]*session.Document {
	out := map[*slotRuntime][]*session.Document{}
	for _, r := range b.a.places.all() {
		if n == 0 || r.n == n {
			out[r] = ask(ctx, r.queue, r.documents)
		}
	}
	return out
}

func (b backend) Sessions(ctx context.Context, n sa.Slot, after string, limit int) ([]*v1.Session, error) {
	var out []*v1.Session
	for r, docs := range b.all(ctx, n) {
		for _, d := range docs {
			if d.SessionID > after {
				out = append(out, sessionProto(r, d))
			}
		}
	}
	slices.SortFunc(out, func(x, y *v1.Session) int { return strings.Compare(x.Id, y.Id) })
	return out[:min(limit, len(out))], nil
}

func (b backend) Session(ctx context.Context, id string, reveal bool) (*v1.Session, []byte, error) {
	for r, docs := range b.all(ctx, 0) {
		for _, d := range docs {
			if d.SessionID != id {
				continue
			}
			doc, err := d.MarshalJSON()
			if reveal {
				doc, err = d.EncodeSecret()
			}
			return sessionProto(r, d), doc, err
		}
	}
	return nil, nil, operator.NotFound("SESSION_UNKNOWN", "no session %q is held on %s; 'shadowctl session list' shows those that are", id, b.a.cfg.Node)
}

func sessionProto(r *slotRuntime, d *session.Document) *v1.Session {
	x := &v1.Session{Id: d.SessionID, Slot: uint32(d.Slot), Connection: attrText(d, charon.ConfigName), Identity: attrText(d, charon.RemoteID),
		Client:   netip.AddrPortFrom(clientAddr(d), d.Ports.ClientPort).String(),
		Children: uint32(len(d.Children)), Tier: d.Tier, Proposal: strings.Trim(d.Crypto.EncryptionAlgorithm+" / "+d.ESP.Algorithm, " /"), Role: v1.Role_ROLE_SHADOW}
	if g := d.Live(); g != nil {
		x.IkeSpiInitiator, x.IkeSpiResponder = g.ID.Initiator.String(), g.ID.Responder.String()
	}
	if d.ClientInternalIP != "" {
		x.InnerAddresses = strings.Split(d.ClientInternalIP, ",")
	}
	if d.Ports.ClientPort != 0 && d.Ports.ServerPort == 4500 {
		x.UdpEncapsulated = true
	}
	for _, c := range d.Children {
		if !c.Created.IsZero() && (x.Established == nil || c.Created.Before(x.Established.AsTime())) {
			x.Established = timestamppb.New(c.Created)
		}
	}
	if p := r.published.Load(); p != nil {
		x.Role = v1.Role_ROLE_OWNER
		for _, s := range p.Status() {
			if s.Ready && s.Lag == 0 && r.selected(d.SessionID, s.Name) {
				x.HeldBy = append(x.HeldBy, s.Name)
			}
		}
	}
	return x
}

func clientAddr(d *session.Document) netip.Addr {
	a, _ := netip.ParseAddr(d.ClientIP) // empty in a document without an address
	return a
}

// attrText returns the name or identity that charon gave for the session.
func attrText(d *session.Document, t charon.AttrType) string {
	g := d.Live()
	if g == nil {
		return ""
	}
	a, ok := charon.Message{Attrs: g.Update}.Find(t)
	if !ok {
		return ""
	}
	if name, err := a.Name(); err == nil {
		return name
	}
	if id, err := a.Identity(); err == nil {
		return id.String()
	}
	return ""
}

func uintText(n uint64) string { return strconv.FormatUint(n, 10) }
