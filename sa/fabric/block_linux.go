package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// BlockPriority marks the policies of this package. Lower numbers win, and charon's
// own stay below a million.
const BlockPriority = 0x5343_0000

// block is one policy: drop proto in direction dir between src and dst.
type block struct {
	dir      netlink.Dir
	src, dst netip.Prefix
	proto    uint8
}

func (b block) String() string {
	return fmt.Sprintf("%s %s -> %s proto %d", b.dir, b.src, b.dst, b.proto)
}

// blocks are the policies of a configuration; none without peers.
func (c *Config) blocks() []block {
	if len(c.Peers) == 0 {
		return nil
	}
	any4 := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	own := netip.PrefixFrom(c.Local, 32)
	var out []block
	for _, proto := range protocols {
		out = append(out, block{netlink.XFRM_DIR_OUT, own, any4, proto}, block{netlink.XFRM_DIR_IN, any4, own, proto})
		for _, p := range c.Peers {
			peer := netip.PrefixFrom(p.Addr, 32)
			out = append(out, block{netlink.XFRM_DIR_OUT, any4, peer, proto}, block{netlink.XFRM_DIR_IN, peer, any4, proto})
		}
	}
	return out
}

func (b block) policy() *netlink.XfrmPolicy {
	return &netlink.XfrmPolicy{
		Dir: b.dir, Src: ipNet(b.src), Dst: ipNet(b.dst), Proto: netlink.Proto(b.proto),
		Priority: BlockPriority, Action: netlink.XFRM_POLICY_BLOCK,
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// blockOf reads a policy of the kernel; ok is false where it is not ours.
func blockOf(p *netlink.XfrmPolicy) (b block, ok bool) {
	if p.Priority != BlockPriority || p.Action != netlink.XFRM_POLICY_BLOCK {
		return b, false
	}
	src, ok1 := prefix(p.Src)
	dst, ok2 := prefix(p.Dst)
	return block{p.Dir, src, dst, uint8(p.Proto)}, ok1 && ok2
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), true
	}
	a, ok := netip.AddrFromSlice(n.IP.To4())
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a, bits), ok
}

// setBlocks makes the kernel have exactly want. What is missing comes first.
func setBlocks(path string, want []block) error {
	h, err := openXfrm(path)
	if err != nil {
		return fmt.Errorf("block unprotected tunnels: %w", err)
	}
	defer h.Close()
	have := map[block]*netlink.XfrmPolicy{}
	list, err := listPolicies(h)
	if err != nil {
		return fmt.Errorf("block unprotected tunnels: %w", err)
	}
	for i := range list {
		if b, ok := blockOf(&list[i]); ok {
			have[b] = &list[i]
		}
	}
	for _, b := range want {
		if have[b] != nil {
			delete(have, b)
			continue
		}
		if err := h.XfrmPolicyUpdate(b.policy()); err != nil {
			return fmt.Errorf("block unprotected tunnels: add policy %s: %w", b, err)
		}
	}
	for b, p := range have {
		if err := h.XfrmPolicyDel(p); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("block unprotected tunnels: delete policy %s: %w", b, err)
		}
	}
	return nil
}

// listPolicies repeats a dump that changes interrupted.
func listPolicies(h *netlink.Handle) (list []netlink.XfrmPolicy, err error) {
	for range 5 {
		if list, err = h.XfrmPolicyList(unix.AF_INET); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list policies: %w", err)
	}
	return list, nil
}

func openXfrm(path string) (*netlink.Handle, error) {
	ns := netns.None()
	if path != "" {
		var err error
		if ns, err = netns.GetFromPath(path); err != nil {
			return nil, fmt.Errorf("open namespace %s: %w", path, err)
		}
		defer ns.Close()
		runtime.LockOSThread() // the library switches the thread and back
		defer runtime.UnlockOSThread()
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_XFRM)
	if err != nil {
		return nil, fmt.Errorf("open XFRM socket (module xfrm_user): %w", err)
	}
	return h, nil
}
