package bfd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// The source port is unique to a session and stays (RFC 5881 section 4).
const (
	minSource = 49152
	maxSource = 65535
)

// open binds p's socket to the address of the link, unless it is. SO_DONTROUTE keeps
// its packets on that link: while the link is down, the default route would take
// them over another one.
func (s *Server) open(p *peer) error {
	if p.conn != nil {
		return nil
	}
	lc := net.ListenConfig{Control: func(network, _ string, rc syscall.RawConn) error {
		var serr error
		err := rc.Control(func(fd uintptr) {
			set := func(level, opt, v int) { serr = errors.Join(serr, unix.SetsockoptInt(int(fd), level, opt, v)) }
			set(unix.SOL_SOCKET, unix.SO_DONTROUTE, 1)
			if network == "udp4" {
				set(unix.IPPROTO_IP, unix.IP_TTL, ttl)
				set(unix.IPPROTO_IP, unix.IP_TOS, 0xc0) // CS6, network control (RFC 4594)
			} else {
				set(unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl)
				set(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 0xc0)
			}
		})
		return errors.Join(err, serr)
	}}
	network := "udp4"
	if p.Local.Is6() {
		network = "udp6"
	}
	var err error
	for range 8 {
		port := uint16(minSource + rand.IntN(maxSource-minSource+1))
		var c net.PacketConn
		c, err = lc.ListenPacket(context.Background(), network, netip.AddrPortFrom(p.Local, port).String())
		if err == nil {
			p.conn = c.(*net.UDPConn)
			return nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return fmt.Errorf("open bfd socket on %s: %w", p.Local, err)
}
