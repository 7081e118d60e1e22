package slot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
)

// ErrNoPlug: the kernel has no sch_plug. A move goes on without the hold, at
// the price of what the path difference reorders.
var ErrNoPlug = errors.New("kernel has no plug qdisc (CONFIG_NET_SCH_PLUG)")

// plugHandle is the handle of our qdisc on the host's end of the veth.
const plugHandle = 0x7363 << 16

// Actions of struct tc_plug_qopt { int action; u32 limit }.
const (
	plugBuffer  = 0
	plugRelease = 2
)

// Hold makes the kernel keep everything that the host namespace sends into the
// slot, server-to-client packets above all, until Release. What arrives by
// bpf_redirect_peer passes by. A daemon that dies in between leaves the slot
// held until it is started again: Set releases.
func (h *Host) Hold(n sa.Slot) error { return h.plug(n, "hold", plugBuffer) }

// Release lets go, in order, of what Hold kept.
func (h *Host) Release(n sa.Slot) error { return h.plug(n, "release", plugRelease) }

func (h *Host) plug(n sa.Slot, op string, action uint32) error {
	return h.with(n, op, func(s *state) error {
		if !s.plug {
			return ErrNoPlug
		}
		return h.plugRequest(s.hostIndex, action, 0)
	})
}

// ensurePlug creates the qdisc, released. It is created with the slot, never
// during a move: changing qdiscs would cost packets then.
func (h *Host) ensurePlug(s *state, adopted bool) error {
	link, err := h.nl.LinkByIndex(s.hostIndex)
	if err != nil {
		return fmt.Errorf("look up %s: %w", vethName(s.n), err)
	}
	qs, err := h.nl.QdiscList(link)
	if err != nil {
		return fmt.Errorf("list qdiscs of %s: %w", vethName(s.n), err)
	}
	s.plug = slices.ContainsFunc(qs, func(q netlink.Qdisc) bool { return q.Type() == "plug" && q.Attrs().Handle == plugHandle })
	if s.plug {
		if adopted {
			return h.plugRequest(s.hostIndex, plugRelease, 0)
		}
		return nil
	}
	err = h.plugRequest(s.hostIndex, plugBuffer, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("add plug qdisc to %s: %w", vethName(s.n), err)
	}
	s.plug = true
	// A new one holds.
	return h.plugRequest(s.hostIndex, plugRelease, 0)
}

func (h *Host) plugRequest(index int, action uint32, flags int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, flags|unix.NLM_F_ACK)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: h.tc}
	req.AddData(&nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(index), Handle: plugHandle, Parent: netlink.HANDLE_ROOT})
	req.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("plug")))
	opts := binary.NativeEndian.AppendUint32(nil, action)
	opts = binary.NativeEndian.AppendUint32(opts, h.cfg.HoldBytes)
	req.AddData(nl.NewRtAttr(nl.TCA_OPTIONS, opts))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
