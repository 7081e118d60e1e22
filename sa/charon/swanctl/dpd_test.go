package swanctl

import (
	"testing"
	"time"
)

func TestShortestDPD(t *testing.T) {
	for _, x := range []struct {
		values []string
		want   time.Duration
	}{
		{nil, 0},
		{[]string{"0s"}, 0},
		{[]string{"30s"}, 30 * time.Second},
		{[]string{"90", "2m", "0"}, 90 * time.Second},
		{[]string{"1h", "1d"}, time.Hour},
		{[]string{"soon", "", "s", "-1s", "5x"}, 0},
	} {
		c := &Config{conns: []*section{{name: "without"}}}
		for _, v := range x.values {
			c.conns = append(c.conns, &section{keys: []setting{{key: "dpd_delay", value: v}}})
		}
		if got := c.ShortestDPD(); got != x.want {
			t.Errorf("%q: %s, want %s", x.values, got, x.want)
		}
	}
}
