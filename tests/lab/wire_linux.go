package lab

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Protocols between appliances.
const (
	protoIPIP = 4
	protoGRE  = 47
	protoESP  = 50
)

// tunnelFilter lets through the tunnels between loopback addresses, protected or
// not, 24 octets of each. Offsets are from the IP header (SOCK_DGRAM); other
// protocols than IPv4 do not pass the addresses.
var tunnelFilter = []bpf.Instruction{
	0:  bpf.LoadAbsolute{Off: 12, Size: 4},
	1:  bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xffffff00},
	2:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0xc0000200 /* livenessNet */, SkipTrue: 8},
	3:  bpf.LoadAbsolute{Off: 16, Size: 4},
	4:  bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xffffff00},
	5:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0xc0000200, SkipTrue: 5},
	6:  bpf.LoadAbsolute{Off: 9, Size: 1},
	7:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoIPIP, SkipTrue: 2},
	8:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoGRE, SkipTrue: 1},
	9:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoESP, SkipTrue: 1},
	10: bpf.RetConstant{Val: 24},
	11: bpf.RetConstant{Val: 0},
}

// tunnelCount counts what appliances send each other through a router, by
// protocol. A packet counts where it comes in and where it leaves.
type tunnelCount struct {
	fd   int
	stop chan struct{}
	done chan struct{}

	mu  sync.Mutex
	n   map[uint8]int
	err error
}

// countTunnels watches every interface of a router until the lab closes.
func (l *Lab) countTunnels(router string) (*tunnelCount, error) {
	c := &tunnelCount{fd: -1, stop: make(chan struct{}), done: make(chan struct{}), n: map[uint8]int{}}
	raw, err := bpf.Assemble(tunnelFilter)
	if err != nil {
		return nil, fmt.Errorf("count tunnels: %w", err)
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	err = l.nodes[router].Do(func() (err error) {
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptSockFprog(c.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}),
			unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
			unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: 0x0300 /* ETH_P_ALL, network order */}))
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("count tunnels at %s: %w", router, err), unix.Close(c.fd))
	}
	go c.run()
	l.onClose(func() error {
		close(c.stop)
		<-c.done
		return unix.Close(c.fd)
	})
	return c, nil
}

// run drains the socket now and then: a wake-up for each packet costs too much.
func (c *tunnelCount) run() {
	defer close(c.done)
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-t.C:
			c.drain()
		}
	}
}

func (c *tunnelCount) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := make([]byte, 24)
	for {
		n, err := unix.Read(c.fd, b)
		switch {
		case err == nil && n > 9:
			c.n[b[9]]++
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENETDOWN):
			c.err = fmt.Errorf("count tunnels: %w", err)
			return
		}
	}
}

// take returns the counts since the last call.
func (c *tunnelCount) take() (map[uint8]int, error) {
	c.drain()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := maps.Clone(c.n)
	clear(c.n)
	return n, c.err
}
