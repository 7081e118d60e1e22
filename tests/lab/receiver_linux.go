package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// receiver counts a socket's packets in the kernel: an eBPF socket filter notes the
// time of each sequence number in a map and drops the packet. It sits where the
// packet would be queued to the socket, behind decryption and policy check, and
// wakes nobody: in user-mode Linux a wake-up per packet costs half the processor.
type receiver struct {
	receipts *ebpf.Map // by sequence number, receipt
	totals   *ebpf.Map // one receiverTotals
	prog     *ebpf.Program
	mem, sum *ebpf.Memory
	capacity int
	skew     int64 // of the kernel's monotonic clock to the stream's epoch
}

// receiverTotals is the value of the map totals.
type receiverTotals struct {
	Received uint64 // different packets
	High     uint64 // highest sequence number, plus 1
	Unknown  uint64 // sequence numbers beyond the capacity
}

const receiptSize = int(unsafe.Sizeof(receipt{}))

// newReceiver attaches the filter to c. Times count from epoch.
func newReceiver(c *net.UDPConn, flow uint32, capacity int, epoch time.Time) (r *receiver, err error) {
	r = &receiver{capacity: capacity}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make receiver: %w", err), r.close())
		}
	}()
	if r.skew, err = clockSkew(epoch); err != nil {
		return r, err
	}
	spec := ebpf.MapSpec{Name: "lab_receipts", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(receiptSize), MaxEntries: uint32(capacity), Flags: unix.BPF_F_MMAPABLE}
	if r.receipts, err = ebpf.NewMap(&spec); err != nil {
		return r, err
	}
	spec.Name, spec.ValueSize, spec.MaxEntries = "lab_totals", uint32(unsafe.Sizeof(receiverTotals{})), 1
	if r.totals, err = ebpf.NewMap(&spec); err != nil {
		return r, err
	}
	if r.mem, err = r.receipts.Memory(); err != nil {
		return r, err
	}
	if r.sum, err = r.totals.Memory(); err != nil {
		return r, err
	}
	if r.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "lab_receiver", Type: ebpf.SocketFilter, License: "Apache-2.0", Instructions: r.program(flow)}); err != nil {
		return r, err
	}
	rc, err := c.SyscallConn()
	if err != nil {
		return r, err
	}
	var serr error
	err = rc.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_BPF, r.prog.FD())
	})
	return r, errors.Join(err, serr)
}

// clockSkew is what the kernel's monotonic clock showed at epoch. Both clocks are
// the same, but reading them takes time: the closest of a few readings counts.
func clockSkew(epoch time.Time) (skew int64, err error) {
	best := int64(-1)
	for range 10 {
		var ts unix.Timespec
		before := int64(time.Since(epoch))
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			return 0, fmt.Errorf("read clock: %w", err)
		}
		after := int64(time.Since(epoch))
		if d := after - before; best < 0 || d < best {
			// Rounded up: a receipt is never dated later than it came.
			best, skew = d, ts.Nano()-before
		}
	}
	return skew, nil
}

// program is the filter. At a UDP socket the packet begins with the UDP header.
func (r *receiver) program(flow uint32) asm.Instructions {
	const (
		stk    = -24 // magic, flow, sequence number
		stkKey = -28
	)
	lookup := func(m *ebpf.Map) asm.Instructions {
		return asm.Instructions{
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, stkKey),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, vxOut),
		}
	}
	ins := asm.Instructions{
		asm.Mov.Imm(asm.R2, 8),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, stk),
		asm.Mov.Imm(asm.R4, 16),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, vxOut),
		asm.LoadMem(asm.R1, asm.RFP, stk, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word),
		asm.JNE.Imm(asm.R1, streamMagic, vxOut),
		asm.LoadMem(asm.R1, asm.RFP, stk+4, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word),
		asm.Mov.Imm32(asm.R2, int32(flow)),
		asm.JNE.Reg(asm.R1, asm.R2, vxOut),
		// R6 sequence number, R7 time, R8 totals.
		asm.LoadMem(asm.R6, asm.RFP, stk+8, asm.DWord), asm.HostTo(asm.BE, asm.R6, asm.DWord),
		asm.FnKtimeGetNs.Call(),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.StoreImm(asm.RFP, stkKey, 0, asm.Word),
	}
	ins = append(ins, lookup(r.totals)...)
	ins = append(ins,
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.JGE.Imm(asm.R6, int32(r.capacity), "unknown"),
		asm.StoreMem(asm.RFP, stkKey, asm.R6, asm.Word),
	)
	ins = append(ins, lookup(r.receipts)...)
	return append(ins,
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.JNE.Imm(asm.R1, 0, "duplicate"),
		asm.StoreMem(asm.R0, 0, asm.R7, asm.DWord),
		asm.LoadMem(asm.R1, asm.R8, 0, asm.DWord), asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R8, 0, asm.R1, asm.DWord),
		// Behind the highest: reordered; else the highest.
		asm.Add.Imm(asm.R6, 1),
		asm.LoadMem(asm.R1, asm.R8, 8, asm.DWord),
		asm.JLT.Reg(asm.R6, asm.R1, "reordered"),
		asm.StoreMem(asm.R8, 8, asm.R6, asm.DWord),
		asm.Ja.Label(vxOut),
		asm.StoreImm(asm.R0, 12, 1, asm.Word).WithSymbol("reordered"),
		asm.Ja.Label(vxOut),
		asm.LoadMem(asm.R1, asm.R0, 8, asm.Word).WithSymbol("duplicate"),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 8, asm.R1, asm.Word),
		asm.Ja.Label(vxOut),
		asm.LoadMem(asm.R1, asm.R8, 16, asm.DWord).WithSymbol("unknown"),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R8, 16, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 0).WithSymbol(vxOut),
		asm.Return(),
	)
}

// read returns the receipts of the first n packets, times from the stream's epoch.
func (r *receiver) read(n int) ([]receipt, error) {
	b := make([]byte, n*receiptSize)
	if n > 0 {
		if _, err := r.mem.ReadAt(b, 0); err != nil {
			return nil, fmt.Errorf("read receipts: %w", err)
		}
	}
	out := make([]receipt, n)
	for i := range out {
		p := b[i*receiptSize:]
		at := int64(binary.NativeEndian.Uint64(p))
		if at != 0 {
			at = max(at-r.skew, 1)
		}
		out[i] = receipt{at, binary.NativeEndian.Uint32(p[8:]), binary.NativeEndian.Uint32(p[12:])}
	}
	return out, nil
}

// received is how many different packets arrived.
func (r *receiver) received() (int, error) {
	var b [8]byte
	if _, err := r.sum.ReadAt(b[:], 0); err != nil {
		return 0, fmt.Errorf("read receipts: %w", err)
	}
	return int(binary.NativeEndian.Uint64(b[:])), nil
}

// close is to be called after the socket was closed.
func (r *receiver) close() error {
	var errs []error
	if r.prog != nil {
		errs = append(errs, r.prog.Close())
	}
	for _, m := range []*ebpf.Map{r.receipts, r.totals} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}
