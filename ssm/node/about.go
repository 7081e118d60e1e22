package node

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/peer"
	"github.com/shadowcast/shadowcast/ssm/refusal"
	"github.com/shadowcast/shadowcast/ssm/replica"
)

// aboutKind is the datagram kind of a description: about in JSON.
const aboutKind peer.Kind = 3

// aboutEvery is the time between two descriptions to one appliance; the first
// datagram of a restarted one is answered by one at once.
const aboutEvery = 5 * time.Second

// about is what an appliance says of itself that does not change while it runs.
type about struct {
	Version     string `json:"v"`  // of the daemon
	Protocol    uint32 `json:"p"`  // newest replication protocol it speaks
	MinProtocol uint32 `json:"mp"` // oldest
	Fleet       string `json:"f"`  // digest of its fleet section
}

// check refuses what cannot be.
func (x about) check() error {
	const most = 128 // octets of a text
	switch {
	case x.Version == "" || len(x.Version) > most:
		return fmt.Errorf("version has %d octets, want 1 to %d", len(x.Version), most)
	case x.Fleet == "" || len(x.Fleet) > most:
		return fmt.Errorf("fleet digest has %d octets, want 1 to %d", len(x.Fleet), most)
	case x.Protocol == 0 || x.MinProtocol == 0 || x.MinProtocol > x.Protocol:
		return fmt.Errorf("protocol versions %d to %d, want a range from 1", x.MinProtocol, x.Protocol)
	}
	return nil
}

// descriptions is what the others said of themselves.
type descriptions struct {
	a    *Appliance
	mu   sync.Mutex
	of   map[string]about
	said []byte // what we say
}

func newDescriptions(a *Appliance) (*descriptions, error) {
	b, err := json.Marshal(about{Version: a.version, Protocol: replica.ProtocolVersion, MinProtocol: replica.MinProtocolVersion, Fleet: a.cfg.Fleet.Digest()})
	return &descriptions{a: a, of: map[string]about{}, said: b}, err
}

// run tells the others until ctx ends.
func (d *descriptions) run(ctx context.Context) error {
	t := time.NewTicker(aboutEvery)
	defer t.Stop()
	for {
		for _, p := range d.a.cfg.Others() {
			d.tell(p.Name)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (d *descriptions) tell(to string) {
	if err := d.a.peers.Send(to, aboutKind, d.said); err != nil {
		d.a.log.Debug("describe this appliance", "peer", to, "err", err) // it is told again
	}
}

// fromPeer takes a description.
func (d *descriptions) fromPeer(in peer.Inbound) {
	var x about
	err := json.Unmarshal(in.Payload, &x)
	if err == nil {
		err = x.check()
	}
	if err != nil {
		d.a.refusals.Add(refusal.Key{Channel: fromProbes, Reason: "description", Peer: in.From, Source: in.Source.Addr()}, err.Error(), time.Now())
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.of[in.From] = x
}

// fill adds what is known to x.
func (d *descriptions) fill(x *v1.Peer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.of[x.Name]
	if !ok {
		return
	}
	x.Described, x.Version, x.FleetDigestEqual = true, p.Version, p.Fleet == d.a.cfg.Fleet.Digest()
	if x.ProtocolVersion = min(p.Protocol, replica.ProtocolVersion); x.ProtocolVersion < max(p.MinProtocol, replica.MinProtocolVersion) {
		x.ProtocolVersion = 0 // none in common
	}
	if !x.FleetDigestEqual && x.State == v1.PeerState_PEER_STATE_UP {
		x.Reason = "its fleet section differs from ours"
	}
}

// replicationWith is the least advanced stream between this appliance and peer,
// in either direction; unspecified where no slot has both as owner and shadow.
func (a *Appliance) replicationWith(name string, v ssm.View) v1.ReplicationState {
	least := v1.ReplicationState_REPLICATION_STATE_UNSPECIFIED
	take := func(s v1.ReplicationState) {
		if least == v1.ReplicationState_REPLICATION_STATE_UNSPECIFIED || s < least {
			least = s
		}
	}
	for _, s := range v.Slots {
		r := a.places.at(s.Slot)
		switch {
		case r == nil:
		case s.Role == ssm.RoleShadow && string(s.Owner) == name:
			st := a.replicas.receiver.Status(s.Slot)
			switch {
			case !st.Connected || st.Owner != name:
				take(v1.ReplicationState_REPLICATION_STATE_DISCONNECTED)
			case st.Syncing:
				take(v1.ReplicationState_REPLICATION_STATE_SNAPSHOT)
			default:
				take(v1.ReplicationState_REPLICATION_STATE_STREAMING)
			}
		case s.Role == ssm.RoleOwner:
			p := r.published.Load()
			if p == nil {
				continue
			}
			for _, st := range p.Status() {
				switch {
				case st.Name != name:
				case !st.Connected:
					take(v1.ReplicationState_REPLICATION_STATE_DISCONNECTED)
				case st.Syncing:
					take(v1.ReplicationState_REPLICATION_STATE_SNAPSHOT)
				default:
					take(v1.ReplicationState_REPLICATION_STATE_STREAMING)
				}
			}
		}
	}
	return least
}
