package swanctl

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// Rules are what a fleet demands of connections. Zero fields take defaults.
type Rules struct {
	VIPs         []netip.Addr // addresses that local_addrs may name
	BlockSize    uint64       // upper bound of life_packets; default sa.BlockSize
	ReplayWindow int          // lower bound of replay_window; default 1024
	HWOffload    bool         // allow hw_offload: the operator asked for it
}

// Defaults that Load injects where the operator wrote nothing. Half of a block
// for the soft limit leaves the other half for a rekey; the hard limit stays
// 2^24 below the block's end, for the packets that GSO counts as one.
const (
	lifePackets     = sa.BlockSize - 1<<24
	minReplayWindow = 1024
)

// problem is one violation, at its place.
type problem struct {
	pos  Pos
	path string // connections.rw.version
	text string
}

func (p problem) Error() string {
	if p.path == "" {
		return fmt.Sprintf("%s: %s", p.pos, p.text)
	}
	return fmt.Sprintf("%s: %s: %s", p.pos, p.path, p.text)
}

func (c *Config) refuse(pos Pos, path, format string, a ...any) {
	c.refused = append(c.refused, problem{pos, path, fmt.Sprintf(format, a...)})
}

// Check reports everything that keeps the configuration from being shadowed, one
// error for each violation, joined (errors.Join), in file order within each
// connection.
func (c *Config) Check(r Rules) error {
	if r.BlockSize == 0 {
		r.BlockSize = sa.BlockSize
	}
	if r.ReplayWindow == 0 {
		r.ReplayWindow = minReplayWindow
	}
	k := &checker{Rules: r}
	for _, p := range c.refused {
		k.errs = append(k.errs, p)
	}
	if c.pools != nil {
		k.pools(c.pools)
	}
	for _, s := range c.conns {
		k.conn(s)
	}
	for _, s := range c.authorities {
		k.authority(s)
	}
	return errors.Join(k.errs...)
}

// pools says what becomes of the pools of a gateway that stood alone.
func (k *checker) pools(s *section) {
	k.fail(s.pos, "pools", "own address pools would hand out addresses twice, want no such section, and pools = %s, %s in the connections; their prefixes are fleet.slots[].pools of the fleet's configuration", charon.Pool4, charon.Pool6)
	for _, p := range s.subs {
		for _, x := range p.keys {
			switch path := "pools." + p.name + "." + x.key; x.key {
			case "addrs":
			case "dns":
				k.fail(x.pos, path, "%s, want client_dns: [%s] in the section fleet of the fleet's configuration", x.value, strings.Join(splitList(x.value), ", "))
			default:
				k.fail(x.pos, path, "%s, which a fleet cannot tell its clients", x.value)
			}
		}
	}
}

type checker struct {
	Rules
	errs []error
}

func (k *checker) fail(pos Pos, path, format string, a ...any) {
	k.errs = append(k.errs, problem{pos, path, fmt.Sprintf(format, a...)})
}

// known reports settings that swanctl.conf(5) does not have, and what the wire
// format of vici cannot carry.
func (k *checker) known(s *section, path string, allowed map[string]keyKind) {
	if len(s.name) > 200 {
		k.fail(s.pos, path, "name has %d characters, at most 200 fit", len(s.name))
	}
	for _, x := range s.keys {
		if _, ok := allowed[x.key]; !ok {
			k.fail(x.pos, path+"."+x.key, "unknown setting (strongSwan 5.9)")
		}
		if len(x.value) > 60000 {
			k.fail(x.pos, path+"."+x.key, "value has %d characters, at most 60000 fit", len(x.value))
		}
	}
}

func (k *checker) conn(s *section) {
	path := "connections." + s.name
	k.known(s, path, connKeys)
	switch v, ok := s.find("version"); {
	case !ok:
		k.fail(s.pos, path, "accepts IKEv1, which cannot be shadowed: want version = 2")
	case v.value != "2":
		k.fail(v.pos, path+".version", "%s, want 2: IKEv1 cannot be shadowed", v.value)
	}
	k.localAddrs(s, path)
	if p, ok := s.find("pools"); ok {
		for _, n := range splitList(p.value) {
			if n != charon.Pool4 && n != charon.Pool6 {
				k.fail(p.pos, path+".pools", "%s, want only %s and %s: other pools are unknown to the twins and would give a client's address away", n, charon.Pool4, charon.Pool6)
			}
		}
	}
	for _, x := range []string{"mediation", "mediated_by"} {
		if v, ok := s.find(x); ok && v.value != "no" {
			k.fail(v.pos, path+"."+x, "mediation connections cannot be shadowed, want it left out")
		}
	}
	if v, ok := s.find("vips"); ok {
		k.fail(v.pos, path+".vips", "a gateway hands out inner addresses and requests none, want it left out")
	}
	rounds := 0
	for _, x := range s.subs {
		switch {
		case x.name == "children":
			for _, y := range x.keys {
				k.fail(y.pos, path+".children", "setting %s directly in this section, want a named child around it", y.key)
			}
			for _, y := range x.subs {
				k.child(y, path+".children."+y.name)
			}
		case strings.HasPrefix(x.name, "local"), strings.HasPrefix(x.name, "remote"):
			rounds++
			k.auth(x, path+"."+x.name)
		default:
			k.fail(x.pos, path+"."+x.name, "unknown section, want local*, remote* or children")
		}
	}
	if rounds == 0 {
		k.fail(s.pos, path, "has neither a local nor a remote section: nobody would be authenticated")
	}
}

func (k *checker) localAddrs(s *section, path string) {
	var vips []string
	for _, a := range k.VIPs {
		vips = append(vips, a.String())
	}
	want := "want addresses of " + strings.Join(vips, ", ")
	v, ok := s.find("local_addrs")
	if !ok {
		k.fail(s.pos, path, "has no local_addrs, %s", want)
		return
	}
	for _, x := range splitList(v.value) {
		a, err := netip.ParseAddr(x)
		switch {
		case err != nil:
			k.fail(v.pos, path+".local_addrs", "%s is no address, %s", x, want)
		case !slices.Contains(k.VIPs, a.Unmap()):
			k.fail(v.pos, path+".local_addrs", "%s is no VIP of the fleet, %s", x, want)
		}
	}
}

func (k *checker) auth(s *section, path string) {
	k.known(s, path, authKeys)
	if v, ok := s.find("auth"); ok && strings.HasPrefix(v.value, "xauth") {
		k.fail(v.pos, path+".auth", "XAuth belongs to IKEv1, want eap, psk or pubkey")
	}
	if v, ok := eapMethod(s); ok && !slices.Contains(eapMethods(), v.value) {
		k.fail(v.pos, path+".auth", "%s, gateways serve %s", v.value, strings.Join(eapMethods(), ", "))
	}
	for _, x := range s.subs {
		if !hasAnyPrefix(x.name, "cert", "cacert") {
			k.fail(x.pos, path+"."+x.name, "unknown section, want cert* or cacert*")
			continue
		}
		k.known(x, path+"."+x.name, certKeys)
		for _, y := range x.keys {
			if y.key != "file" {
				k.fail(y.pos, path+"."+x.name+"."+y.key, "certificates on tokens are not supported: twins on other appliances could not use them; want file")
			}
		}
	}
}

func (k *checker) authority(s *section) {
	path := "authorities." + s.name
	k.known(s, path, authorityKeys)
	for _, x := range []string{"handle", "slot", "module"} {
		if v, ok := s.find(x); ok {
			k.fail(v.pos, path+"."+x, "certificates on tokens are not supported, want cacert or file")
		}
	}
}

func (k *checker) child(s *section, path string) {
	k.known(s, path, childKeys)
	for _, x := range s.subs {
		k.fail(x.pos, path+"."+x.name, "unknown section")
	}
	if v, ok := s.find("mode"); ok && (v.value == "pass" || v.value == "drop") {
		return // a policy without SA
	}
	k.packets(s, path)
	if v, ok := s.find("replay_window"); ok {
		if n, err := strconv.Atoi(v.value); err != nil || n < k.ReplayWindow {
			k.fail(v.pos, path+".replay_window", "%s, want %d or more (or leave it out): packets are reordered while a slot moves", v.value, k.ReplayWindow)
		}
	}
	if v, ok := s.find("hw_offload"); ok && v.value != "no" && !k.HWOffload {
		k.fail(v.pos, path+".hw_offload", "%s, want no: offloading hardware counts sequence numbers that the sequence blocks do not see", v.value)
	}
	for _, x := range []string{"start_action", "close_action", "dpd_action"} {
		v, ok := s.find(x)
		if !ok {
			continue
		}
		for _, a := range strings.Split(v.value, "|") {
			if a = strings.TrimSpace(a); !slices.Contains([]string{"none", "clear"}, a) {
				k.fail(v.pos, path+"."+x, "%s, want none: every shadow of the slot would act too, and initiate SAs that no one owns", v.value)
				break
			}
		}
	}
	if v, ok := s.find("policies"); ok && v.value != "yes" {
		k.fail(v.pos, path+".policies", "%s, want yes: without policies traffic would leave unprotected", v.value)
	}
	for _, x := range []string{"interface", "if_id_in", "if_id_out"} {
		if v, ok := s.find(x); ok && v.value != "0" {
			k.fail(v.pos, path+"."+x, "slots have no such interface, want it left out")
		}
	}
}

// packets checks that the kernel stops an SA before its sequence block ends.
func (k *checker) packets(s *section, path string) {
	get := func(name string) (uint64, setting, bool) {
		v, ok := s.find(name)
		if !ok {
			return 0, v, false
		}
		n, err := parseCount(v.value)
		if err != nil {
			k.fail(v.pos, path+"."+name, "%s is no packet count", v.value)
			return 0, v, false
		}
		return n, v, true
	}
	life, lv, hasLife := get("life_packets")
	rekey, rv, hasRekey := get("rekey_packets")
	rand, jv, hasRand := get("rand_packets")
	limit := life
	switch {
	case !hasLife:
		limit = min(lifePackets, k.BlockSize)
	case life == 0:
		k.fail(lv.pos, path+".life_packets", "0 is no limit, want 1..%d (or leave it out): an SA must end before its sequence block does", k.BlockSize)
		return
	case life > k.BlockSize:
		k.fail(lv.pos, path+".life_packets", "%d, want at most %d (or leave it out): an SA must end before its sequence block does", life, k.BlockSize)
		return
	}
	if hasRekey && (rekey == 0 || rekey >= limit) {
		k.fail(rv.pos, path+".rekey_packets", "%d, want 1..%d (or leave it out): a rekey must come before the hard limit of %d packets", rekey, limit-1, limit)
		return
	}
	if !hasRekey {
		rekey = limit / 2
	}
	if hasRand && rand >= rekey {
		k.fail(jv.pos, path+".rand_packets", "%d, want less than rekey_packets, %d", rand, rekey)
	}
}

// parseCount reads a number as vici does: an optional suffix k, m or g.
func parseCount(v string) (uint64, error) {
	mult := uint64(1)
	switch {
	case strings.HasSuffix(v, "k") || strings.HasSuffix(v, "K"):
		mult = 1 << 10
	case strings.HasSuffix(v, "m") || strings.HasSuffix(v, "M"):
		mult = 1 << 20
	case strings.HasSuffix(v, "g") || strings.HasSuffix(v, "G"):
		mult = 1 << 30
	}
	if mult > 1 {
		v = v[:len(v)-1]
	}
	n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
	if err != nil {
		return 0, err
	}
	if n > (1<<63)/mult {
		return 0, strconv.ErrRange
	}
	return n * mult, nil
}
