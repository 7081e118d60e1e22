package preflight

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// probeKernel tries what is needed, on a thread in a network namespace that ends with
// the thread.
func probeKernel() map[Feature]error {
	out := map[Feature]error{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if out[Netns] = unix.Unshare(unix.CLONE_NEWNET); out[Netns] != nil {
			return
		}
		h, err := netlink.NewHandle()
		if err != nil {
			out[Netns] = err
			return
		}
		defer h.Close()
		out[XFRM] = h.XfrmStateAdd(probeSA(false))
		out[ESN] = h.XfrmStateAdd(probeSA(true))
		out[Veth] = h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "probe1"}, PeerName: "probe2"})
		out[IPIP] = h.LinkAdd(&netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "probe3"}, FlowBased: true})
		out[GRE6] = h.LinkAdd(&netlink.Gretun{LinkAttrs: netlink.LinkAttrs{Name: "probe4"}, FlowBased: true})
		const lo = 1 // the first device of every namespace
		out[ClsBPF] = h.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: lo, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
		out[Plug] = tryPlug(lo)
	}()
	<-done
	out[RingBuf] = features.HaveMapType(ebpf.RingBuf)
	out[RedirectBPF] = features.HaveProgramHelper(ebpf.SchedCLS, asm.FnRedirectPeer)
	return out
}

// tryPlug adds a plug without options, which the netlink package cannot.
func tryPlug(link int32) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: link, Handle: netlink.MakeHandle(2, 0), Parent: netlink.HANDLE_ROOT})
	req.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("plug")))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// probeSA is an SA of AES-GCM with a key of zeroes that protects nothing.
func probeSA(esn bool) *netlink.XfrmState {
	s := &netlink.XfrmState{Src: net.IPv4(127, 0, 0, 1), Dst: net.IPv4(127, 0, 0, 2), Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TUNNEL, Spi: 0x100000,
		Aead: &netlink.XfrmStateAlgo{Name: "rfc4106(gcm(aes))", Key: make([]byte, 20), ICVLen: 128}}
	if esn {
		s.Spi, s.ESN, s.ReplayWindow = 0x100001, true, 1024
	}
	return s
}

// boundPorts lists the sockets of this namespace that may be in the way. charons whose
// configuration lies below runDir are our own.
func boundPorts(runDir string) []Port {
	var out []Port
	var inodes []uint64
	const listening = 10 // TCP_LISTEN
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for proto, list := range map[string]func(uint8) ([]*netlink.Socket, error){"udp": netlink.SocketDiagUDP, "tcp": netlink.SocketDiagTCP} {
			socks, err := list(family)
			if err != nil {
				continue // sock_diag may be missing: then nothing is known
			}
			for _, s := range socks {
				if a, ok := netip.AddrFromSlice(s.ID.Source); ok && (proto == "udp" || s.State == listening) {
					out = append(out, Port{Protocol: proto, Addr: netip.AddrPortFrom(a.Unmap(), s.ID.SourcePort)})
					inodes = append(inodes, uint64(s.INode))
				}
			}
		}
	}
	holders := processes(inodes)
	for i := range out {
		if dir := holders[inodes[i]]; dir != "" {
			out[i].Process, out[i].Own = processName(dir), ownCharon(dir, runDir)
		}
	}
	return out
}

// processes finds who holds sockets, as directories in /proc by inode.
func processes(inodes []uint64) map[uint64]string {
	want := map[string]uint64{}
	for _, n := range inodes {
		want["socket:["+strconv.FormatUint(n, 10)+"]"] = n
	}
	out := map[uint64]string{}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil {
			if n, ok := want[target]; ok {
				out[n] = filepath.Dir(filepath.Dir(fd))
			}
		}
	}
	return out
}

// processName is the name of the process of a directory in /proc, "" unknown.
func processName(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// ownCharon reports whether a process is a charon that a daemon of ours has started:
// its strongswan.conf lies below runDir. One whose environment cannot be read is.
func ownCharon(dir, runDir string) bool {
	if !strings.HasPrefix(processName(dir), "charon") {
		return false
	}
	b, err := os.ReadFile(filepath.Join(dir, "environ"))
	return err != nil || strings.Contains("\x00"+string(b), "\x00STRONGSWAN_CONF="+filepath.Clean(runDir)+"/")
}

// echoWait is how long an answer may take.
const echoWait = 700 * time.Millisecond

// tryPath sends echoes (RFC 792) that must not be fragmented, the largest first.
func tryPath(ctx context.Context, name string, to netip.Addr) Path {
	p := Path{Peer: name, Address: to}
	for _, size := range []int{tunnelPacket, fullPacket, 1400, 1280, 576} {
		if ctx.Err() != nil {
			return p
		}
		if echo(ctx, to, size) == nil {
			p.Answers, p.MTU = true, size
			return p
		}
	}
	return p
}

// echo sends one packet of size bytes and waits for its answer.
func echo(ctx context.Context, to netip.Addr, size int) error {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) {
			serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
		})
		return errors.Join(err, serr)
	}}
	conn, err := lc.ListenPacket(ctx, "ip4:icmp", "0.0.0.0")
	if err != nil {
		return fmt.Errorf("open an ICMP socket: %w", err)
	}
	defer conn.Close()
	id, seq := os.Getpid()&0xffff, size
	body := make([]byte, size-ipv4.HeaderLen-8)
	binary.BigEndian.PutUint64(body, uint64(time.Now().UnixNano()))
	b, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: seq, Data: body}}).Marshal(nil)
	if err != nil {
		return err
	}
	if _, err := conn.WriteTo(b, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return fmt.Errorf("send an echo: %w", err)
	}
	end := time.Now().Add(echoWait)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		end = d
	}
	if err := conn.SetReadDeadline(end); err != nil {
		return err
	}
	in := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(in)
		if err != nil {
			return fmt.Errorf("wait for an echo: %w", err)
		}
		m, err := icmp.ParseMessage(1, in[:n])
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply || from.String() != to.String() {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && e.ID == id && e.Seq == seq {
			return nil
		}
	}
}
