// Package slot is the namespace seam of a slot on one appliance: the network
// namespace with its veth pair, VIP and routes, the fence that keeps a passive
// slot silent, the hold that keeps packets in order while a slot moves, and
// the routes of its inner prefixes.
//
// It owns everything it names: the network namespaces <prefix><n>, the devices
// scv<n> and uplink, the pins below Config.PinDir, and the routes of protocol
// 115 in the host namespace. It never starts a charon, never touches SAs, never
// decides who owns a slot, and never puts the VIP into the host namespace.
//
// The node calls it: Set with the whole desired state (idempotent, repairs
// drift, adopts what an earlier daemon left), then fence, hold and inner routes
// as the SSM decides. Package steer takes the result of Links. CleanUp removes
// everything, also after a crash.
//
//	host namespace                            namespace <prefix><n>
//	  scv<n>  02:53:43:00:<n>  <---veth--->  uplink  02:53:43:01:<n>
//	  plug (hold)                             fence, ingress and egress
//	  neighbours 169.254.0.2, fe80::2         neighbours 169.254.0.1, fe80::1
//	  inner prefixes via 169.254.0.2,         default via 169.254.0.1, fe80::1,
//	  fe80::2, metric n, protocol 115         source VIP; VIP on lo
//
// Neither end of the veth carries an address: next hops are permanent
// neighbours, equal on every veth, reached with onlink routes. 169.254.0.0/24
// is the part of the link-local range that RFC 3927 section 2.1 keeps free of
// autoconfiguration, and no packet ever carries these addresses.
//
// # Fence
//
// Two tc programs on uplink pass nothing but ARP and neighbour discovery while
// the fence is closed. The fence is one 64-bit word: the CLOCK_MONOTONIC time
// until which it is open, 0 for closed, all ones for open without a deadline.
// So a daemon that freezes or dies closes its slots without doing anything, and
// closing is one map write. Map and programs are pinned: a restarted daemon
// finds an open fence open. A namespace that is new starts closed.
//
// While the fence is open its egress side still drops, and counts, packets to
// the slot's own inner prefixes that no policy encrypted: the host would route
// them straight back, TTL times, in the clear.
//
// # Inner prefixes of a slot elsewhere
//
// InnerVia routes them into the tunnel devices of package steer by lightweight
// tunnel encapsulation (`encap ip dst <peer>`): IPv4 through the ipip device
// Config.Tunnel, IPv6 through the gre device Config.Tunnel+"6", both in
// collect-metadata mode and with an outer IPv4 header. ipip carries IPv4 only,
// and sit knows no collect-metadata mode.
package slot
