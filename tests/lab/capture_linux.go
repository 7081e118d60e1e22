package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// ikeFilter lets through what may be IKE, so that a capture does not wake up for
// ESP: UDP, port 500, or port 4500 with four zero octets. X is the length of the IP
// header. Offsets are from that header (SOCK_DGRAM).
var ikeFilter = []bpf.Instruction{
	0:  bpf.LoadAbsolute{Off: 0, Size: 1},
	1:  bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4},
	2:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: 6, SkipTrue: 5},
	3:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 4, SkipTrue: 16}, // drop
	4:  bpf.LoadAbsolute{Off: 9, Size: 1},
	5:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 17, SkipTrue: 14}, // drop
	6:  bpf.LoadMemShift{Off: 0},
	7:  bpf.Jump{Skip: 3},
	8:  bpf.LoadAbsolute{Off: 6, Size: 1},
	9:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 17, SkipTrue: 10}, // drop
	10: bpf.LoadConstant{Dst: bpf.RegX, Val: 40},
	11: bpf.LoadIndirect{Off: 0, Size: 2},
	12: bpf.JumpIf{Cond: bpf.JumpEqual, Val: 500, SkipTrue: 6}, // take
	13: bpf.JumpIf{Cond: bpf.JumpEqual, Val: 4500, SkipTrue: 3},
	14: bpf.LoadIndirect{Off: 2, Size: 2},
	15: bpf.JumpIf{Cond: bpf.JumpEqual, Val: 500, SkipTrue: 3},     // take
	16: bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 4500, SkipTrue: 3}, // drop
	17: bpf.LoadIndirect{Off: 8, Size: 4},
	18: bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 1}, // drop
	19: bpf.RetConstant{Val: 1 << 16},
	20: bpf.RetConstant{Val: 0},
}

// capture watches the IKE messages on one interface of a namespace.
type capture struct {
	f    *os.File
	done chan struct{}

	mu  sync.Mutex
	own []netip.Addr // the client's addresses, former ones too
	acc IKEAccount
	err error
}

// startCapture opens a packet socket on dev; own is the address whose packets count
// as the client's. The caller closes it.
func startCapture(ns *Netns, dev string, own netip.Addr) (*capture, error) {
	l, err := ns.link(dev)
	if err != nil {
		return nil, err
	}
	fd := -1
	err = ns.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open packet socket in %s: %w", ns.Name, err)
	}
	if err := setupCapture(fd, l.Attrs().Index); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up packet socket in %s: %w", ns.Name, err)
	}
	c := &capture{f: os.NewFile(uintptr(fd), "ike-capture"), done: make(chan struct{}), own: []netip.Addr{own}}
	go c.run()
	return c, nil
}

func setupCapture(fd, ifindex int) error {
	raw, err := bpf.Assemble(ikeFilter)
	if err != nil {
		return err
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20); err != nil {
		return err
	}
	// Bound to a protocol only now: the filter is in place before the first packet.
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300 /* ETH_P_ALL, network order */, Ifindex: ifindex})
}

// run reads until close.
func (c *capture) run() {
	defer close(c.done)
	b := make([]byte, 65536)
	for {
		n, err := c.f.Read(b)
		if err != nil {
			// The interface going down ends nothing: the error is reported once.
			if errors.Is(err, unix.ENETDOWN) {
				continue
			}
			if !errors.Is(err, os.ErrClosed) && !errors.Is(err, net.ErrClosed) {
				c.mu.Lock()
				c.err = fmt.Errorf("capture IKE: %w", err)
				c.mu.Unlock()
			}
			return
		}
		if m, src, _, ok := parseIKE(b[:n]); ok {
			m.At = time.Now()
			c.mu.Lock()
			m.FromClient = slices.Contains(c.own, src)
			c.acc.add(m)
			c.mu.Unlock()
		}
	}
}

// also counts packets of a as the client's.
func (c *capture) also(a netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own = append(c.own, a)
}

func (c *capture) account() (*IKEAccount, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &IKEAccount{Messages: append([]IKEMessage{}, c.acc.Messages...)}, c.err
}

func (c *capture) close() error {
	err := c.f.Close()
	<-c.done
	return err
}
