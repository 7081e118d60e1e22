package uml

import (
	"bytes"
	"slices"
	"testing"
)

func TestConsoleWriter(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"marks", "Checking ptrace...OK\r\n" + beginMark + "a\r\nb\n" + endMark + "reboot: Power down\r\n", "a\nb\n"},
		{"no end", "x" + beginMark + "partial", "partial"},
		{"no begin", "Kernel panic\r\n", ""},
		{"looks like an end", beginMark + "a\x03shadow" + "b", "a\x03shadowb"},
	} {
		for _, step := range []int{1, 3, len(tc.in)} {
			var out bytes.Buffer
			c := &consoleWriter{w: &out}
			for p := []byte(tc.in); len(p) > 0; {
				n := min(step, len(p))
				c.Write(p[:n])
				p = p[n:]
			}
			if err := c.flush(); err != nil || out.String() != tc.want {
				t.Errorf("%s, %d bytes at once: %q, %v, want %q", tc.name, step, out.String(), err, tc.want)
			}
		}
	}
}

func TestLoadOrder(t *testing.T) {
	const dep = "kernel/net/esp4.ko: kernel/net/xfrm_algo.ko kernel/net/base.ko\nkernel/net/xfrm_algo.ko: kernel/net/base.ko\nkernel/net/base.ko:\nkernel/net/sch-plug.ko.xz:\n"
	got := loadOrder(dep, []string{"esp4", "xfrm_algo", "builtin", "sch_plug"})
	want := []string{"kernel/net/base.ko", "kernel/net/xfrm_algo.ko", "kernel/net/esp4.ko", "kernel/net/sch-plug.ko.xz"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestNeedString(t *testing.T) {
	if s := (ESP | Plug).String(); s != "ESP+plug" {
		t.Error(s)
	}
	if s := Need(0).String(); s != "none" {
		t.Error(s)
	}
}
