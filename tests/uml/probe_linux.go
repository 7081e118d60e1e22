package uml

import (
	"errors"
	"net"
	"os"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Missing returns the part of need that the running kernel (or the privileges of
// this process) cannot provide. It finds out by trying, in a network namespace
// thrown away afterwards.
func Missing(need Need) Need {
	if need == 0 {
		return 0
	}
	got := make(chan Need)
	go func() {
		// Never unlocked: the thread dies, and with it the namespace.
		runtime.LockOSThread()
		got <- probe(need)
	}()
	return <-got
}

func probe(need Need) Need {
	if unix.Unshare(unix.CLONE_NEWNET) != nil {
		return need
	}
	tries := map[Need]func() error{ESP: tryESP, IPIP: tryIPIP, Netem: tryNetem, Plug: tryPlug, BPF: tryBPF}
	var missing Need
	for n, try := range tries {
		if need&n != 0 && try() != nil {
			missing |= n
		}
	}
	return missing
}

func tryESP() error {
	return netlink.XfrmStateAdd(&netlink.XfrmState{
		Src: net.IPv4(127, 0, 0, 1), Dst: net.IPv4(127, 0, 0, 2), Proto: netlink.XFRM_PROTO_ESP,
		Mode: netlink.XFRM_MODE_TUNNEL, Spi: 0x1001, Reqid: 1,
		Aead: &netlink.XfrmStateAlgo{Name: "rfc4106(gcm(aes))", Key: make([]byte, 20), ICVLen: 128},
	})
}

func tryIPIP() error {
	return netlink.LinkAdd(&netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "probe0"}, FlowBased: true})
}

func tryNetem() error {
	return netlink.QdiscReplace(netlink.NewNetem(netlink.QdiscAttrs{LinkIndex: 1, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}, netlink.NetemQdiscAttrs{}))
}

// tryPlug and tryNetem replace: the other one of the same probe may
// hold the root of lo.
func tryPlug() error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: 1, Handle: netlink.MakeHandle(2, 0), Parent: netlink.HANDLE_ROOT})
	req.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("plug")))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func tryBPF() error {
	// Kernels before 5.11 charge maps to the memory lock limit.
	if err := rlimit.RemoveMemlock(); err != nil && !errors.Is(err, os.ErrPermission) {
		return err
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		return err
	}
	defer p.Close()
	return netlink.QdiscAdd(&netlink.GenericQdisc{QdiscType: "clsact",
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: 1, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
}
