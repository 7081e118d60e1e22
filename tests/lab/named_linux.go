package lab

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// nameServer is a BIND on the loopback address of an outside router: the primary of
// Zone, which grants updates to the key in KeyFile.
type nameServer struct {
	Addr    netip.AddrPort
	Zone    string
	KeyFile string
	lab     *Lab
	proc    *Proc
}

const namedConf = `options {
	directory "%[1]s"; pid-file "%[1]s/named.pid"; session-keyfile "%[1]s/session.key"; managed-keys-directory "%[1]s";
	listen-on port 53 { %[2]s; }; listen-on-v6 { none; };
	recursion no; dnssec-validation no; notify no; allow-transfer { none; };
};
controls { };
include "%[1]s/dns.key";
zone "%[3]s" { type primary; file "%[1]s/zone.db"; update-policy { grant fleet zonesub ANY; }; };
`

// startNamed starts BIND on router r.
func (l *Lab) startNamed(ctx context.Context, r int) (*nameServer, error) {
	dir := filepath.Join(l.dir, "named")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of named: %w", err)
	}
	s := &nameServer{Addr: netip.AddrPortFrom(RouterLoopback(r), 53), Zone: "vpn.example", KeyFile: filepath.Join(dir, "dns.key"), lab: l}
	secret := make([]byte, 32)
	rand.Read(secret)
	for name, text := range map[string]string{
		"dns.key":    fmt.Sprintf("key \"fleet\" { algorithm hmac-sha256; secret %q; };\n", base64.StdEncoding.EncodeToString(secret)),
		"named.conf": fmt.Sprintf(namedConf, dir, s.Addr.Addr(), s.Zone),
		"zone.db":    fmt.Sprintf("$TTL 60\n@ SOA ns admin 1 3600 600 86400 60\n@ NS ns\nns A %s\n", s.Addr.Addr()),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("write configuration of named: %w", err)
		}
	}
	log := filepath.Join(l.out, "named.log")
	var err error
	if s.proc, err = l.start(l.nodes[routerName(r)], "named", log, nil, "/usr/sbin/named", "-g", "-n", "1", "-c", filepath.Join(dir, "named.conf")); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errors.New("no answer within 20 s"))
	defer cancel()
	return s, answering(ctx, s.proc, log, func() error {
		_, err := s.lookup(l.nodes[routerName(r)], "ns")
		return err
	})
}

// lookup asks from ns for the addresses of a name below the zone, as a resolver that
// has nothing cached.
func (s *nameServer) lookup(ns *Netns, name string) (out []netip.Addr, err error) {
	var conn net.Conn
	if err := ns.Do(func() (err error) {
		conn, err = net.Dial("udp4", s.Addr.String())
		return err
	}); err != nil {
		return nil, fmt.Errorf("look up %s: %w", name, err)
	}
	defer conn.Close()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name+"."+s.Zone), dns.TypeA)
	c := dns.Client{Timeout: 500 * time.Millisecond}
	r, _, err := c.ExchangeWithConn(m, &dns.Conn{Conn: conn})
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", name, err)
	}
	for _, rr := range r.Answer {
		if a, ok := rr.(*dns.A); ok {
			if ip, ok := netip.AddrFromSlice(a.A); ok {
				out = append(out, ip.Unmap())
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("look up %s: %s, no address", name, dns.RcodeToString[r.Rcode])
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out, nil
}
