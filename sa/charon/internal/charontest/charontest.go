// Package charontest gives tests network namespaces, gateways with the daemon's
// end of their HA link, and clients that connect to them. Everything is removed
// when the test ends. Only external test packages can use it.
package charontest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NS is a network namespace of a test, bind-mounted at Path.
type NS struct {
	Path string
	fd   netns.NsHandle
	nl   *netlink.Handle
	t    testing.TB
}

// NewNS makes a namespace with lo up. It skips the test without CAP_SYS_ADMIN.
func NewNS(t testing.TB) *NS {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	})
	if errors.Is(err, unix.EPERM) {
		t.Skip("needs CAP_SYS_ADMIN and CAP_NET_ADMIN for a network namespace")
	} else if err != nil {
		t.Fatal("make network namespace:", err)
	}
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	n := &NS{Path: path, t: t}
	if n.fd, err = netns.GetFromPath(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.fd.Close() })
	if n.nl, err = netlink.NewHandleAt(n.fd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.nl.Close)
	n.up("lo")
	return n
}

// onThread runs f on a thread of its own, which dies afterwards.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// Do runs f on a thread in the namespace.
func (n *NS) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.fd), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// Hold keeps a thread in the namespace until the test ends and returns its id,
// which names the namespace in /proc/<id>/net like a process would.
func (n *NS) Hold() int {
	n.t.Helper()
	tid, stop, stopped := make(chan int), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		n.Do(func() error {
			tid <- unix.Gettid()
			<-stop
			return nil
		})
	}()
	n.t.Cleanup(func() { close(stop); <-stopped })
	return <-tid
}

func (n *NS) up(dev string) {
	n.t.Helper()
	l, err := n.nl.LinkByName(dev)
	if err == nil {
		err = n.nl.LinkSetUp(l)
	}
	if err != nil {
		n.t.Fatalf("set %s up: %v", dev, err)
	}
}

// Addr adds an address to a device.
func (n *NS) Addr(dev, prefix string) {
	n.t.Helper()
	n.addr(dev, prefix, n.nl.AddrAdd)
}

// DelAddr removes it.
func (n *NS) DelAddr(dev, prefix string) {
	n.t.Helper()
	n.addr(dev, prefix, n.nl.AddrDel)
}

func (n *NS) addr(dev, prefix string, f func(netlink.Link, *netlink.Addr) error) {
	n.t.Helper()
	l, err := n.nl.LinkByName(dev)
	if err == nil {
		var a *netlink.Addr
		if a, err = netlink.ParseAddr(prefix); err == nil {
			err = f(l, a)
		}
	}
	if err != nil {
		n.t.Fatalf("change address %s of %s: %v", prefix, dev, err)
	}
}

// Veth joins two namespaces; the device is called dev in a and in b.
func Veth(a, b *NS, dev, addrA, addrB string) {
	a.t.Helper()
	err := a.nl.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: dev}, PeerName: dev, PeerNamespace: netlink.NsFd(b.fd),
	})
	if err != nil {
		a.t.Fatalf("make veth %s: %v", dev, err)
	}
	for n, addr := range map[*NS]string{a: addrA, b: addrB} {
		n.Addr(dev, addr)
		n.up(dev)
	}
}

// Route adds a route by way of a gateway.
func (n *NS) Route(dst, via string) {
	n.t.Helper()
	d, err := netlink.ParseIPNet(dst)
	if err == nil {
		err = n.nl.RouteAdd(&netlink.Route{Dst: d, Gw: netip.MustParseAddr(via).AsSlice()})
	}
	if err != nil {
		n.t.Fatalf("route %s via %s: %v", dst, via, err)
	}
}

// NeedCharon skips the test where strongSwan or its ha plugin is missing.
func NeedCharon(t testing.TB) {
	t.Helper()
	for _, f := range []string{"/usr/sbin/charon-systemd", "/usr/lib/ipsec/plugins/libstrongswan-ha.so"} {
		if _, err := os.Stat(f); err != nil {
			t.Skipf("needs strongSwan (Debian packages charon-systemd, libcharon-extra-plugins): %v", err)
		}
	}
}

// Dir returns a directory short enough for Unix sockets.
func Dir(t testing.TB) string {
	t.Helper()
	d, err := os.MkdirTemp("", "sc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

// ClientConf is the strongswan.conf of a client whose directory is dir; further are
// lines for its charon-systemd section.
func ClientConf(dir string, further ...string) string {
	return strings.NewReplacer("FURTHER", strings.Join(further, "\n"), "DIR", dir).Replace(`charon-systemd {
  load = random nonce aes sha1 sha2 hmac kdf chapoly drbg curve25519 pem pkcs1 pkcs8 x509 pubkey constraints kernel-netlink socket-default vici updown
  retransmit_timeout = 1.0
  retransmit_base = 1.4
  install_routes = yes
  FURTHER
  filelog { f { path = DIR/charon.log
    default = 1
    flush_line = yes } }
  plugins { vici { socket = unix://DIR/vici } }
}
`)
}

// Addresses of the usual topology: a client on a veth to a gateway with the VIP
// on lo.
const (
	VIP      = "198.51.100.1"
	VIP2     = "198.51.100.2" // where a test wants another one
	ClientIP = "10.77.0.2"
	GWIP     = "10.77.0.1"
	Pool     = "10.3.0.0/24"
)

// GatewayConns is a swanctl.conf for the gateway with a pre-shared key.
const GatewayConns = `connections {
  rw {
    version = 2
    local_addrs = ` + VIP + `
    remote_addrs = %any
    pools = shadowcast4
    mobike = no
    unique = replace
    proposals = aes128-sha256-x25519
    local { auth = psk
      id = gw.example }
    remote { auth = psk
      id = %any }
    children {
      net {
        local_ts = 10.99.0.0/16
        esp_proposals = aes128gcm16-esn
      }
    }
  }
}
secrets { ike-1 { secret = "a shared secret" } }
`

// ClientConns is a swanctl.conf for its client.
const ClientConns = `connections {
  home {
    version = 2
    local_addrs = ` + ClientIP + `
    remote_addrs = ` + VIP + `
    vips = 0.0.0.0
    mobike = no
    proposals = aes128-sha256-x25519
    local { auth = psk
      id = c1@example }
    remote { auth = psk
      id = gw.example }
    children { net { remote_ts = 10.99.0.0/16
      esp_proposals = aes128gcm16-esn } }
  }
}
secrets { ike-1 { secret = "a shared secret" } }
`
