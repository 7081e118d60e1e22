package lab

import (
	"errors"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// tapped is one packet that a tap saw.
type tapped struct {
	At  time.Time // the kernel's stamp
	Out bool      // sent by the node
	IP  []byte    // from the IP header on, as much as the filter lets through
}

// tap records packets of one interface with the kernel's time stamps.
type tap struct {
	fd   int
	stop chan struct{}
	done chan struct{}

	mu   sync.Mutex
	pkts []tapped
	err  error
}

// startTap records what filter lets through on dev until the lab closes.
func (l *Lab) startTap(ns *Netns, dev string, filter []bpf.Instruction) (*tap, error) {
	link, err := ns.link(dev)
	if err != nil {
		return nil, err
	}
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return nil, fmt.Errorf("tap %s in %s: %w", dev, ns.Name, err)
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	t := &tap{fd: -1, stop: make(chan struct{}), done: make(chan struct{})}
	err = ns.Do(func() (err error) {
		if t.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptSockFprog(t.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}),
			unix.SetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
			unix.SetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			// Bound only now: the filter is in place before the first packet.
			unix.Bind(t.fd, &unix.SockaddrLinklayer{Protocol: 0x0300 /* ETH_P_ALL, network order */, Ifindex: link.Attrs().Index}))
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tap %s in %s: %w", dev, ns.Name, err), unix.Close(t.fd))
	}
	go t.run()
	l.onClose(func() error {
		close(t.stop)
		<-t.done
		return unix.Close(t.fd)
	})
	return t, nil
}

// run drains the socket now and then: a wake-up for each packet costs too much.
func (t *tap) run() {
	defer close(t.done)
	every := time.NewTicker(50 * time.Millisecond)
	defer every.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-every.C:
			t.drain()
		}
	}
}

func (t *tap) drain() {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, oob := make([]byte, 65536), make([]byte, 128)
	for {
		n, m, _, from, err := unix.Recvmsg(t.fd, b, oob, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
			continue
		case err != nil:
			t.err = fmt.Errorf("tap: %w", err)
			return
		}
		p := tapped{IP: append([]byte{}, b[:n]...)}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			p.Out = ll.Pkttype == unix.PACKET_OUTGOING
		}
		if p.At, err = stampOf(oob[:m]); err != nil {
			t.err = err
			return
		}
		t.pkts = append(t.pkts, p)
	}
}

// stampOf reads the kernel's time stamp.
func stampOf(oob []byte) (time.Time, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Time{}, fmt.Errorf("tap: read time stamp: %w", err)
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			ts := *(*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
			return time.Unix(ts.Unix()), nil
		}
	}
	return time.Time{}, errors.New("tap: a packet without a time stamp")
}

// packets returns everything so far, in order.
func (t *tap) packets() ([]tapped, error) {
	t.drain()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pkts, t.err
}
