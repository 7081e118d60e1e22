package swanctl

import (
	"strconv"
	"time"
)

// ShortestDPD is the shortest dpd_delay of all connections, 0 if none checks for
// dead peers. Values that are no time count as none; charon refuses them.
func (c *Config) ShortestDPD() time.Duration {
	var least time.Duration
	for _, s := range c.conns {
		v, ok := s.find("dpd_delay")
		if !ok {
			continue
		}
		if d, ok := seconds(v.value); ok && d > 0 && (least == 0 || d < least) {
			least = d
		}
	}
	return least
}

// seconds reads a time as swanctl.conf(5) has it: a number and s, m, h or d;
// without a unit it is seconds.
func seconds(s string) (time.Duration, bool) {
	unit := time.Second
	if s != "" {
		switch s[len(s)-1] {
		case 's':
			s = s[:len(s)-1]
		case 'm':
			unit, s = time.Minute, s[:len(s)-1]
		case 'h':
			unit, s = time.Hour, s[:len(s)-1]
		case 'd':
			unit, s = 24*time.Hour, s[:len(s)-1]
		}
	}
	n, err := strconv.ParseUint(s, 10, 31)
	return time.Duration(n) * unit, err == nil
}
