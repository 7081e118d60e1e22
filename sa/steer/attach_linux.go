package steer

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Names by which CleanUp finds what a crashed daemon left.
const (
	filterPrefix = "sc_steer_"
	tunnelAlias  = "shadowcast peer tunnel"
)

// filterPrio leaves room before and behind us on a shared clsact.
const filterPrio = 92

func uplinks(links []netlink.Link, names []string) ([]netlink.Link, error) {
	var ups []netlink.Link
	for _, n := range names {
		l := byName(links, n)
		if l == nil {
			return nil, fmt.Errorf("uplink %s: no such device", n)
		}
		if l.Attrs().EncapType != "ether" {
			return nil, fmt.Errorf("uplink %s: %s device, want Ethernet", n, l.Attrs().EncapType)
		}
		ups = append(ups, l)
	}
	return ups, nil
}

func byName(links []netlink.Link, name string) netlink.Link {
	for _, l := range links {
		if l.Attrs().Name == name {
			return l
		}
	}
	return nil
}

// attach puts each program of want, by ifindex, at ingress of its device and
// takes ours off every other. Replacing is one message: no packet goes unsteered.
func (s *Steer) attach(links []netlink.Link, want map[int]*ebpf.Program) error {
	for index, prog := range want {
		if err := s.attachOne(index, prog); err != nil {
			return err
		}
	}
	for _, l := range links {
		if want[l.Attrs().Index] == nil {
			if err := detach(s.nl, l); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Steer) attachOne(index int, prog *ebpf.Program) error {
	info, err := prog.Info()
	if err != nil {
		return fmt.Errorf("read program: %w", err)
	}
	id, _ := info.ID()
	old, err := filters(s.nl, index)
	if err != nil {
		return err
	}
	if len(old) == 1 && old[0].Id == int(id) && old[0].Name == info.Name {
		return nil
	}
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := s.nl.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return featureOf("qdisc clsact (module sch_ingress)", err, "add clsact to device %d", index)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs:  netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: filterPrio},
		Fd:           prog.FD(),
		Name:         info.Name,
		DirectAction: true,
	}
	if err := s.nl.FilterReplace(filter); err != nil {
		return featureOf("classifier bpf (module cls_bpf)", err, "attach %s to device %d", info.Name, index)
	}
	return nil
}

// featureOf types an error as a missing feature where the kernel says that it
// does not know the kind.
func featureOf(feature string, err error, format string, args ...any) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) {
		err = &FeatureError{feature, err}
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// filters lists ours at ingress of a device.
func filters(h *netlink.Handle, index int) ([]*netlink.BpfFilter, error) {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	all, err := h.FilterList(link, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV) {
			return nil, nil // no clsact, or the device has gone
		}
		return nil, fmt.Errorf("list filters of device %d: %w", index, err)
	}
	var ours []*netlink.BpfFilter
	for _, f := range all {
		if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, filterPrefix) {
			ours = append(ours, b)
		}
	}
	return ours, nil
}

// detach takes our filters off l, and the clsact too where nobody else uses it.
func detach(h *netlink.Handle, l netlink.Link) error {
	ours, err := filters(h, l.Attrs().Index)
	if err != nil || len(ours) == 0 {
		return err
	}
	for _, f := range ours {
		if err := h.FilterDel(f); err != nil && !gone(err) {
			return fmt.Errorf("detach from %s: %w", l.Attrs().Name, err)
		}
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		if rest, err := h.FilterList(l, parent); err != nil || len(rest) != 0 {
			return nil
		}
	}
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := h.QdiscDel(qdisc); err != nil && !gone(err) {
		return fmt.Errorf("delete clsact of %s: %w", l.Attrs().Name, err)
	}
	return nil
}

func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL)
}

// tunnels makes the devices to the peers and returns their indexes, 0 = none.
// Their MTU is the uplinks', so that a full-size packet draws no frag-needed:
// the outer packet is fragmented instead, its DF bit being 0.
func (s *Steer) tunnels(links, ups []netlink.Link, d *Desired) (t4, t6 int, err error) {
	mtu := 1500
	for i, l := range ups {
		if m := l.Attrs().MTU; i == 0 || m > mtu {
			mtu = m
		}
	}
	var want4, want6 string
	if d.Tunnel != "" {
		want4 = d.Tunnel
		if d.has6() {
			want6 = d.Tunnel + "6"
		}
	}
	// First, because a namespace holds one collect-metadata device of a kind.
	if err := removeTunnels(s.nl, links, want4, want6); err != nil {
		return 0, 0, err
	}
	attrs := netlink.LinkAttrs{Name: want4, MTU: mtu, Alias: tunnelAlias, TxQLen: -1}
	if want4 != "" {
		t4, err = s.tunnel(links, &netlink.Iptun{LinkAttrs: attrs, FlowBased: true}, "device type ipip (module ipip)")
	}
	if err == nil && want6 != "" {
		attrs.Name = want6
		t6, err = s.tunnel(links, &netlink.Gretun{LinkAttrs: attrs, FlowBased: true, Local: net.IPv4zero}, "device type gre (module ip_gre)")
	}
	return t4, t6, err
}

func (s *Steer) tunnel(links []netlink.Link, want netlink.Link, feature string) (int, error) {
	name := want.Attrs().Name
	l := byName(links, name)
	if l == nil {
		if err := s.nl.LinkAdd(want); err != nil {
			if errors.Is(err, unix.EEXIST) {
				return 0, fmt.Errorf("add tunnel %s: this namespace has another collect-metadata %s device: %w", name, want.Type(), err)
			}
			return 0, featureOf(feature, err, "add tunnel %s", name)
		}
		var err error
		if l, err = s.nl.LinkByName(name); err != nil {
			return 0, fmt.Errorf("find tunnel %s: %w", name, err)
		}
	}
	if !collectsMetadata(l) || l.Type() != want.Type() {
		return 0, fmt.Errorf("tunnel %s: a %s device of that name exists, want %s in collect-metadata mode", name, l.Type(), want.Type())
	}
	if l.Attrs().MTU != want.Attrs().MTU {
		if err := s.nl.LinkSetMTU(l, want.Attrs().MTU); err != nil {
			return 0, fmt.Errorf("set MTU of %s to %d: %w", name, want.Attrs().MTU, err)
		}
	}
	if l.Attrs().Alias != tunnelAlias {
		if err := s.nl.LinkSetAlias(l, tunnelAlias); err != nil {
			return 0, fmt.Errorf("set alias of %s: %w", name, err)
		}
	}
	// Inner packets come from wherever the servers are, not by this device.
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/rp_filter", []byte("0"), 0o644); err != nil {
		return 0, fmt.Errorf("switch off reverse-path filter of %s: %w", name, err)
	}
	return l.Attrs().Index, nil
}

func collectsMetadata(l netlink.Link) bool {
	switch t := l.(type) {
	case *netlink.Iptun:
		return t.FlowBased
	case *netlink.Gretun:
		return t.FlowBased
	}
	return false
}

func removeTunnels(h *netlink.Handle, links []netlink.Link, keep ...string) error {
	for _, l := range links {
		a := l.Attrs()
		if a.Alias != tunnelAlias || slices.Contains(keep, a.Name) {
			continue
		}
		if err := h.LinkDel(l); err != nil && !gone(err) {
			return fmt.Errorf("delete tunnel %s: %w", a.Name, err)
		}
	}
	return nil
}
