package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Interface names inside the nodes.
const (
	devUplink1 = "up1" // appliance to r1
	devUplink2 = "up2" // appliance to r2
	devInside  = "in0" // appliance to `in`
	devClient  = "eth0"
)

// firstIndex is above any interface index that the kernel hands out here.
const firstIndex = 10000

// Link is one cable: A is the router's (or NAT's) end, B the appliance's, client's
// or server's.
type Link struct {
	A, B       *Netns
	DevA, DevB string
	lost       []netlink.Route // routes of A that went with the link
}

// nodeName names the namespaces of this lab on the machine.
func (l *Lab) nodeName(node string) string { return l.id + "-" + node }

func (l *Lab) addNode(name string, loopback netip.Addr) (*Netns, error) {
	n, err := newNetns(l.nodeName(name))
	if err != nil {
		return nil, err
	}
	l.nodes[name] = n
	if err := n.sysctl(nodeSysctls...); err != nil {
		return nil, err
	}
	if err := n.setUp("lo", true); err != nil {
		return nil, err
	}
	if loopback.IsValid() {
		return n, n.addAddr("lo", single(loopback))
	}
	return n, nil
}

// addLink lays a cable: the first node has address .1 of p, the second .2.
func (l *Lab) addLink(a, devA, b, devB string, p netip.Prefix) error {
	k := &Link{A: l.nodes[a], B: l.nodes[b], DevA: devA, DevB: devB}
	if err := connect(k.A, devA, on(p, 1), k.B, devB, on(p, 2), firstIndex+len(l.links)); err != nil {
		return err
	}
	l.links[linkKey{a, b}] = k
	return nil
}

// addLink6 gives a cable IPv6 addresses besides, numbered alike.
func (l *Lab) addLink6(a, b string, p netip.Prefix) error {
	k, err := l.Link(a, b)
	if err != nil {
		return err
	}
	return errors.Join(k.A.addAddr(k.DevA, on(p, 1)), k.B.addAddr(k.DevB, on(p, 2)))
}

type linkKey struct{ a, b string }

// build makes the namespaces and the links of the plan.
func (l *Lab) build() error {
	for r := 1; r <= 2; r++ {
		if _, err := l.addNode(routerName(r), RouterLoopback(r)); err != nil {
			return err
		}
	}
	if _, err := l.addNode("in", RouterLoopback(3)); err != nil {
		return err
	}
	srv, err := l.addNode("srv", netip.Addr{})
	if err != nil {
		return err
	}
	if err := l.addLink("r1", "r2", "r2", "r1", routerLink); err != nil {
		return err
	}
	if l.opt.ipv6() {
		if err := l.addLink6("r1", "r2", linkNet6(3, 0)); err != nil {
			return err
		}
	}
	// The server has .1 here, for InsideNet's first address is well known.
	if err := l.addLink("srv", devClient, "in", "srv", InsideNet); err != nil {
		return err
	}
	if err := srv.route(netip.Prefix{}, netip.Addr{}, host(InsideNet, 2)); err != nil {
		return err
	}
	for i, name := range l.opt.Appliances {
		if err := l.buildAppliance(i+1, name); err != nil {
			return err
		}
	}
	for i := range l.opt.Clients {
		if err := l.buildClient(i+1, l.opt.Clients[i]); err != nil {
			return err
		}
	}
	return l.buildRoutes()
}

func routerName(r int) string { return fmt.Sprintf("r%d", r) }

func (l *Lab) buildAppliance(n int, name string) error {
	ns, err := l.addNode(name, ApplianceLoopback(n))
	if err != nil {
		return err
	}
	for _, k := range []struct {
		router, dev string
		net         int
	}{{"r1", devUplink1, 1}, {"r2", devUplink2, 2}, {"in", devInside, insideLink}} {
		if err := l.addLink(k.router, name, name, k.dev, linkNet(k.net, n)); err != nil {
			return err
		}
		if l.opt.ipv6() && k.net != insideLink {
			if err := l.addLink6(k.router, name, linkNet6(k.net, n)); err != nil {
				return err
			}
		}
	}
	a := &Appliance{Name: name, N: n, Addr: ApplianceLoopback(n), lab: l, ns: ns}
	if err := a.routes(); err != nil {
		return err
	}
	l.appliances = append(l.appliances, a)
	return nil
}

// routes sets what an operator's network configuration would: the default route
// over both routers, the protected network over the inside router.
func (a *Appliance) routes() error {
	if err := a.ns.route(netip.Prefix{}, a.Addr, host(linkNet(1, a.N), 1), host(linkNet(2, a.N), 1)); err != nil {
		return err
	}
	if a.lab.opt.ipv6() {
		if err := a.ns.route(anywhere6, netip.Addr{}, host(linkNet6(1, a.N), 1), host(linkNet6(2, a.N), 1)); err != nil {
			return err
		}
	}
	return a.ns.route(InsideNet.Masked(), netip.Addr{}, host(linkNet(insideLink, a.N), 1))
}

// anywhere6 is the IPv6 default route.
var anywhere6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)

func (l *Lab) buildClient(n int, s ClientSpec) error {
	ns, err := l.addNode(s.Name, netip.Addr{})
	if err != nil {
		return err
	}
	access := accessNet(s.Router, n)
	c := &Client{Name: s.Name, Spec: s.Conn, lab: l, ns: ns, Addr: host(access, 2), Public: host(access, 2)}
	router := routerName(s.Router)
	if s.IPv6 {
		access = linkNet6(19+s.Router, n)
		c.Addr, c.Public = host(access, 2), host(access, 2)
		if err := l.addLink(router, s.Name, s.Name, devClient, access); err != nil {
			return err
		}
		l.clients = append(l.clients, c)
		return ns.route(anywhere6, netip.Addr{}, host(access, 1))
	}
	if !s.NAT {
		if err := l.addLink(router, s.Name, s.Name, devClient, access); err != nil {
			return err
		}
		l.clients = append(l.clients, c)
		return ns.route(netip.Prefix{}, netip.Addr{}, host(access, 1))
	}
	nat := s.Name + "nat"
	box, err := l.addNode(nat, netip.Addr{})
	if err != nil {
		return err
	}
	if err := l.addLink(router, s.Name, nat, natOutside, access); err != nil {
		return err
	}
	if err := l.addLink(nat, natInside, s.Name, devClient, homeNet(n)); err != nil {
		return err
	}
	if err := box.route(netip.Prefix{}, netip.Addr{}, host(access, 1)); err != nil {
		return err
	}
	if err := ns.route(netip.Prefix{}, netip.Addr{}, host(homeNet(n), 1)); err != nil {
		return err
	}
	c.Addr = host(homeNet(n), 2)
	if c.nat, err = newNAT(box, c.Addr, c.Public); err != nil {
		return err
	}
	l.clients = append(l.clients, c)
	return nil
}

// buildRoutes gives the routers what they know without BGP. What BIRD learns about
// the loopbacks has a better metric.
func (l *Lab) buildRoutes() error {
	for r := 1; r <= 2; r++ {
		ns, other := l.nodes[routerName(r)], 3-r
		if err := ns.route(accessNets(other), netip.Addr{}, host(routerLink, other)); err != nil {
			return err
		}
		if err := ns.route(single(RouterLoopback(other)), netip.Addr{}, host(routerLink, other)); err != nil {
			return err
		}
		if l.opt.ipv6() {
			// The other router's clients, and its links with the appliances.
			for _, net := range []int{19 + other, other} {
				if err := ns.route(linkNets6(net), netip.Addr{}, host(linkNet6(3, 0), other)); err != nil {
					return err
				}
			}
		}
		for i := range l.opt.Appliances {
			if err := ns.routeMetric(single(ApplianceLoopback(i+1)), netip.Addr{}, bootstrapMetric, host(linkNet(r, i+1), 2)); err != nil {
				return err
			}
		}
	}
	return nil
}
