package uml

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// modulesRoot is where Debian's user-mode-linux puts its modules.
const modulesRoot = "/usr/lib/uml/modules"

// defaultModules are what the appliances, routers and clients of the lab use.
// A name that modules.dep does not list is taken to be built in.
var defaultModules = []string{
	"xfrm_user", "xfrm_algo", "esp4", "esp6", "xfrm4_tunnel", "xfrm6_tunnel", "xfrm_interface",
	"gcm", "ccm", "seqiv", "echainiv", "authenc", "cbc", "ctr", "hmac", "sha256_generic", "sha512_generic", "aes_generic", "ghash_generic", "gf128mul", "chacha20poly1305", "drbg",
	"veth", "tun", "dummy", "ifb", "vrf", "bridge", "8021q",
	"ipip", "tunnel4", "ip_tunnel", "ip6_tunnel", "tunnel6", "sit", "gre", "ip_gre",
	"sch_netem", "sch_plug", "sch_ingress", "sch_fq", "cls_bpf", "cls_u32", "cls_matchall", "act_gact", "act_mirred", "act_bpf",
	"nf_tables", "nf_conntrack", "nf_nat", "ip_tables", "iptable_nat", "iptable_filter", "iptable_mangle", "xt_MASQUERADE", "xt_conntrack", "xt_nat", "xt_tcpudp", "xt_policy",
	"ipv6", "af_packet", "af_key", "inet_diag", "udp_diag", "unix_diag", "overlay",
}

// loadModules inserts names and what they depend on, in modules.dep's order.
func loadModules(names []string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("read kernel release: %w", err)
	}
	dir := filepath.Join(modulesRoot, unix.ByteSliceToString(u.Release[:]))
	b, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return fmt.Errorf("read module dependencies: %w", err)
	}
	paths := loadOrder(string(b), names)
	for _, p := range paths {
		if err := insert(filepath.Join(dir, p)); err != nil {
			return err
		}
	}
	return nil
}

// loadOrder returns the files to insert for names, dependencies first, each once.
// dep is the content of modules.dep, whose lines read "path: direct and indirect
// dependencies, nearest first".
func loadOrder(dep string, names []string) []string {
	deps := map[string][]string{}
	for l := range strings.Lines(dep) {
		file, rest, ok := strings.Cut(l, ":")
		if !ok {
			continue
		}
		list := append([]string{file}, strings.Fields(rest)...)
		deps[moduleName(file)] = list
	}
	var order []string
	seen := map[string]bool{}
	for _, n := range names {
		list := deps[strings.ReplaceAll(n, "-", "_")]
		for i := len(list) - 1; i >= 0; i-- {
			if !seen[list[i]] {
				seen[list[i]] = true
				order = append(order, list[i])
			}
		}
	}
	return order
}

func moduleName(file string) string {
	n, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return strings.ReplaceAll(n, "-", "_")
}

func insert(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("open module: %w", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("insert module %s: %w", filepath.Base(file), err)
	}
	return nil
}
