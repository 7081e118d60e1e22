package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/sa"
	strongswan "github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/ssm/session"
)

// The takeover benchmark: what a claim costs must not depend on the number of
// sessions. The sessions beside the real client's are copies of it with other
// SPIs and addresses, handed to the owner's daemon as its charon would; shadows
// derive their keys and install their SAs like any other.
func init() {
	for _, n := range []int{10, 1000, 5000} {
		o := fleetOptions(ConnSpec{}).detecting()
		// Loading thousands of sessions on one processor delays probes and BFD;
		// detection is not what is measured.
		o.BFD = BFD{Interval: 300 * time.Millisecond, Multiplier: 10}
		o.Probe = config.Probe{Interval: 100 * time.Millisecond, Lost: 20}
		Register(Scenario{
			Name: fmt.Sprintf("bench-takeover-%d", n), Doc: fmt.Sprintf("two power cuts with %d shadowed sessions: time from claim to the first packet", n),
			Need: fleetNeed, Options: o, Timeout: 9 * time.Minute, Bench: true,
			Run: func(t *T, l *Lab) { benchTakeover(t, l, n) },
		})
	}
}

// loadBatch is how many sessions are handed over before their shadows must have
// caught up.
const loadBatch = 250

func benchTakeover(t *T, l *Lab, n int) {
	s, o := start(t, l)
	doc, err := realDocument(t, o, s.slot)
	t.Check(err)
	began := time.Now()
	for k := 1; k < n; k += loadBatch {
		t.Check(multiply(o, doc, s.slot, k, min(loadBatch, n-k)))
		shadowed(t, o, s.slot, min(k+loadBatch, n))
	}
	t.Logf("%d sessions on three appliances after %s", n, time.Since(began).Round(time.Second))
	t.Metric("load_seconds", time.Since(began).Seconds())
	t.Metric("sessions", n)
	pause(t, time.Second)
	control(t, l, s)

	var gone []*Appliance
	var best time.Duration
	for k := range 2 {
		var heir *Appliance
		sc := scene(t, l, s, fmt.Sprintf("power-cut %d", k+1), func(ob *Observation) {
			pause(t, 300*time.Millisecond)
			at, err := o.PowerCut()
			t.Check(err)
			ob.Fault(at, "power cut")
			pause(t, 4*time.Second)
			gone = append(gone, o)
			heir = owned(t, l, s.slot, gone...)
		})
		kept(t, sc)
		var claim time.Time
		claim, err = claimTime(t, heir, s.slot)
		t.Check(err)
		_, down := s.Stream.First(claim)
		if down <= 0 {
			t.Fatalf("power cut %d: no server->client packet after the claim", k+1)
		}
		t.Logf("%d sessions: the first server->client packet sent after claim %d arrived %s after it", n, k+1, down)
		t.Metric(fmt.Sprintf("claim_to_packet_%d_ms", k+1), ms(int64(down)))
		if best == 0 || down < best {
			best = down
		}
		if o = heir; k == 0 {
			shadowed(t, o, s.slot, n)
			pause(t, time.Second)
		}
	}
	// What disturbs a run on one processor only ever adds to it.
	t.Metric("claim_to_packet_ms", ms(int64(best)))
}

// shadowed waits until slot has n sessions at its owner o, and every living shadow
// of it has them all.
func shadowed(t *T, o *Appliance, slot uint32, n int) {
	t.Check(o.WaitStatus(t.Context(), fmt.Sprintf("%d sessions shadowed", n), func(r *v1.GetStatusResponse) bool {
		dead := map[string]bool{}
		for _, p := range r.Peers {
			dead[p.Name] = p.State != v1.PeerState_PEER_STATE_UP
		}
		for _, x := range r.Slots {
			if x.Number != slot || x.Sessions != uint64(n) {
				continue
			}
			return !slices.ContainsFunc(x.Shadows, func(sh *v1.Shadow) bool { return !dead[sh.Name] && (!sh.Ready || sh.LagMessages > 0) })
		}
		return false
	}))
}

// claimTime is when the heir claimed, by its own event log; every node of the lab
// has the same clock.
func claimTime(t *T, a *Appliance, slot uint32) (time.Time, error) {
	evs, err := a.Events(t.Context())
	if err != nil {
		return time.Time{}, err
	}
	for _, e := range slices.Backward(evs) {
		if e.Slot == slot && e.Kind == "claim" {
			return e.Time.AsTime(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%s has no claim of slot %d in its log", a.Name, slot)
}

// multiply gives the owner's daemon n copies of the real session doc, numbered
// from first.
func multiply(o *Appliance, doc *session.Document, slot uint32, first, n int) error {
	names, err := o.SlotNamespaces()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(names, func(x string) bool { return strings.HasSuffix(x, fmt.Sprintf("s%d", slot)) })
	if i < 0 {
		return fmt.Errorf("no namespace of slot %d among %v", slot, names)
	}
	var fd int
	err = inNamespace(names[i], func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	})
	if err != nil {
		return fmt.Errorf("open a raw socket in %s: %w", names[i], err)
	}
	defer unix.Close(fd)
	for k := first; k < first+n; k++ {
		for _, m := range copySession(doc, sa.Slot(slot), k) {
			b, err := m.Encode()
			if err != nil {
				return err
			}
			if err := unix.Sendto(fd, asCharon(b), 0, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 2}}); err != nil {
				return fmt.Errorf("hand over session %d: %w", k, err)
			}
		}
		// Two twins derive the keys and install the SAs on the guest's only
		// processor; faster, and probes come too late.
		if k%8 == 0 {
			time.Sleep(50 * time.Millisecond)
		}
	}
	return nil
}

func realDocument(t *T, o *Appliance, slot uint32) (*session.Document, error) {
	api, err := o.API()
	if err != nil {
		return nil, err
	}
	list, err := api.ListSessions(t.Context(), &v1.ListSessionsRequest{Slot: slot})
	if err != nil {
		return nil, err
	}
	if len(list.Sessions) != 1 {
		return nil, fmt.Errorf("slot %d has %d sessions, want the real one", slot, len(list.Sessions))
	}
	r, err := api.GetSession(t.Context(), &v1.GetSessionRequest{Id: list.Sessions[0].Id, RevealKeys: true})
	if err != nil {
		return nil, err
	}
	return session.Decode(r.Document)
}

// copySession makes the k-th copy of d as charon would announce it.
func copySession(d *session.Document, slot sa.Slot, k int) []strongswan.Message {
	g, c := d.IKE[0], d.Children[0]
	id := sa.IKEID{Initiator: sa.IKESPI(0xbe<<56 | uint64(k)), Responder: sa.IKESPI(uint64(slot)<<48 | 0xbe<<40 | uint64(k))}
	lo, _ := slot.SPIRange()
	inner := netip.AddrFrom4([4]byte{10, 210, byte(k >> 8), byte(k)})
	outer := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 200, byte(k >> 8), byte(k)}), 500)
	change := func(as session.Attrs) []strongswan.Attr {
		var out []strongswan.Attr
		for _, a := range as {
			switch a.Type {
			case strongswan.IKEID:
				ref, _ := a.IKERef()
				ref.ID = id
				a = strongswan.NewIKERef(strongswan.IKEID, ref)
			case strongswan.InSPI:
				a = strongswan.NewSPI(a.Type, lo|0x80000|sa.SPI(k))
			case strongswan.OutSPI:
				a = strongswan.NewSPI(a.Type, 0xc2000000|sa.SPI(k))
			case strongswan.RemoteAddr, strongswan.PeerAddr:
				a, _ = strongswan.NewAddr(a.Type, outer)
			case strongswan.RemoteVIP:
				continue // the pool is smaller than the benchmark
			case strongswan.RemoteTS:
				ts, _ := a.TS()
				ts.From, ts.To = inner, inner
				a, _ = strongswan.NewTS(a.Type, ts)
			}
			out = append(out, a)
		}
		return out
	}
	v := strongswan.V3
	return []strongswan.Message{
		{Version: v, Type: strongswan.IKEAdd, Attrs: change(g.Add[0])},
		{Version: v, Type: strongswan.IKEUpdate, Attrs: change(g.Update)},
		{Version: v, Type: strongswan.ChildAdd, Attrs: change(c.Add)},
	}
}

// asCharon wraps a payload into the IPv4 and UDP headers that charon's socket
// would give it.
func asCharon(payload []byte) []byte {
	const port = 4510
	b := make([]byte, 28, 28+len(payload))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(payload)))
	copy(b[12:], net.IPv4(127, 0, 0, 1).To4())
	copy(b[16:], net.IPv4(127, 0, 0, 2).To4())
	binary.BigEndian.PutUint16(b[20:], port)
	binary.BigEndian.PutUint16(b[22:], port)
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload)))
	return append(b, payload...)
}

// inNamespace runs f on a thread inside a named network namespace; the thread is
// given up afterwards.
func inNamespace(name string, f func() error) error {
	h, err := netns.GetFromName(name)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", name, err)
	}
	defer h.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := netns.Set(h); err != nil {
			done <- fmt.Errorf("enter namespace %s: %w", name, err)
			return
		}
		done <- f()
	}()
	return <-done
}
