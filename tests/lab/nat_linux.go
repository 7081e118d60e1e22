package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
)

// Interface names inside a NAT.
const (
	natInside  = "lan"
	natOutside = "wan"
)

// NAT is a box that translates one private address to one public address and adds
// an offset to the client's UDP ports: enough to make IKE see a NAT, and to rebind
// at will. It is two eBPF programs, for user-mode Linux has no nftables.
type NAT struct {
	ns    *Netns
	state *ebpf.Map
	progs []*ebpf.Program
	tc    []*netlink.BpfFilter
}

// newNAT translates private to public with an offset of 20000.
func newNAT(ns *Netns, private, public netip.Addr) (n *NAT, err error) {
	n = &NAT{ns: ns}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make NAT in %s: %w", ns.Name, err), n.close())
		}
	}()
	if n.state, err = ebpf.NewMap(&ebpf.MapSpec{Name: "lab_nat", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}); err != nil {
		return n, err
	}
	if err = n.Rebind(20000); err != nil {
		return n, err
	}
	// Outwards after routing: before it, the box would refuse its own address.
	for _, x := range []struct {
		hook     Hook
		from, to netip.Addr
		out      bool
	}{{Egress, private, public, true}, {Ingress, public, private, false}} {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "lab_nat", Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: natProgram(x.from, x.to, x.out, n.state)})
		if err != nil {
			return n, err
		}
		n.progs = append(n.progs, p)
		tc, err := ns.attachProgram(natOutside, x.hook, p)
		if err != nil {
			return n, err
		}
		n.tc = append(n.tc, tc)
	}
	return n, nil
}

// Rebind changes the port offset, as a NAT does that forgot the mapping. Packets to
// the old ports no longer reach the client.
func (n *NAT) Rebind(offset uint16) error {
	if err := n.state.Put(uint32(0), uint32(offset)); err != nil {
		return fmt.Errorf("rebind NAT in %s: %w", n.ns.Name, err)
	}
	return nil
}

func (n *NAT) close() error {
	var errs []error
	for _, f := range n.tc {
		errs = append(errs, n.ns.nl.FilterDel(f))
	}
	for _, p := range n.progs {
		errs = append(errs, p.Close())
	}
	if n.state != nil {
		errs = append(errs, n.state.Close())
	}
	return errors.Join(errs...)
}

// natProgram rewrites UDP packets on the public side: outwards the source address from->to
// and source port + offset, inwards the destination likewise with - offset. Other
// packets to or from the client are left alone and so get lost, like ESP at a NAT
// that knows only ports.
func natProgram(from, to netip.Addr, out bool, state *ebpf.Map) asm.Instructions {
	// The address's place in the frame and the port's in the UDP header.
	addrAt, portAt := int16(30), int16(2)
	if out {
		addrAt, portAt = 26, 0
	}
	f, t := from.As4(), to.As4()
	be := func(a [4]byte) int32 {
		return int32(uint32(a[0]) | uint32(a[1])<<8 | uint32(a[2])<<16 | uint32(a[3])<<24) // as the packet's word loads
	}
	const stkNew = -100 // new address and port
	ins := ipv4UDP()
	ins = append(ins,
		asm.LoadMem(asm.R8, asm.RFP, stkL2+addrAt, asm.Word),
		asm.Mov.Imm32(asm.R2, be(f)),
		asm.JNE.Reg(asm.R8, asm.R2, vxOut),
		// R9: the offset.
		asm.StoreImm(asm.RFP, stkKey, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, state.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, stkKey),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, vxOut),
		asm.LoadMem(asm.R9, asm.R0, 0, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, stkUDP+portAt, asm.Half),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
	)
	if out {
		ins = append(ins, asm.Add.Reg(asm.R1, asm.R9))
	} else {
		ins = append(ins, asm.Sub.Reg(asm.R1, asm.R9))
	}
	ins = append(ins,
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.StoreMem(asm.RFP, stkNew+4, asm.R1, asm.Half),
		asm.Mov.Imm32(asm.R2, be(t)),
		asm.StoreMem(asm.RFP, stkNew, asm.R2, asm.Word),
	)
	// UDP checksum (zero means none): address as pseudo header, then the port.
	csum := func(old asm.Instructions, size, extra int32) {
		ins = append(ins, asm.Mov.Reg(asm.R1, rCtx), asm.Mov.Reg(asm.R2, rOff), asm.Add.Imm(asm.R2, 6))
		ins = append(ins, old...)
		ins = append(ins, asm.Mov.Imm(asm.R5, size|extra|0x20 /* BPF_F_MARK_MANGLED_0 */), asm.FnL4CsumReplace.Call(), asm.JNE.Imm(asm.R0, 0, vxOut))
	}
	csum(asm.Instructions{asm.LoadMem(asm.R3, asm.RFP, stkL2+addrAt, asm.Word), asm.LoadMem(asm.R4, asm.RFP, stkNew, asm.Word)}, 4, 0x10 /* BPF_F_PSEUDO_HDR */)
	csum(asm.Instructions{asm.LoadMem(asm.R3, asm.RFP, stkUDP+portAt, asm.Half), asm.LoadMem(asm.R4, asm.RFP, stkNew+4, asm.Half)}, 2, 0)
	ins = append(ins,
		asm.Mov.Reg(asm.R1, rCtx), asm.Mov.Imm(asm.R2, 14+10),
		asm.LoadMem(asm.R3, asm.RFP, stkL2+addrAt, asm.Word), asm.LoadMem(asm.R4, asm.RFP, stkNew, asm.Word),
		asm.Mov.Imm(asm.R5, 4), asm.FnL3CsumReplace.Call(),
		asm.JNE.Imm(asm.R0, 0, vxOut),
	)
	store := func(at asm.Instructions, stk int16, n int32) {
		ins = append(ins, asm.Mov.Reg(asm.R1, rCtx))
		ins = append(ins, at...)
		ins = append(ins, asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, int32(stk)), asm.Mov.Imm(asm.R4, n), asm.Mov.Imm(asm.R5, 0), asm.FnSkbStoreBytes.Call())
	}
	store(asm.Instructions{asm.Mov.Imm(asm.R2, int32(addrAt))}, stkNew, 4)
	store(asm.Instructions{asm.Mov.Reg(asm.R2, rOff), asm.Add.Imm(asm.R2, int32(portAt))}, stkNew+4, 2)
	return append(ins,
		asm.Mov.Imm(asm.R0, tcNext).WithSymbol(vxOut),
		asm.Return(),
	)
}
