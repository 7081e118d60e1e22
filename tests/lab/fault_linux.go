package lab

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link returns the cable between two nodes, given router (or NAT, or `in`) first:
// Link("r1", "ams"), Link("in", "fra"), Link("r1", "c1"), Link("r1", "r2").
func (l *Lab) Link(a, b string) (*Link, error) {
	if k := l.links[linkKey{a, b}]; k != nil {
		return k, nil
	}
	return nil, fmt.Errorf("find link %s-%s: there is none", a, b)
}

// Cut takes the carrier away from both ends at once, as a pulled cable does. The
// end at A, the router's, is the one set down: B keeps its routes for later, and A
// gets its static ones back from Restore.
func (k *Link) Cut() error {
	rs, err := k.A.staticRoutes(k.DevA)
	if err != nil {
		return err
	}
	if k.lost == nil {
		k.lost = rs
	}
	return k.A.setUp(k.DevA, false)
}

// Restore plugs the cable in again.
func (k *Link) Restore() error {
	if err := k.A.setUp(k.DevA, true); err != nil {
		return err
	}
	for _, r := range k.lost {
		if err := k.A.nl.RouteReplace(&r); err != nil {
			return fmt.Errorf("restore route to %s in %s: %w", r.Dst, k.A.Name, err)
		}
	}
	k.lost = nil
	return nil
}

// Blackhole drops every packet both ways while both ends keep their carrier: only
// BFD, or a time-out, can tell. Remove both filters to end it.
func (k *Link) Blackhole() (undo func() error, err error) {
	in, err := k.A.DropAll(k.DevA, Ingress)
	if err != nil {
		return nil, err
	}
	out, err := k.A.DropAll(k.DevA, Egress)
	if err != nil {
		return nil, errors.Join(err, in.Remove())
	}
	return func() error { return errors.Join(in.Remove(), out.Remove()) }, nil
}

// Impairment is what netem does to packets.
type Impairment struct {
	Delay  time.Duration
	Jitter time.Duration
	Loss   float64 // per cent
	Limit  int     // packets held at most; 10000 if 0
}

// Impair applies i to packets in both directions, half of a round trip each; the
// zero Impairment ends it.
func (k *Link) Impair(i Impairment) error {
	return errors.Join(k.A.impair(k.DevA, i), k.B.impair(k.DevB, i))
}

// ImpairFromB applies i one way only, to what B sends.
func (k *Link) ImpairFromB(i Impairment) error { return k.B.impair(k.DevB, i) }

func (n *Netns) impair(dev string, i Impairment) error {
	l, err := n.link(dev)
	if err != nil {
		return err
	}
	a := netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	if i == (Impairment{}) {
		err := n.nl.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: a, QdiscType: "netem"})
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("remove netem from %s in %s: %w", dev, n.Name, err)
		}
		return nil
	}
	limit := i.Limit
	if limit == 0 {
		limit = 10000
	}
	q := netlink.NewNetem(a, netlink.NetemQdiscAttrs{
		Latency: uint32(i.Delay.Microseconds()), Jitter: uint32(i.Jitter.Microseconds()),
		Loss: float32(i.Loss), Limit: uint32(limit),
	})
	if err := n.nl.QdiscReplace(q); err != nil {
		return fmt.Errorf("set netem on %s in %s: %w", dev, n.Name, err)
	}
	return nil
}

// links of an appliance, by its routers.
func (a *Appliance) links() ([]*Link, error) {
	var out []*Link
	for _, r := range []string{"r1", "r2", "in"} {
		k, err := a.lab.Link(r, a.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

// Unplug cuts every cable of the appliance; what runs on it goes on.
func (a *Appliance) Unplug() error { return a.eachLink((*Link).Cut) }

// Plug restores every cable.
func (a *Appliance) Plug() error { return a.eachLink((*Link).Restore) }

func (a *Appliance) eachLink(f func(*Link) error) error {
	ks, err := a.links()
	var errs []error
	for _, k := range ks {
		errs = append(errs, f(k))
	}
	return errors.Join(append(errs, err)...)
}
