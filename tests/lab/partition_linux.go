package lab

import (
	"errors"
	"net/netip"
	"slices"
)

// Deafen lets nothing of the given appliances reach a any more, on any of its
// links; what a sends still reaches them, and its routers reach it as ever.
func (a *Appliance) Deafen(to ...*Appliance) (undo func() error, err error) {
	var from []netip.Addr
	for _, o := range to {
		from = append(from, o.Addr)
	}
	var fs []*Filter
	undo = func() error {
		var errs []error
		for _, f := range fs {
			errs = append(errs, f.Remove())
		}
		return errors.Join(errs...)
	}
	for _, dev := range []string{devUplink1, devUplink2, devInside} {
		f, err := a.ns.DropFrom(dev, Ingress, from...)
		if err != nil {
			return nil, errors.Join(err, undo())
		}
		fs = append(fs, f)
	}
	return undo, nil
}

// Partition leaves only the appliances of one group with each other. Routers,
// clients and the server reach all of them still, so that no route says what
// happened: the hardest case for those who must decide who is dead. One that no
// group names is alone.
func (l *Lab) Partition(groups ...[]string) (heal func() error, err error) {
	var undo []func() error
	heal = func() error {
		var errs []error
		for _, u := range undo {
			errs = append(errs, u())
		}
		return errors.Join(errs...)
	}
	for _, a := range l.Appliances() {
		side := []string{a.Name}
		if i := slices.IndexFunc(groups, func(g []string) bool { return slices.Contains(g, a.Name) }); i >= 0 {
			side = groups[i]
		}
		var others []*Appliance
		for _, o := range l.Appliances() {
			if !slices.Contains(side, o.Name) {
				others = append(others, o)
			}
		}
		u, err := a.Deafen(others...)
		if err != nil {
			return nil, errors.Join(err, heal())
		}
		undo = append(undo, u)
	}
	return heal, nil
}
