package uml

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { Main(m, ESP|IPIP|Netem|Plug|BPF) }

func TestGuestKernel(t *testing.T) {
	if !InGuest() {
		t.Skip("no guest was booted")
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	if r := unix.ByteSliceToString(u.Release[:]); !strings.HasPrefix(r, "6.") {
		t.Errorf("kernel release %q", r)
	}
	if h := unix.ByteSliceToString(u.Nodename[:]); h != "uml" {
		t.Errorf("host name %q", h)
	}
}

func TestESP(t *testing.T) {
	Require(t, ESP)
	runtime.LockOSThread() // never unlocked: the thread's namespace dies with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	for _, sa := range []string{
		"spi 0x1001 mode tunnel aead rfc4106(gcm(aes)) 0x" + strings.Repeat("11", 20) + " 128",
		"spi 0x1002 mode tunnel enc cbc(aes) 0x" + strings.Repeat("22", 32) + " auth-trunc hmac(sha256) 0x" + strings.Repeat("33", 32) + " 128",
	} {
		args := strings.Fields("xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp " + sa)
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Errorf("ip %s: %v: %s", args, err, out)
		}
	}
	out, err := exec.Command("ip", "xfrm", "state", "count").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "2") {
		t.Errorf("SA count: %v %s", err, out)
	}
}

func TestUDPEncapAndESN(t *testing.T) {
	Require(t, ESP)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ip", "xfrm", "state", "add", "src", "10.0.0.1", "dst", "10.0.0.2", "proto", "esp", "spi", "0x1003",
		"mode", "tunnel", "replay-window", "1024", "flag", "esn", "aead", "rfc4106(gcm(aes))", "0x"+strings.Repeat("44", 20), "128",
		"encap", "espinudp", "4500", "4500", "0.0.0.0").CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
