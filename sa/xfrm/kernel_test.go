package xfrm

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/tests/uml"
)

func TestMain(m *testing.M) {
	uml.Init()
	flag.Parse()
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		os.Exit(m.Run()) // the fuzz target needs no kernel
	}
	uml.Main(m, uml.ESP)
}

// newNetns returns the path of a new network namespace, which lives as long
// as the test.
func newNetns(t testing.TB) string {
	t.Helper()
	uml.Require(t, uml.ESP)
	path, quit := make(chan string), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread dies
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			close(path)
			return
		}
		path <- filepath.Join("/proc/self/task", strconv.Itoa(unix.Gettid()), "ns/net")
		<-quit
	})
	p, ok := <-path
	if !ok {
		t.FailNow()
	}
	t.Cleanup(func() { close(quit); wg.Wait() })
	return p
}

// run runs a command in the namespace, fed with input.
func run(t testing.TB, ns, input string, argv ...string) string {
	t.Helper()
	var out []byte
	err := openIn(ns, func() (err error) {
		c := exec.Command(argv[0], argv[1:]...)
		c.Stdin = strings.NewReader(input)
		out, err = c.CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%v: %v: %s", argv, err, out)
	}
	return string(out)
}

func ip(t testing.TB, ns string, lines ...string) {
	t.Helper()
	run(t, ns, strings.Join(lines, "\n")+"\n", "ip", "-batch", "-")
}

const gcm = "aead rfc4106(gcm(aes)) 0x0102030405060708090a0b0c0d0e0f1011121314 128"
const cbc = "enc cbc(aes) 0x000102030405060708090a0b0c0d0e0f auth-trunc hmac(sha256) 0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 128"

func open(t testing.TB, ns string) *Conn {
	t.Helper()
	c, err := Open(ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func wiped(t *testing.T, c *Conn) {
	t.Helper()
	if i := slices.IndexFunc(c.s.buf, func(b byte) bool { return b != 0 }); i >= 0 {
		t.Errorf("receive buffer not wiped at octet %d", i)
	}
}

// TestWriteReadBack writes every kind of SA and reads each write back, through
// Dump and through the ip tool.
func TestWriteReadBack(t *testing.T) {
	ns := newNetns(t)
	for i, tt := range []struct {
		name, opts string
		attr       ReplayAttr
		esn        bool
		window     uint32
	}{
		{"esn gcm", "replay-window 1024 flag esn " + gcm, ReplayESNVal, true, 1024},
		{"esn gcm small window", "replay-window 32 flag esn " + gcm, ReplayESNVal, true, 32},
		{"plain cbc", "replay-window 32 " + cbc, ReplayVal, false, 32},
		{"plain cbc encap", "replay-window 32 " + cbc + " encap espinudp 4500 4500 0.0.0.0", ReplayVal, false, 32},
		{"plain cbc wide window", "replay-window 1024 " + cbc, ReplayESNVal, false, 1024},
		{"plain gcm no window", gcm, ReplayVal, false, 0},
		{"esn outbound", "replay-window 1 flag esn " + gcm, ReplayESNVal, true, 1},
		{"marked", "replay-window 32 mark 7 mask 0xff " + cbc, ReplayVal, false, 32},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := ID{Dst: netip.MustParseAddr("192.0.2.1"), SPI: sa.SPI(0x00100001 + i), Proto: 50}
			src := "198.51.100.7"
			if i%2 == 1 {
				id.Dst, src = netip.MustParseAddr("2001:db8::1"), "2001:db8::7"
				tt.opts = strings.ReplaceAll(tt.opts, "0.0.0.0", "::")
			}
			ip(t, ns, fmt.Sprintf("xfrm state add src %s dst %s proto esp spi 0x%s reqid 9 mode tunnel %s", src, id.Dst, id.SPI, tt.opts))
			c := open(t, ns)
			read := func() State {
				t.Helper()
				all, err := c.Dump()
				wiped(t, c)
				if err != nil {
					t.Fatal(err)
				}
				j := slices.IndexFunc(all, func(s State) bool { return s.ID == id })
				if j < 0 {
					t.Fatalf("%s not in dump of %d", id, len(all))
				}
				return all[j]
			}
			s := read()
			if s.ReplayAttr != tt.attr || s.ESN != tt.esn || s.Window != tt.window || s.Src.String() != src || s.Reqid != 9 {
				t.Fatalf("%+v", s)
			}
			if tt.name == "marked" {
				if s.Mark == nil || *s.Mark != (Mark{7, 0xff}) {
					t.Fatalf("mark %+v", s.Mark)
				}
				if _, err := c.Get(id); !errors.Is(err, ErrNotFound) {
					t.Errorf("Get of a marked SA: %v", err)
				}
				return
			}
			base := uint64(0)
			if tt.esn {
				base = 5 << 32
			}
			words := max(1, int(tt.window+31)/32)
			bits := func(seed uint32) []uint32 {
				b := make([]uint32, words)
				for i := range b {
					b[i] = seed<<i | 1
				}
				if tt.window < 32 {
					b[0] &= 1<<tt.window - 1
				}
				return b
			}
			sample := func(seq uint64, seed uint32) *Sample {
				return &Sample{Seq: seq, Window: tt.window, Bitmap: bits(seed), Attr: tt.attr}
			}
			write := func(w ReplayWrite, want WriteResult) State {
				t.Helper()
				w.ID = id
				got, err := c.Write([]ReplayWrite{w})
				wiped(t, c)
				if err != nil || got.Written != want.Written || got.Skipped != want.Skipped || len(got.Live) > 0 {
					t.Fatalf("%+v, %v; want %+v", got, err, want)
				}
				return read()
			}
			one, skip := WriteResult{Written: 1}, WriteResult{Skipped: 1}

			// Outbound only rises and leaves the inbound half alone.
			s = write(ReplayWrite{OSeq: base + 7<<26}, one)
			if s.OSeq != base+7<<26 || s.Seq != 0 {
				t.Fatalf("after outbound write: %+v", s)
			}
			for _, n := range []uint64{0, 1, base + 7<<26} {
				if s = write(ReplayWrite{OSeq: n}, skip); s.OSeq != base+7<<26 {
					t.Fatalf("outbound went to %d", s.OSeq)
				}
			}
			// Inbound advances with its bitmap and leaves the outbound half alone.
			in := sample(base+100_000, 0b1010)
			s = write(ReplayWrite{In: in}, one)
			if s.Seq != in.Seq || !slices.Equal(s.Bitmap, in.Bitmap) || s.OSeq != base+7<<26 {
				t.Fatalf("after inbound write: %+v", s)
			}
			// A late sample does not rewind.
			if s = write(ReplayWrite{In: sample(base+99_999, 0b1)}, skip); s.Seq != in.Seq || !slices.Equal(s.Bitmap, in.Bitmap) {
				t.Fatalf("a late sample changed %+v", s)
			}
			// An equal one adds what it saw.
			if tt.window >= 32 {
				s = write(ReplayWrite{In: sample(in.Seq, 0b0101)}, one)
				for i, b := range bits(0b0101) {
					if s.Bitmap[i] != b|in.Bitmap[i] {
						t.Fatalf("word %d is %x, want %x", i, s.Bitmap[i], b|in.Bitmap[i])
					}
				}
			}
			// Both halves at once.
			s = write(ReplayWrite{OSeq: base + 9<<26, In: sample(base+300_000, 3)}, one)
			if s.OSeq != base+9<<26 || s.Seq != base+300_000 {
				t.Fatalf("after both: %+v", s)
			}
			if got, err := c.Get(id); err != nil || got.OSeq != s.OSeq || got.Seq != s.Seq || !slices.Equal(got.Bitmap, s.Bitmap) {
				t.Fatalf("Get: %+v, %v", got, err)
			}
			out := run(t, ns, "", "ip", "-d", "xfrm", "state", "get", "src", src, "dst", id.Dst.String(), "proto", "esp", "spi", "0x"+id.SPI.String())
			for _, want := range []string{fmt.Sprintf("seq 0x%x", uint32(s.Seq)), fmt.Sprintf("oseq 0x%x", uint32(s.OSeq))} {
				if !strings.Contains(out, want) {
					t.Errorf("ip does not show %q: %s", want, out)
				}
			}
		})
	}
}

// TestWrongAttributeIsNoticed proves that the read-back catches what the
// kernel acknowledges and ignores.
func TestWrongAttributeIsNoticed(t *testing.T) {
	ns := newNetns(t)
	ip(t, ns, "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x100001 mode tunnel replay-window 64 flag esn "+gcm)
	c := open(t, ns)
	id := ID{Dst: netip.MustParseAddr("10.0.0.2"), SPI: 0x100001, Proto: 50}
	s, err := c.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	s.ReplayAttr, s.OSeq = ReplayVal, 1<<26
	refused, err := c.writeMany([]ID{id}, map[ID]State{id: s})
	if err != nil || len(refused) != 0 {
		t.Fatalf("kernel refused: %v %v", refused, err)
	}
	got, err := c.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(s, got); err == nil || !strings.Contains(err.Error(), id.String()) {
		t.Errorf("verify: %v", err)
	}
}

// TestBatch writes 1,000 SAs, with missing and repeated ones among them.
func TestBatch(t *testing.T) {
	ns := newNetns(t)
	const n = 1000
	var lines []string
	var ws []ReplayWrite
	dst := netip.MustParseAddr("192.0.2.1")
	for i := range n {
		opts := "replay-window 1024 flag esn " + gcm
		if i%2 == 0 {
			opts = "replay-window 32 " + cbc
		}
		lines = append(lines, fmt.Sprintf("xfrm state add src 198.51.100.7 dst %s proto esp spi 0x%x mode tunnel %s", dst, 0x100000+i, opts))
		ws = append(ws, ReplayWrite{ID: ID{dst, sa.SPI(0x100000 + i), 50}, OSeq: uint64(i+1) << 16,
			In: &Sample{Seq: uint64(i + 1), Window: 32, Attr: ReplayVal, Bitmap: []uint32{1}}})
	}
	ip(t, ns, lines...)
	c := open(t, ns)
	start := time.Now()
	all, err := c.Dump()
	if err != nil || len(all) != n {
		t.Fatalf("dump: %d, %v", len(all), err)
	}
	dumped := time.Since(start)
	ws = append(ws, ws[0], ReplayWrite{ID: ID{dst, 0x200000, 50}, OSeq: 1}, ReplayWrite{ID: ID{dst, 0x100000, 50}, OSeq: 5 << 26})
	rand.Shuffle(len(ws), func(i, j int) { ws[i], ws[j] = ws[j], ws[i] })
	start = time.Now()
	res, err := c.Write(ws)
	t.Logf("dump of %d: %v, write with read-back: %v", n, dumped, time.Since(start))
	if err != nil || res.Written != n || res.Missing != 1 || res.Skipped != 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	all, err = c.Dump()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		i := uint64(s.SPI - 0x100000)
		want := (i + 1) << 16
		if i == 0 {
			want = 5 << 26
		}
		if s.OSeq != want || s.Seq != i+1 {
			t.Fatalf("%s: oseq %d seq %d", s.ID, s.OSeq, s.Seq)
		}
	}
	res, err = c.Write(ws)
	if err != nil || res.Written != 0 || res.Skipped != n || res.Missing != 1 {
		t.Fatalf("second time: %+v, %v", res, err)
	}
	// One bad write names itself and spoils none of the others.
	for i := range ws {
		ws[i].OSeq = 1 << 31
		if ws[i].SPI == 0x100000 {
			ws[i].OSeq = 1 << 32
		}
	}
	res, err = c.Write(ws)
	if err == nil || !strings.Contains(err.Error(), "00100000") || res.Written != n-1 {
		t.Fatalf("bad write: %+v, %v", res, err)
	}
	if err := c.FlushSA(); err != nil {
		t.Fatal(err)
	}
	if all, err := c.Dump(); err != nil || len(all) != 0 {
		t.Fatalf("after flush: %d, %v", len(all), err)
	}
	if res, err := c.Write(ws[:5]); err != nil || res.Missing == 0 || res.Written+res.Skipped != 0 {
		t.Fatalf("write to nothing: %+v, %v", res, err)
	}
}

func TestDeleteFlushStats(t *testing.T) {
	ns := newNetns(t)
	c := open(t, ns)
	if err := c.FlushSA(); err != nil {
		t.Error(err)
	}
	if err := c.FlushPolicy(); err != nil {
		t.Error(err)
	}
	ip(t, ns, "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x100001 mode tunnel "+gcm,
		"xfrm policy add src 10.1.0.0/16 dst 10.2.0.0/16 dir out tmpl src 10.0.0.1 dst 10.0.0.2 proto esp mode tunnel")
	id := ID{Dst: netip.MustParseAddr("10.0.0.2"), SPI: 0x100001, Proto: 50}
	if err := c.Delete(id); err != nil {
		t.Error(err)
	}
	if err := c.Delete(id); !errors.Is(err, ErrNotFound) {
		t.Errorf("second delete: %v", err)
	}
	if _, err := c.Get(id); !errors.Is(err, ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	if err := c.FlushPolicy(); err != nil {
		t.Error(err)
	}
	if out := run(t, ns, "", "ip", "xfrm", "policy"); out != "" {
		t.Errorf("policies left: %s", out)
	}
	st, err := c.Stats()
	if err != nil || len(st) < 10 {
		t.Errorf("stats: %v, %v", st, err)
	}
	if _, ok := st["XfrmInStateSeqError"]; !ok {
		t.Errorf("no XfrmInStateSeqError in %v", st)
	}
}

func TestOpenNoNamespace(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("no error")
	}
	if _, err := Subscribe(t.Context(), filepath.Join(t.TempDir(), "none"), GroupSA); err == nil {
		t.Error("no error")
	}
}
