package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Hook is where on an interface a filter sits.
type Hook uint32

// Ingress sees what arrives at the node, Egress what leaves it.
const (
	Ingress Hook = netlink.HANDLE_MIN_INGRESS
	Egress  Hook = netlink.HANDLE_MIN_EGRESS
)

// Filter is a tc/eBPF program on an interface that drops packets and counts them.
type Filter struct {
	ns    *Netns
	prog  *ebpf.Program
	state *ebpf.Map
	tc    *netlink.BpfFilter
	off   bool
}

// IKEMatch selects IKE messages by their header. The zero value of a field matches
// everything.
type IKEMatch struct {
	Exchange ExchangeType
	// Requests and Responses select one kind; both or neither mean both.
	Requests, Responses bool
	// FromInitiator and FromResponder tell by who began the IKE_SA, likewise.
	FromInitiator, FromResponder bool
	// Count limits how many messages are dropped; 0 drops all.
	Count int
}

// Registers and stack of the programs.
const (
	rCtx = asm.R6
	rOff = asm.R7
	// Stack offsets of what is read from the packet.
	stkL2  = -42   // Ethernet and IPv4 header, 34 bytes; the addresses aligned
	stkUDP = -56   // 8 + 4 bytes
	stkIKE = -88   // 28 bytes
	stkKey = -92   // map key
	tcNext = -1    // TC_ACT_UNSPEC: on to the next filter
	tcShot = 2     // TC_ACT_SHOT
	vxOut  = "out" // label: pass
)

// load reads n bytes at the packet offset in rOff plus add to the stack; too short a
// packet passes.
func load(stk int16, add int32, n int32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, rCtx),
		asm.Mov.Reg(asm.R2, rOff),
		asm.Add.Imm(asm.R2, add),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, int32(stk)),
		asm.Mov.Imm(asm.R4, n),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, vxOut),
	}
}

// ipv4UDP passes all but first fragments of IPv4 UDP, and leaves the offset of the
// UDP header in rOff and the headers on the stack.
func ipv4UDP() asm.Instructions {
	ins := append(onlyIPv4(),
		asm.LoadMem(asm.R1, asm.RFP, stkL2+23, asm.Byte),
		asm.JNE.Imm(asm.R1, 17, vxOut),
		asm.LoadMem(asm.R1, asm.RFP, stkL2+20, asm.Half),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.And.Imm(asm.R1, 0x1fff),
		asm.JNE.Imm(asm.R1, 0, vxOut),
		asm.LoadMem(rOff, asm.RFP, stkL2+14, asm.Byte),
		asm.And.Imm(rOff, 0xf),
		asm.LSh.Imm(rOff, 2),
		asm.Add.Imm(rOff, 14),
	)
	return append(ins, load(stkUDP, 0, 8)...)
}

// ikeProgram drops what m selects. Its map holds the messages it may still drop and
// those it dropped.
func ikeProgram(m IKEMatch, state *ebpf.Map) asm.Instructions {
	ins := ipv4UDP()
	// Ports: 500 either side, else 4500 either side with the non-ESP marker.
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.RFP, stkUDP, asm.Half), asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.LoadMem(asm.R2, asm.RFP, stkUDP+2, asm.Half), asm.HostTo(asm.BE, asm.R2, asm.Half),
		asm.JEq.Imm(asm.R1, 500, "plain"),
		asm.JEq.Imm(asm.R2, 500, "plain"),
		asm.JEq.Imm(asm.R1, 4500, "encap"),
		asm.JNE.Imm(asm.R2, 4500, vxOut),
	)
	enc := load(stkUDP+8, 8, 4)
	enc[0] = enc[0].WithSymbol("encap")
	ins = append(ins, enc...)
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.RFP, stkUDP+8, asm.Word),
		asm.JNE.Imm(asm.R1, 0, vxOut),
		asm.Add.Imm(rOff, 4),
		asm.Add.Imm(rOff, 8).WithSymbol("plain"),
	)
	ins = append(ins, load(stkIKE, 0, ikeHeaderLen)...)
	if m.Exchange != 0 {
		ins = append(ins, asm.LoadMem(asm.R1, asm.RFP, stkIKE+18, asm.Byte), asm.JNE.Imm(asm.R1, int32(m.Exchange), vxOut))
	}
	flag := func(bit int32, want bool) {
		op := asm.JEq
		if !want {
			op = asm.JNE
		}
		ins = append(ins, asm.LoadMem(asm.R1, asm.RFP, stkIKE+19, asm.Byte), asm.And.Imm(asm.R1, bit), op.Imm(asm.R1, 0, vxOut))
	}
	if m.Requests != m.Responses {
		flag(0x20, m.Responses)
	}
	if m.FromInitiator != m.FromResponder {
		flag(0x08, m.FromInitiator)
	}
	return append(ins, dropTail(state)...)
}

// dropTail spends one of the map's budget and drops, else passes.
func dropTail(state *ebpf.Map) asm.Instructions {
	return asm.Instructions{
		asm.StoreImm(asm.RFP, stkKey, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, state.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, stkKey),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, vxOut),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, vxOut),
		asm.Sub.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.R0, 8, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 8, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, tcShot),
		asm.Return(),
		asm.Mov.Imm(asm.R0, tcNext).WithSymbol(vxOut),
		asm.Return(),
	}
}

// filterState is the map's value: what may still be dropped, what was.
type filterState struct{ Left, Dropped uint64 }

// DropIKE drops the IKE messages that m selects at an interface, by their header,
// which is in clear.
func (n *Netns) DropIKE(dev string, hook Hook, m IKEMatch) (*Filter, error) {
	left := uint64(math.MaxUint64)
	if m.Count > 0 {
		left = uint64(m.Count)
	}
	return n.attach(dev, hook, left, func(s *ebpf.Map) asm.Instructions { return ikeProgram(m, s) })
}

// DropAll drops everything at an interface, without a change of the link's state.
func (n *Netns) DropAll(dev string, hook Hook) (*Filter, error) {
	return n.attach(dev, hook, math.MaxUint64, func(s *ebpf.Map) asm.Instructions { return dropTail(s) })
}

// DropWithin drops IPv4 packets whose source and destination both lie in p.
func (n *Netns) DropWithin(dev string, hook Hook, p netip.Prefix) (*Filter, error) {
	return n.attach(dev, hook, math.MaxUint64, func(s *ebpf.Map) asm.Instructions { return withinProgram(p, s) })
}

// DropFrom drops IPv4 packets from the given addresses.
func (n *Netns) DropFrom(dev string, hook Hook, from ...netip.Addr) (*Filter, error) {
	return n.attach(dev, hook, math.MaxUint64, func(s *ebpf.Map) asm.Instructions { return fromProgram(from, s) })
}

// Where an IPv4 packet's addresses lie in the frame.
const (
	srcOff int16 = 26
	dstOff int16 = 30
)

// onlyIPv4 passes everything else and leaves the Ethernet and IPv4 header on the stack.
func onlyIPv4() asm.Instructions {
	ins := asm.Instructions{asm.Mov.Reg(rCtx, asm.R1), asm.Mov.Imm(rOff, 0)}
	ins = append(ins, load(stkL2, 0, 34)...)
	return append(ins,
		asm.LoadMem(asm.R1, asm.RFP, stkL2+12, asm.Half),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.JNE.Imm(asm.R1, 0x0800, vxOut),
	)
}

// loadAddr puts an address into R1, in host order.
func loadAddr(off int16) asm.Instructions {
	return asm.Instructions{asm.LoadMem(asm.R1, asm.RFP, stkL2+off, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word)}
}

func word(a netip.Addr) int32 {
	b := a.As4()
	return int32(binary.BigEndian.Uint32(b[:]))
}

func withinProgram(p netip.Prefix, state *ebpf.Map) asm.Instructions {
	mask := uint32(math.MaxUint32) << (32 - p.Bits())
	ins := onlyIPv4()
	for _, off := range []int16{srcOff, dstOff} {
		ins = append(ins, loadAddr(off)...)
		ins = append(ins,
			asm.Mov.Imm32(asm.R2, int32(mask)),
			asm.And.Reg(asm.R1, asm.R2),
			asm.Mov.Imm32(asm.R2, word(p.Masked().Addr())),
			asm.JNE.Reg(asm.R1, asm.R2, vxOut),
		)
	}
	return append(ins, dropTail(state)...)
}

func fromProgram(from []netip.Addr, state *ebpf.Map) asm.Instructions {
	const hit = "hit"
	ins := append(onlyIPv4(), loadAddr(srcOff)...)
	for _, a := range from {
		ins = append(ins, asm.Mov.Imm32(asm.R2, word(a)), asm.JEq.Reg(asm.R1, asm.R2, hit))
	}
	tail := dropTail(state)
	tail[0] = tail[0].WithSymbol(hit)
	return append(append(ins, asm.Ja.Label(vxOut)), tail...)
}

func newState(left uint64) (*ebpf.Map, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "lab_filter", Type: ebpf.Array, KeySize: 4, ValueSize: 16, MaxEntries: 1})
	if err != nil {
		return nil, err
	}
	if err := m.Put(uint32(0), filterState{Left: left}); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (n *Netns) attach(dev string, hook Hook, left uint64, ins func(*ebpf.Map) asm.Instructions) (*Filter, error) {
	state, err := newState(left)
	if err != nil {
		return nil, fmt.Errorf("make filter map: %w", err)
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "lab_filter", Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: ins(state)})
	if err != nil {
		state.Close()
		return nil, fmt.Errorf("load filter: %w", err)
	}
	tc, err := n.attachProgram(dev, hook, prog)
	if err != nil {
		return nil, errors.Join(err, prog.Close(), state.Close())
	}
	return &Filter{ns: n, prog: prog, state: state, tc: tc}, nil
}

// filterPriority is before the steering programs'; attachProgram counts up from it.
const filterPriority = 1

// attachProgram puts prog on a hook of dev, which gets a clsact qdisc if it has none.
func (n *Netns) attachProgram(dev string, hook Hook, prog *ebpf.Program) (*netlink.BpfFilter, error) {
	l, err := n.link(dev)
	if err != nil {
		return nil, err
	}
	idx := l.Attrs().Index
	q := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{LinkIndex: idx, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := n.nl.QdiscAdd(q); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("add clsact to %s in %s: %w", dev, n.Name, err)
	}
	have, err := n.nl.FilterList(l, uint32(hook))
	if err != nil {
		return nil, fmt.Errorf("list filters of %s in %s: %w", dev, n.Name, err)
	}
	prio := uint16(filterPriority)
	for taken := true; taken; {
		taken = false
		for _, f := range have {
			if f.Attrs().Priority == prio {
				prio++
				taken = true
			}
		}
	}
	tc := &netlink.BpfFilter{
		FilterAttrs:  netlink.FilterAttrs{LinkIndex: idx, Parent: uint32(hook), Handle: 1, Protocol: unix.ETH_P_ALL, Priority: prio},
		Fd:           prog.FD(),
		Name:         "lab",
		DirectAction: true,
	}
	if err := n.nl.FilterAdd(tc); err != nil {
		return nil, fmt.Errorf("attach filter to %s in %s: %w", dev, n.Name, err)
	}
	return tc, nil
}

// Dropped is how many packets the filter dropped so far.
func (f *Filter) Dropped() (uint64, error) {
	var s filterState
	if err := f.state.Lookup(uint32(0), &s); err != nil {
		return 0, fmt.Errorf("read filter: %w", err)
	}
	return s.Dropped, nil
}

// Remove takes the filter off; twice is no error.
func (f *Filter) Remove() error {
	if f.off {
		return nil
	}
	f.off = true
	err := f.ns.nl.FilterDel(f.tc)
	if err != nil {
		err = fmt.Errorf("remove filter in %s: %w", f.ns.Name, err)
	}
	return errors.Join(err, f.prog.Close(), f.state.Close())
}
