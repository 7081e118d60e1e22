package slot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// socketBuffer is the receive buffer that charon's HA socket inherits: with the
// kernel's default most datagrams of a burst are lost without a trace.
const socketBuffer = 16 << 20

// sysctl is one setting below /proc/sys of the calling thread's namespace.
type sysctl struct{ key, value string }

// slotSysctls are set before the veth exists, so that it is born with them.
var slotSysctls = []sysctl{
	{"net/ipv4/ip_forward", "1"},
	{"net/ipv4/conf/all/rp_filter", "0"},
	{"net/ipv4/conf/default/rp_filter", "0"},
	{"net/ipv4/conf/all/send_redirects", "0"},
	{"net/ipv4/conf/default/send_redirects", "0"},
	{"net/ipv4/conf/all/accept_redirects", "0"},
	{"net/ipv4/conf/default/accept_redirects", "0"},
	{"net/ipv6/conf/all/forwarding", "1"},
	{"net/ipv6/conf/default/addr_gen_mode", "1"},
	{"net/ipv6/conf/default/accept_ra", "0"},
	{"net/ipv6/conf/default/accept_dad", "0"},
	{"net/ipv6/conf/all/accept_redirects", "0"},
	{"net/ipv6/conf/default/accept_redirects", "0"},
	// Replay notifications (package xfrm): each 2^16 packets or each second.
	{"net/core/xfrm_aevent_rseqth", "65536"},
	{"net/core/xfrm_aevent_etime", "10"},
}

// deviceSysctls are those of either end of the veth. With addr_gen_mode 1 it
// has no IPv6 address: nothing to detect duplicates of.
func deviceSysctls(dev string) []sysctl {
	v4, v6 := "net/ipv4/conf/"+dev, "net/ipv6/conf/"+dev
	return []sysctl{
		{v4 + "/rp_filter", "0"},
		{v4 + "/send_redirects", "0"},
		{v4 + "/accept_redirects", "0"},
		{v6 + "/addr_gen_mode", "1"},
		{v6 + "/accept_ra", "0"},
		{v6 + "/accept_dad", "0"},
		{v6 + "/accept_redirects", "0"},
	}
}

func setSysctls(list []sysctl) error {
	for _, s := range list {
		if err := s.set(); err != nil {
			return err
		}
	}
	return nil
}

// set writes the value where it differs. Settings of IPv6 are skipped where
// the kernel has none.
func (s sysctl) set() error {
	path := "/proc/sys/" + s.key
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(s.key, "net/ipv6/") {
		return nil
	}
	if err == nil && strings.TrimSpace(string(b)) == s.value {
		return nil
	}
	if err == nil {
		err = os.WriteFile(path, []byte(s.value), 0o644)
	}
	if err != nil {
		return fmt.Errorf("set sysctl %s: %w", strings.ReplaceAll(s.key, "/", "."), err)
	}
	return nil
}

func readSysctl(key string) (int, error) {
	b, err := os.ReadFile("/proc/sys/" + key)
	if err != nil {
		return 0, fmt.Errorf("read sysctl %s: %w", strings.ReplaceAll(key, "/", "."), err)
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("read sysctl %s: %w", strings.ReplaceAll(key, "/", "."), err)
	}
	return v, nil
}

// prepareHost makes the host namespace a router without weakening it more than
// that takes. It runs inside that namespace.
func prepareHost() error {
	// The effective rp_filter is the higher one of `all` and the device. Slots
	// need 0, so what `all` says moves to the other devices.
	all, err := readSysctl("net/ipv4/conf/all/rp_filter")
	if err != nil {
		return err
	}
	if all != 0 {
		if err := raiseDevices("net/ipv4/conf", "rp_filter", 0, all); err != nil {
			return err
		}
		if err := (sysctl{"net/ipv4/conf/all/rp_filter", "0"}).set(); err != nil {
			return err
		}
	}
	if err := (sysctl{"net/ipv4/ip_forward", "1"}).set(); err != nil {
		return err
	}
	fwd, err := readSysctl("net/ipv6/conf/all/forwarding")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || fwd == 1 {
		return err
	}
	// A router ignores router advertisements where accept_ra is 1; an uplink
	// that lives on them goes on doing so with 2.
	if err := raiseDevices("net/ipv6/conf", "accept_ra", 1, 2); err != nil {
		return err
	}
	return sysctl{"net/ipv6/conf/all/forwarding", "1"}.set()
}

// raiseDevices sets name to at least to on every device where it is at least
// from.
func raiseDevices(dir, name string, from, to int) error {
	es, err := os.ReadDir("/proc/sys/" + dir)
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	for _, e := range es {
		if e.Name() == "all" || strings.HasPrefix(e.Name(), vethPrefix) {
			continue
		}
		key := filepath.Join(dir, e.Name(), name)
		v, err := readSysctl(key)
		if errors.Is(err, os.ErrNotExist) {
			continue // gone meanwhile
		}
		if err != nil {
			return err
		}
		if v < from || v >= to {
			continue
		}
		if err := (sysctl{key, strconv.Itoa(to)}).set(); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// raiseSocketBuffers raises the machine-wide receive buffer, which only the
// machine's first namespace can change.
func raiseSocketBuffers(host *os.File) error {
	raise := func() error {
		for _, key := range []string{"net/core/rmem_max", "net/core/rmem_default"} {
			v, err := readSysctl(key)
			if err != nil {
				return err
			}
			if v >= socketBuffer {
				continue
			}
			if err := (sysctl{key, strconv.Itoa(socketBuffer)}).set(); err != nil {
				return err
			}
		}
		return nil
	}
	err := inNetns(host, raise)
	if err == nil {
		return nil
	}
	first, ferr := os.Open("/proc/1/ns/net")
	if ferr != nil {
		return errors.Join(err, ferr)
	}
	defer first.Close()
	return inNetns(first, raise)
}
