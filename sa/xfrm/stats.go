package xfrm

import (
	"bytes"
	"fmt"
	"strconv"
)

// parseStats reads /proc/net/xfrm_stat: a name and a number on each line.
func parseStats(b []byte) (map[string]uint64, error) {
	out := make(map[string]uint64)
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 2 {
			return nil, fmt.Errorf("read XFRM counters: line %q has %d fields, want 2", bytes.TrimSpace(line), len(f))
		}
		n, err := strconv.ParseUint(string(f[1]), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read XFRM counter %s: %w", f[0], err)
		}
		out[string(f[0])] = n
	}
	return out, nil
}
