package bgp

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// netstat is the kernel's account of this network namespace.
const netstat = "/proc/self/net/netstat"

// dropCauses are the counters of TcpExt that tell why a handshake gets no answer:
// TCP drops such segments without a word to either side. They count for all peers
// together, so they are a hint.
var dropCauses = []struct{ counter, means string }{
	{"TCPMD5Failure", "segments with a wrong TCP MD5 signature arrived: the passwords differ"},
	{"TCPMD5NotFound", "segments without a TCP MD5 signature arrived: the router has no password"},
	{"TCPMD5Unexpected", "segments with a TCP MD5 signature arrived: the router has a password, we have none"},
	{"TCPMinTTLDrop", "segments with a TTL below 255 arrived: the router does not send with TTL 255 (RFC 5082), or is more than one hop away"},
}

// tcpDrops watches the counters.
type tcpDrops struct {
	mu    sync.Mutex
	read  func() ([]byte, error)
	first map[string]uint64                // when it was made
	last  map[netip.Addr]map[string]uint64 // when each peer was asked for last
}

func newTCPDrops(read func() ([]byte, error)) *tcpDrops {
	d := &tcpDrops{read: read, last: map[netip.Addr]map[string]uint64{}}
	if b, err := read(); err == nil {
		d.first = tcpExt(string(b))
	}
	return d
}

func readNetstat() ([]byte, error) { return os.ReadFile(netstat) }

// hint says what TCP has dropped since peer was asked for last, "" for nothing known.
func (d *tcpDrops) hint(peer netip.Addr) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := d.read()
	if err != nil {
		return ""
	}
	now, before := tcpExt(string(b)), d.last[peer]
	if before == nil {
		before = d.first
	}
	var out []string
	for _, c := range dropCauses {
		if was, ok := before[c.counter]; ok && now[c.counter] > was {
			out = append(out, c.means)
		}
	}
	d.last[peer] = now
	if len(out) == 0 {
		return ""
	}
	return fmt.Sprintf(" (meanwhile %s)", strings.Join(out, "; "))
}

// tcpExt reads the counters of TcpExt: a line of names and one of values.
func tcpExt(text string) map[string]uint64 {
	out := map[string]uint64{}
	var names []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != "TcpExt:" {
			continue
		}
		if names == nil {
			names = slices.Clone(f)
			continue
		}
		for i := 1; i < min(len(f), len(names)); i++ {
			if v, err := strconv.ParseUint(f[i], 10, 64); err == nil {
				out[names[i]] = v
			}
		}
	}
	return out
}
