// Package fabric protects what appliances send each other through the peer
// tunnels: decrypted packets of clients that entered at the wrong appliance, and
// packets for the VIP on their way to a slot's owner.
//
// It owns one ordinary charon in the host namespace (directory <run_dir>/fabric),
// the connections in it, and the XFRM policies of priority BlockPriority. It never
// touches the tunnel devices (sa/steer), inner routes (sa/slot), the charons of
// slots or their namespaces, and never decides what is tunnelled to whom.
//
// The appliance shell calls it: Protect before the tunnel devices exist, then Run
// beside everything else. Data flows from the configuration into charon (vici) and
// the kernel (policies); back come notices and Status. Stopping Run leaves charon,
// SAs and policies as they are; the next Run adopts them.
//
// # What is protected
//
// The tunnels are ipip (protocol 4) and gre (protocol 47) between the appliances'
// IPv4 addresses. Each pair of appliances has one CHILD_SA in transport mode with
// the selectors own[4] own[47] === peer[4] peer[47], authenticated by the fleet's
// certificates; the identity is the appliance's name, the certificate's DNS name.
// ESP precedes fragmentation, as RFC 4303 section 3.3.4 wants it in transport mode:
// a full-size inner packet leaves as two fragments of one ESP packet, DF being 0.
//
// # Nothing unprotected
//
// Block policies, weaker than charon's and stronger than none, drop protocols 4 and
// 47
//
//	out  any -> peer     own -> any
//	in   any -> own      peer -> any
//
// so that without SAs nothing leaves in the clear, whatever source address the
// kernel picks, and nothing enters: neither at our address, nor at another of our
// addresses with a peer's name on it, which the steering programs would believe.
// They need no process. Other tunnels of the operator, between other addresses,
// pass.
//
// # Staying up
//
// charon traps traffic without SA, so it heals without the daemon. The daemon
// brings every missing tunnel up at once, and again within seconds, so that none is
// missing when a packet comes. Both ends do that; the one with the lower address
// goes first and the other waits a moment, which makes two tunnels for one pair
// rare. Where they happen, the lower address ends the older one later.
//
// No IKE_SA replaces another (unique = never): with INITIAL_CONTACT one of two that
// cross would be destroyed at one end only, and the other end would send into
// nothing until dead peer detection. The kernel sends on the newest SA, so the one
// that a reboot of the peer left behind does no harm until it is detected as dead.
//
// The reqid of a pair is the peer's address, always. So when charon is killed, its
// SAs in the kernel go on under the policies of the next one until that one has its
// own. What is lost then is what the peer, who has the new SA first, sends before our
// end has it too.
package fabric
