package xfrm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func next(t *testing.T, s *Subscription, kind EventKind) Event {
	t.Helper()
	for {
		e, err := s.Next()
		if err != nil {
			t.Fatalf("waiting for %s: %v", kind, err)
		}
		if e.Kind == kind {
			return e
		}
	}
}

func TestEvents(t *testing.T) {
	ns := newNetns(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	sub, err := Subscribe(ctx, ns, GroupSA, GroupReplay, GroupExpire)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	id := ID{Dst: netip.MustParseAddr("10.0.0.2"), SPI: 0x100001, Proto: 50}
	ip(t, ns, "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x100001 mode tunnel replay-window 64 flag esn limit packet-hard 1000 "+gcm)
	if e := next(t, sub, NewSA); e.State.ID != id || !e.State.ESN || e.State.Window != 64 || e.State.HardPackets != 1000 {
		t.Errorf("%+v", e)
	}
	if bytes.Contains(sub.s.buf, []byte{1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Error("key left in the receive buffer")
	}
	c := open(t, ns)
	if _, err := c.Write([]ReplayWrite{{ID: id, OSeq: 6<<32 | 1<<26}}); err != nil {
		t.Fatal(err)
	}
	if e := next(t, sub, Replay); e.State.ID != id || e.State.OSeq != 6<<32|1<<26 || e.Cause != CauseWrite {
		t.Errorf("%+v", e)
	}
	if err := c.Delete(id); err != nil {
		t.Fatal(err)
	}
	if e := next(t, sub, DelSA); e.State.ID != id || e.State.OSeq != 6<<32|1<<26 {
		t.Errorf("%+v", e)
	}
	ip(t, ns, "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x100002 mode tunnel limit time-hard 1 "+gcm)
	if e := next(t, sub, HardExpire); e.State.SPI != 0x100002 {
		t.Errorf("%+v", e)
	}
	ip(t, ns, "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x100003 mode tunnel "+gcm)
	if err := c.FlushSA(); err != nil {
		t.Fatal(err)
	}
	next(t, sub, Flushed)
	cancel()
	if _, err := sub.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}

func TestOverrun(t *testing.T) {
	ns := newNetns(t)
	ip(t, ns, "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x100001 mode tunnel replay-window 64 flag esn "+gcm)
	var s *sock
	if err := openIn(ns, func() (err error) { s, err = newSock(4096, GroupReplay); return err }); err != nil {
		t.Fatal(err)
	}
	sub := &Subscription{ctx: t.Context(), s: s, stop: func() bool { return true }}
	defer sub.Close()
	c := open(t, ns)
	for i := range 64 {
		if _, err := c.Write([]ReplayWrite{{ID: ID{netip.MustParseAddr("10.0.0.2"), 0x100001, 50}, OSeq: uint64(i + 1)}}); err != nil {
			t.Fatal(err)
		}
	}
	next(t, sub, Overrun)
}

// TestTraffic presets an outbound SA and checks with real ESP packets that the
// peer sees the first number of the block, that a window preset refuses what
// lies below, and that traffic makes itself known by a timer notification.
func TestTraffic(t *testing.T) {
	a, b := newNetns(t), newNetns(t)
	ip(t, a, "link add va type veth peer name vb")
	fd, err := unix.Open(b, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ip(t, a, "link set vb netns "+fmt.Sprintf("/proc/%d/fd/%d", unix.Getpid(), fd))
	sas := []string{
		"xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x100001 mode transport replay-window 1024 flag esn " + gcm,
		"xfrm policy add src 10.0.0.1 dst 10.0.0.2 dir DIR tmpl src 10.0.0.1 dst 10.0.0.2 proto esp mode transport",
	}
	script := func(dir, dev, addr string) []string {
		var out []string
		for _, l := range sas {
			out = append(out, strings.ReplaceAll(l, "DIR", dir))
		}
		return append(out, "link set lo up", "address add "+addr+"/24 dev "+dev, "link set "+dev+" up")
	}
	run(t, a, "", "sysctl", "-qw", "net.core.xfrm_aevent_etime=1")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	sub, err := Subscribe(ctx, a, GroupReplay)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	ip(t, a, script("out", "va", "10.0.0.1")...)
	ip(t, b, script("in", "vb", "10.0.0.2")...)
	id := ID{Dst: netip.MustParseAddr("10.0.0.2"), SPI: 0x100001, Proto: 50}
	ca, cb := open(t, a), open(t, b)

	var rx, tx net.Conn
	if err := openIn(b, func() error {
		p, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 7000})
		rx = p
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer rx.Close()
	if err := openIn(a, func() (err error) { tx, err = net.Dial("udp4", "10.0.0.2:7000"); return err }); err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	// passes reports whether one datagram gets through.
	passes := func(wait time.Duration) bool {
		t.Helper()
		if _, err := tx.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := rx.SetReadDeadline(time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
		_, err := rx.Read(make([]byte, 10))
		return err == nil
	}
	if !passes(10 * time.Second) {
		t.Fatal("no traffic")
	}
	const first = 5 << 26
	if _, err := ca.Write([]ReplayWrite{{ID: id, OSeq: first}}); err != nil {
		t.Fatal(err)
	}
	if !passes(10 * time.Second) {
		t.Fatal("no traffic after the jump")
	}
	s, err := cb.Get(id)
	if err != nil || s.Seq != first+1 || s.Packets != 2 {
		t.Fatalf("peer is at %d after %d packets, want %d: %v", s.Seq, s.Packets, first+1, err)
	}
	for {
		if e := next(t, sub, Replay); e.Cause == CauseTimer && e.State.OSeq == first+1 {
			if e.State.Packets != 2 {
				t.Errorf("%+v", e.State)
			}
			break
		}
	}
	// The receiver's window, moved by a sample, refuses numbers it marks seen
	// and accepts the ones it does not.
	in := s.Sample()
	in.Seq += 3
	word, bit := in.pos(in.Seq - 1)
	in.Bitmap = slices.Repeat([]uint32{^uint32(0)}, len(in.Bitmap))
	in.Bitmap[word] &^= bit
	if _, err := cb.Write([]ReplayWrite{{ID: id, In: &in}}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true, false, true} { // first+2 .. first+5
		wait := 10 * time.Second
		if !want {
			wait = 200 * time.Millisecond
		}
		if passes(wait) != want {
			t.Errorf("number %d: passed %v, want %v", first+2+i, !want, want)
		}
	}
	if s, err := cb.Get(id); err != nil || s.Errors.Replay != 2 {
		t.Errorf("replay errors %+v, want 2 (%v)", s.Errors, err)
	}
	if st, err := cb.Stats(); err != nil || st["XfrmInStateSeqError"] != 2 {
		t.Errorf("XfrmInStateSeqError %d, want 2 (%v)", st["XfrmInStateSeqError"], err)
	}
}
