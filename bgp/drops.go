package bgp

import (
	"fmt"
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
	mu   sync.Mutex
	read func() ([]byte, error)
	last map[string]uint64
}

func newTCPDrops() *tcpDrops {
	d := &tcpDrops{read: func() ([]byte, error) { return os.ReadFile(netstat) }}
	d.hint()
	return d
}

// hint says what TCP has dropped since the last call, "" for nothing known.
func (d *tcpDrops) hint() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := d.read()
	if err != nil {
		return ""
	}
	now := tcpExt(string(b))
	var out []string
	for _, c := range dropCauses {
		if was, ok := d.last[c.counter]; ok && now[c.counter] > was {
			out = append(out, c.means)
		}
	}
	d.last = now
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
