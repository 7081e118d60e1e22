package lab

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func init() {
	Register(Scenario{
		Name: "refusals", Doc: "the appliances describe each other; strangers on their ports are refused by reason, and nothing moves",
		Need: fleetNeed, Options: fleetOptions(ConnSpec{}), Bench: true, Run: refusals,
	})
}

func refusals(t *T, l *Lab) {
	fleetUp(t, l)
	ctx := t.Context()
	at := l.Appliances()[0]
	for _, a := range l.Appliances() {
		api, err := a.API()
		t.Check(err)
		t.Check(poll(ctx, 200*time.Millisecond, a.Name+": everything is known of every peer", func() (bool, error) {
			r, err := api.GetPeers(ctx, &v1.GetPeersRequest{})
			return err == nil && len(r.Peers) == len(l.Appliances())-1 && !slices.ContainsFunc(r.Peers, func(p *v1.Peer) bool {
				return p.Membership != "alive" || !p.Described || !p.FleetDigestEqual || p.Version == "" || p.ProtocolVersion == 0 || p.Processors == 0 ||
					p.Replication != v1.ReplicationState_REPLICATION_STATE_STREAMING || p.Rtt == nil
			}), err
		}))
	}
	// One of each kind, from a router, which is no appliance.
	stranger := []struct {
		network string
		port    uint16
		send    []byte
		want    string
	}{
		{"udp4", 4502, append([]byte{1, 1, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1}, append([]byte("mallory"), make([]byte, 80)...)...), "probe/unknown sender/mallory"},
		{"udp4", 4502, []byte("short"), "probe/truncated/"},
		{"udp4", 4504, []byte("no label, no key"), "gossip/another fleet/"},
		{"tcp4", 4501, []byte("GET / HTTP/1.1\r\n\r\n"), "replication/not TLS/"},
		{"tcp4", 4503, []byte("GET / HTTP/1.1\r\n\r\n"), "registrars/not TLS/"},
	}
	api, err := at.API()
	t.Check(err)
	for _, x := range stranger {
		t.Check(poll(ctx, 200*time.Millisecond, x.want+" is counted", func() (bool, error) {
			err := l.Node("r1").Do(func() error {
				c, err := net.DialTimeout(x.network, netip.AddrPortFrom(at.Addr, x.port).String(), 5*time.Second)
				if err != nil {
					return fmt.Errorf("reach port %d of %s: %w", x.port, at.Name, err)
				}
				defer c.Close()
				_, err = c.Write(x.send)
				return err
			})
			if err != nil {
				return true, err
			}
			r, err := api.GetPeers(ctx, &v1.GetPeersRequest{})
			return err == nil && slices.ContainsFunc(r.Refusals, func(f *v1.Refusal) bool {
				return f.Channel+"/"+f.Reason+"/"+f.Peer == x.want && f.Source != "" && f.Count > 0
			}), err
		}))
	}
	r, err := api.GetPeers(ctx, &v1.GetPeersRequest{})
	t.Check(err)
	for _, f := range r.Refusals {
		t.Logf("refused: %s, %s, %q from %s, %d times", f.Channel, f.Reason, f.Peer, f.Source, f.Count)
	}
	for _, n := range l.HomeSlots(at) {
		if o := owned(t, l, uint32(n)); o != at {
			t.Errorf("slot %d is owned by %s, want its home %s", n, o.Name, at.Name)
		}
	}
}
