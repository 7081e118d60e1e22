// Package lab builds a whole internet in network namespaces on one machine and
// runs scenarios in it: appliances, outside routers and an inside router (BIRD or
// FRR, with BFD), real strongSwan clients, a server, traffic with an account of every
// packet, faults.
//
// It owns everything it makes: namespaces, links, processes, captures, scratch
// files. Close removes all of it, after a crash of a scenario too. It never touches
// the namespace it was started in, and it decides nothing about VPN sessions: it
// observes. Callers are cmd/shadowlab and this package's tests; both run natively
// where the kernel has ESP, else inside user-mode Linux (tests/uml).
//
// Data flow: Options -> addressing plan (pure) -> topology (netlink) -> processes
// -> a Scenario drives clients, traffic and faults -> Result (JSON under
// OutDir/<scenario>/, one line on the terminal).
//
// Nodes share this machine's file system, but for those of scenarios install and migrate: these have
// a root of their own (an overlay in memory), on which the package is installed.
//
// # The internet
//
//	clients c1..  10.20.<n>.0/24            clients on r2  10.21.<n>.0/24
//	     |                                        |
//	    r1 192.0.2.1 AS 65000 ---- iBGP ---- r2 192.0.2.2 AS 65000
//	     |  10.1.<a>.0/24                         |  10.2.<a>.0/24
//	     +------- appliance a: 192.0.2.<10+a>, AS 65001 -------+
//	                |  10.8.<a>.0/24
//	               in 192.0.2.3 AS 65010
//	                |  10.99.0.0/24
//	               srv 10.99.0.1
//
// Every link has the router at .1 and the appliance or client at .2.
//
// Peer traffic between appliances goes to their loopback addresses. It must work
// before BGP does, and stop with the machine's links. So each outside router has a
// static route to each loopback over its own link, with a bad metric, which the
// kernel drops with the link. Once an appliance announces its liveness route, the
// better BGP route takes over; it is passed on to the other appliances and, by iBGP,
// to the other router. Appliances have an ECMP default route over r1 and r2 that
// leaves out links without carrier.
//
// A cut link is set down on the router's side: both ends lose the carrier, and the
// appliance's own routes survive until the link comes back. A power cut is all
// links of an appliance cut and then every process in its namespaces killed.
package lab
