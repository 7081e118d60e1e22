package lab

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"
)

func ipv4Header(proto byte) []byte {
	h := make([]byte, 20)
	h[0], h[9] = 0x45, proto
	copy(h[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	return h
}

// udp6 puts the datagram of an IPv4 packet into IPv6, from 2001:db8::1 to ::2.
func udp6(ipv4 []byte) []byte {
	h := make([]byte, 40)
	h[0], h[6] = 0x60, 17
	copy(h[8:], netip.MustParseAddr("2001:db8::1").AsSlice())
	copy(h[24:], netip.MustParseAddr("2001:db8::2").AsSlice())
	return append(h, ipv4[20:]...)
}

func ikeHeader(ex ExchangeType, response bool, id uint32) []byte {
	h := make([]byte, ikeHeaderLen)
	binary.BigEndian.PutUint64(h, 0x1122334455667788)
	binary.BigEndian.PutUint64(h[8:], 0x8877665544332211)
	h[17], h[18] = 0x20, byte(ex)
	if response {
		h[19] |= 0x20
	} else {
		h[19] |= 0x08
	}
	binary.BigEndian.PutUint32(h[20:], id)
	binary.BigEndian.PutUint32(h[24:], ikeHeaderLen)
	return h
}

func udp(sport, dport uint16, body []byte) []byte {
	u := binary.BigEndian.AppendUint16(nil, sport)
	u = binary.BigEndian.AppendUint16(u, dport)
	u = append(u, 0, 0, 0, 0)
	return append(ipv4Header(17), append(u, body...)...)
}

func listenUDP500(ns *Netns, a netip.Addr) (c *net.UDPConn, err error) {
	err = ns.Do(func() error {
		c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 500)))
		return err
	})
	return c, err
}

func TestParseIKE(t *testing.T) {
	h := ikeHeader(CreateChildSA, true, 7)
	for _, tc := range []struct {
		name string
		pkt  []byte
		ok   bool
	}{
		{"port 500", udp(500, 500, h), true},
		{"from port 500 of a NAT", udp(20500, 500, h), true},
		{"encapsulated", udp(4500, 4500, append(make([]byte, 4), h...)), true},
		{"ESP in UDP", udp(4500, 4500, append([]byte{1, 2, 3, 4}, h...)), false},
		{"keep-alive", udp(4500, 4500, []byte{0xff}), false},
		{"short", udp(500, 500, h[:27]), false},
		{"other port", udp(53, 53, h), false},
		{"TCP", append(ipv4Header(6), udp(500, 500, h)[20:]...), false},
		{"empty", nil, false},
	} {
		m, src, dst, ok := parseIKE(tc.pkt)
		if ok != tc.ok {
			t.Errorf("%s: ok %t", tc.name, ok)
		}
		if ok && (m.Exchange != CreateChildSA || !m.Response || m.ByInitiator || m.ID != 7 || m.SPIi != 0x1122334455667788 ||
			src != netip.MustParseAddr("10.0.0.1") || dst != netip.MustParseAddr("10.0.0.2")) {
			t.Errorf("%s: %+v from %s to %s", tc.name, m, src, dst)
		}
	}
	frag := udp(500, 500, h)
	frag[7] = 1
	if _, _, _, ok := parseIKE(frag); ok {
		t.Error("a later fragment was taken for IKE")
	}
	six := udp6(udp(4500, 4500, append(make([]byte, 4), h...)))
	if m, src, dst, ok := parseIKE(six); !ok || m.ID != 7 || src != netip.MustParseAddr("2001:db8::1") || dst != netip.MustParseAddr("2001:db8::2") {
		t.Errorf("IPv6: %+v from %s to %s, %t", m, src, dst, ok)
	}
	six[6] = 44
	if _, _, _, ok := parseIKE(six); ok {
		t.Error("an IPv6 fragment was taken for IKE")
	}
}

// TestIKEFilter runs the capture's filter where package bpf's interpreter does what
// the kernel would.
func TestIKEFilter(t *testing.T) {
	vm, err := bpf.NewVM(ikeFilter)
	if err != nil {
		t.Fatal(err)
	}
	h := ikeHeader(CreateChildSA, true, 7)
	for _, tc := range []struct {
		name string
		pkt  []byte
		take bool
	}{
		{"port 500", udp(500, 500, h), true},
		{"to port 500", udp(20500, 500, h), true},
		{"encapsulated", udp(4500, 20000, append(make([]byte, 4), h...)), true},
		{"encapsulated, of a NAT", udp(20000, 4500, append(make([]byte, 4), h...)), true},
		{"ESP in UDP", udp(4500, 4500, append([]byte{1, 2, 3, 4}, h...)), false},
		{"other port, zeroes", udp(53, 53, make([]byte, 8)), false},
		{"TCP", append(ipv4Header(6), udp(500, 500, h)[20:]...), false},
		{"ARP", make([]byte, 28), false},
	} {
		for _, pkt := range [][]byte{tc.pkt, udp6(tc.pkt)} {
			if pkt[0]>>4 == 6 && (tc.name == "TCP" || tc.name == "ARP") {
				pkt[6] = 6
			}
			n, err := vm.Run(pkt)
			if err != nil || n > 0 != tc.take {
				t.Errorf("%s, IP version %d: takes %d octets, %v, want %t", tc.name, pkt[0]>>4, n, err, tc.take)
			}
		}
	}
}

func FuzzParseIKE(f *testing.F) {
	f.Add(udp(500, 500, ikeHeader(IKESAInit, false, 0)))
	f.Add(udp(4500, 4500, append(make([]byte, 4), ikeHeader(IKEAuth, true, 1)...)))
	f.Add(udp6(udp(500, 500, ikeHeader(IKESAInit, false, 0))))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, src, dst, ok := parseIKE(b); ok && (!src.IsValid() || !dst.IsValid() || m.String() == "") {
			t.Errorf("%+v %s %s", m, src, dst)
		}
	})
}

func TestIKEAccount(t *testing.T) {
	var a IKEAccount
	t0 := time.Unix(1000, 0)
	for i, m := range []IKEMessage{
		{FromClient: true, Exchange: IKESAInit, SPIi: 1, Size: 300, ByInitiator: true},
		{FromClient: true, Exchange: IKESAInit, SPIi: 1, Size: 300, ByInitiator: true}, // again
		{Exchange: IKESAInit, SPIi: 1, SPIr: 2, Size: 300, Response: true},
		{FromClient: true, Exchange: IKEAuth, SPIi: 1, SPIr: 2, ID: 1, ByInitiator: true},
		{Exchange: CreateChildSA, SPIi: 1, SPIr: 2},
		{FromClient: true, Exchange: CreateChildSA, SPIi: 1, SPIr: 2, Response: true, ByInitiator: true},
	} {
		m.At = t0.Add(time.Duration(i) * time.Second)
		a.add(m)
	}
	if got, want := a.String(), "IKE_SA_INIT 1>, IKE_AUTH 1>, CREATE_CHILD_SA 1<, 1 retransmits"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if n := a.ClientInits(); n != 2 {
		t.Errorf("%d IKE_SA_INIT, want 2: a retransmit is one too", n)
	}
	if n := a.Since(t0.Add(2 * time.Second)); n.ClientInits() != 0 || len(n.Messages) != 4 {
		t.Errorf("since: %v", n.Messages)
	}
}

// model is the receiver as it ought to be, in Go: see receiver_linux.go.
type model struct {
	account
	high, unknown int
}

func (m *model) send(t int64) {
	m.sent = append(m.sent, t)
	m.got = append(m.got, receipt{})
}

func (m *model) receive(seq uint64, t int64) {
	if seq >= uint64(len(m.got)) {
		m.unknown++
		return
	}
	g := &m.got[seq]
	if g.At != 0 {
		g.Dups++
		return
	}
	g.At = t
	if int(seq) < m.high {
		g.Reordered = 1
	}
	m.high = max(m.high, int(seq))
}

func TestAccount(t *testing.T) {
	const step = int64(2 * time.Millisecond)
	a := &model{}
	for i := range int64(100) {
		a.send(i * step)
	}
	// 10..19 lost, 30 and 31 swapped, 40 twice, everything 1 ms late, plus one
	// that nobody sent.
	at := func(i int64) int64 { return i*step + int64(time.Millisecond) }
	for i := range int64(100) {
		switch {
		case i >= 10 && i < 20:
		case i == 30:
			a.receive(31, at(30))
		case i == 31:
			a.receive(30, at(31))
		case i == 40:
			a.receive(40, at(40))
			a.receive(40, at(40)+1)
		default:
			a.receive(uint64(i), at(i))
		}
	}
	a.receive(1<<40, 5)
	d := a.report(time.Unix(0, 0), 0, 1<<60)
	if d.Sent != 100 || d.Received != 90 || d.Lost != 10 || d.Duplicates != 1 || d.Reordered != 1 || a.unknown != 1 {
		t.Errorf("%+v", d)
	}
	if d.MaxGapMS != 22 {
		t.Errorf("gap %v ms, want 22", d.MaxGapMS)
	}
	if len(d.LostList) != 10 || d.LostList[0].Seq != 10 || !d.LostList[0].Sent.Equal(time.Unix(0, 10*step)) {
		t.Errorf("lost %v", d.LostList)
	}
	// Spans partition the packets.
	x, y := a.report(time.Unix(0, 0), 0, 15*step), a.report(time.Unix(0, 0), 15*step, 1<<60)
	if x.Sent+y.Sent != 100 || x.Lost != 5 || y.Lost != 5 {
		t.Errorf("%+v and %+v", x, y)
	}
	if o, ok := a.outage(10 * step); !ok || o != 10*time.Duration(step)+time.Millisecond {
		t.Errorf("outage %v %t", o, ok)
	}
	// One packet slips through at 5, before the silence of 10..19.
	if o, ok := a.outage(5 * step); !ok || o != 15*time.Duration(step)+time.Millisecond {
		t.Errorf("outage %v %t", o, ok)
	}
	if o, ok := a.first(5 * step); !ok || o != time.Millisecond {
		t.Errorf("first %v %t", o, ok)
	}
	// What was sent just now may be under way; what ends in silence is an outage
	// without an end.
	for i := range int64(30) {
		a.send((100 + i) * step)
	}
	if o, ok := a.outage(95 * step); !ok || o > 10*time.Duration(step) {
		t.Errorf("outage %v %t", o, ok)
	}
	for i := range int64(300) {
		a.send((130 + i) * step)
	}
	if _, ok := a.outage(95 * step); ok {
		t.Error("an outage ended without a packet")
	}
	if _, ok := a.outage(1 << 50); ok {
		t.Error("an outage ended without a packet")
	}
	tl := a.timeline(0, 100*step, 20*time.Millisecond)
	if len(tl) != 10 || tl[1] != (Bucket{20, 10, 0}) || tl[9] != (Bucket{180, 10, 10}) {
		t.Errorf("timeline %v", tl)
	}
}

// The account against a dumb count over random histories.
func TestAccountRandom(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		a := &model{}
		n := 1 + r.IntN(300)
		var arrivals []int
		for i := range n {
			a.send(int64(i) * 1000)
			for range r.IntN(3) { // 0, 1 or 2 copies
				arrivals = append(arrivals, i)
			}
		}
		r.Shuffle(len(arrivals), func(i, j int) { arrivals[i], arrivals[j] = arrivals[j], arrivals[i] })
		seen := map[int]bool{}
		dups, reord, high := 0, 0, -1
		for k, i := range arrivals {
			a.receive(uint64(i), int64(n*1000+k))
			switch {
			case seen[i]:
				dups++
			case i < high:
				reord++
			}
			seen[i] = true
			high = max(high, i)
		}
		d := a.report(time.Time{}, 0, 1<<60)
		if d.Received != len(seen) || d.Lost != n-len(seen) || d.Duplicates != dups || d.Reordered != reord {
			t.Fatalf("seed %d: %+v, want received %d duplicates %d reordered %d", seed, d, len(seen), dups, reord)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, tc := range []struct {
		o    Options
		want string
	}{
		{Options{}, "no output directory"},
		{Options{OutDir: "x", Appliances: []string{"r1"}}, "two nodes are called r1"},
		{Options{OutDir: "x", Clients: []ClientSpec{{Router: 3}}}, "router 3"},
		{Options{OutDir: "x", Appliances: []string{"c1"}}, "two nodes are called c1"},
	} {
		if _, err := tc.o.withDefaults(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.o, err, tc.want)
		}
	}
	o, err := Options{OutDir: "x"}.withDefaults()
	if err != nil || !reflect.DeepEqual(o.Appliances, []string{"ams", "fra", "lhr"}) || o.Clients[0].Name != "c1" {
		t.Errorf("%+v %v", o, err)
	}
}

func TestSelect(t *testing.T) {
	all, err := Select(nil)
	bench := 0
	for _, s := range Scenarios() {
		if s.Bench {
			bench++
		}
	}
	if err != nil || len(all) != len(Scenarios())-bench || bench == 0 {
		t.Errorf("%d of %d selected, %d benchmarks: %v", len(all), len(Scenarios()), bench, err)
	}
	some, err := Select([]string{"baseline*", "baseline"})
	if err != nil || len(some) < 2 {
		t.Errorf("%d scenarios, %v", len(some), err)
	}
	if _, err := Select([]string{"nonsense"}); err == nil {
		t.Error("an unknown scenario was selected")
	}
}

func TestRunnerReportsFailure(t *testing.T) {
	needRoot(t)
	var out bytes.Buffer
	r := Runner{Out: t.TempDir(), Log: &out}
	o := Options{Appliances: []string{"ams"}}
	for _, tc := range []struct {
		name string
		run  func(*T, *Lab)
		want string
	}{
		{"fatal", func(t *T, _ *Lab) { t.Fatalf("no luck") }, "no luck"},
		{"panic", func(*T, *Lab) { panic("bug") }, "panic: bug"},
		{"late", func(t *T, _ *Lab) { <-t.Context().Done() }, "still running after"},
	} {
		res, err := r.attempts(t.Context(), Scenario{Name: tc.name, Options: o, Timeout: 3 * time.Second, Run: tc.run})
		if err != nil || res.Passed || len(res.Failures) == 0 || !strings.Contains(res.Failures[0], tc.want) {
			t.Errorf("%s: %+v %v", tc.name, res, err)
		}
	}
	res, err := r.attempts(t.Context(), Scenario{Name: "skip", Options: o, Timeout: time.Minute, Run: func(t *T, _ *Lab) { t.Skipf("not today") }})
	if err != nil || res.Passed || res.Skipped != "not today" || len(res.Failures) != 0 {
		t.Errorf("%+v %v", res, err)
	}
	if n := strings.Count(out.String(), "\n"); n != 4 {
		t.Errorf("%d lines of results, want one each:\n%s", n, out.String())
	}
}

func TestWeightyScenariosComeFirst(t *testing.T) {
	all, err := Select(nil)
	if err != nil {
		t.Fatal(err)
	}
	got := Weighty(all)
	if len(got) != len(all) {
		t.Fatalf("%d scenarios of %d", len(got), len(all))
	}
	for i, name := range weighty {
		if got[i].Name != name {
			t.Errorf("%s comes at place %d, want %s: is there no scenario of that name?", got[i].Name, i, name)
		}
	}
}
