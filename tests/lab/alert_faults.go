package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/xfrm"
	"github.com/shadowcast/shadowcast/tests/sensors"
)

// birdc gives a router's BIRD a command.
func (d *drill) birdc(router, command string) func() error {
	return func() error {
		_, err := d.l.Router(router, command)
		return err
	}
}

// again has a router drop its session with an appliance, and waits for the next one.
func (d *drill) again(a *Appliance, router string) error {
	flaps := func() (n uint32, up bool, err error) {
		api, err := a.API()
		if err != nil {
			return 0, false, err
		}
		r, err := api.GetBGP(d.t.Context(), &v1.GetBGPRequest{})
		if err != nil {
			return 0, false, err
		}
		for _, p := range r.Peers {
			if p.Name == router {
				return uint32(p.Flaps), p.State == "established", nil
			}
		}
		return 0, false, fmt.Errorf("%s has no session with %s", a.Name, router)
	}
	before, _, err := flaps()
	if err != nil {
		return err
	}
	if err := d.birdc(router, "restart "+a.Name+"_4")(); err != nil {
		return err
	}
	ctx, cancel := contextOf(d.t, stepPatience)
	defer cancel()
	return poll(ctx, 100*time.Millisecond, "the session of "+a.Name+" with "+router+" to be lost and up again", func() (bool, error) {
		n, up, err := flaps()
		return up && n > before, err
	})
}

// lossy loses packets of both the appliance's outside links, in per cent.
func (d *drill) lossy(a *Appliance, loss float64) func() error {
	return func() error {
		var errs []error
		for _, r := range []string{"r1", "r2"} {
			k, err := d.l.Link(r, a.Name)
			if err == nil {
				err = k.ImpairFromB(Impairment{Loss: loss})
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
}

// toAndFro moves a slot between the appliances until an alert fires, at most n times.
func (d *drill) toAndFro(slot uint32, n int, until string) error {
	for range n {
		if d.has(until) {
			return nil
		}
		from := owned(d.t, d.l, slot)
		if _, err := from.Handover(d.t.Context(), slot, other(d.l, from), nil); err != nil {
			d.t.Logf("to and fro: %v", err)
			pause(d.t, 500*time.Millisecond)
		}
	}
	return nil
}

// bring has an appliance own a slot, and every slot shadowed.
func (d *drill) bring(slot uint32, to *Appliance) error {
	if o := owned(d.t, d.l, slot); o != to {
		if _, err := o.Handover(d.t.Context(), slot, to.Name, nil); err != nil {
			return err
		}
	}
	allReady(d.t, d.l)
	return nil
}

// exhaust leaves the daemon of an appliance no file descriptor to open until an alert
// fires, for at most 30 s. What it has open, it keeps: Prometheus's connection among it.
func (d *drill) exhaust(a *Appliance, until string) (err error) {
	pid := a.Daemon().PID()
	var was unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &was); err != nil {
		return fmt.Errorf("read the limit of file descriptors of %s: %w", a.Name, err)
	}
	defer func() {
		if rerr := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &was, nil); rerr != nil {
			err = errors.Join(err, fmt.Errorf("restore the limit of file descriptors of %s: %w", a.Name, rerr))
		}
	}()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end) && !d.has(until); time.Sleep(200 * time.Millisecond) {
		free, err := freeDescriptor(pid)
		if err != nil {
			return err
		}
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: free, Max: was.Max}, nil); err != nil {
			return fmt.Errorf("limit the file descriptors of %s to %d: %w", a.Name, free, err)
		}
	}
	return nil
}

// freeDescriptor is the lowest number that a process has not open: the one that it is given next.
func freeDescriptor(pid int) (uint64, error) {
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, fmt.Errorf("read open file descriptors: %w", err)
	}
	var open []int
	for _, f := range fds {
		n, err := strconv.Atoi(f.Name())
		if err != nil {
			return 0, fmt.Errorf("read open file descriptors: %w", err)
		}
		open = append(open, n)
	}
	slices.Sort(open)
	for i, n := range open {
		if i != n {
			return uint64(i), nil
		}
	}
	return uint64(len(open)), nil
}

// flood sends more IKE headers for a slot than steering's ring takes while nobody reads it.
func (d *drill) flood(a *Appliance, slot uint32) error {
	const ring, record = 4 << 20, 64 + 8 // of sa/steer: the ring, an event and its header
	if err := a.Daemon().Freeze(); err != nil {
		return err
	}
	from := time.Now()
	err := d.sendIKE(a, slot, ring/record*5/4)
	d.t.Logf("%d IKE headers in %s", ring/record*5/4, time.Since(from).Round(time.Millisecond))
	return errors.Join(err, a.Daemon().Thaw())
}

// sendIKE has r1 forward n messages of IKE SAs that nobody knows to an appliance, as if
// they came from the first client.
func (d *drill) sendIKE(a *Appliance, slot uint32, n int) error {
	k, err := d.l.Link("r1", a.Name)
	if err != nil {
		return err
	}
	from, err := k.A.link(k.DevA)
	if err != nil {
		return err
	}
	to, err := k.B.link(k.DevB)
	if err != nil {
		return err
	}
	at := &unix.SockaddrLinklayer{Protocol: bits.ReverseBytes16(unix.ETH_P_IP), Ifindex: from.Attrs().Index, Halen: 6}
	copy(at.Addr[:], to.Attrs().HardwareAddr)
	msg := unknownIKE(d.l.clients[0].Addr, VIP, slot)
	return inNamespace(k.A.Name, func() error {
		s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open packet socket: %w", err)
		}
		defer unix.Close(s)
		for range n {
			if err := unix.Sendto(s, msg, 0, at); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return fmt.Errorf("send to %s: %w", a.Name, err)
			}
		}
		return nil
	})
}

// unknownIKE is an IPv4 packet with the header of an INFORMATIONAL request of an IKE SA
// that the slot does not have (RFC 7296 section 3.1).
func unknownIKE(src, dst netip.Addr, slot uint32) []byte {
	const ip, udp, ike = 20, 8, 28
	b := make([]byte, ip+udp+ike)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	var sum uint32
	for i := 0; i < ip; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum&0xffff + sum>>16 // RFC 1071
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	u := b[ip:]
	binary.BigEndian.PutUint16(u, 500)
	binary.BigEndian.PutUint16(u[2:], 500)
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	h := u[udp:]
	binary.BigEndian.PutUint64(h, 0x1122334455667788)
	binary.BigEndian.PutUint64(h[8:], uint64(slot)<<48|0x424242424242)
	h[17], h[18], h[19] = 0x20, 37, 0x08 // version 2.0, INFORMATIONAL, from the initiator
	binary.BigEndian.PutUint32(h[24:], ike)
	return b
}

// giveUp asks for a move to an appliance that freezes, and has it thaw again.
func (d *drill) giveUp(from, to *Appliance, slot uint32) error {
	if err := to.Daemon().Freeze(); err != nil {
		return err
	}
	_, err := from.Handover(d.t.Context(), slot, to.Name, nil)
	if terr := to.Daemon().Thaw(); terr != nil {
		return terr
	}
	if err == nil {
		return fmt.Errorf("slot %d moved to %s, which stood still", slot, to.Name)
	}
	d.t.Logf("the move was given up: %v", err)
	allReady(d.t, d.l)
	return nil
}

// garble sends the daemon what no charon would say.
func garble(a *Appliance, slot uint32) error {
	names, err := a.SlotNamespaces()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(names, func(x string) bool { return strings.HasSuffix(x, fmt.Sprintf("s%d", slot)) })
	if i < 0 {
		return fmt.Errorf("%s has no namespace of slot %d", a.Name, slot)
	}
	return inNamespace(names[i], func() error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return fmt.Errorf("open raw socket: %w", err)
		}
		defer unix.Close(s)
		for range 3 {
			if err := unix.Sendto(s, asCharon([]byte("this is no message")), 0, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 2}}); err != nil {
				return fmt.Errorf("send to the daemon: %w", err)
			}
		}
		return nil
	})
}

// strangeKey is the file of a fleet key that nobody else has.
func strangeKey(t *T, l *Lab) string {
	dir := filepath.Join(l.dir, "stranger")
	_, err := pki.Init(dir, pki.Options{})
	t.Check(err)
	return filepath.Join(dir, pki.FleetKeyFile)
}

// keepKilling kills every charon that runs for a slot, for longer than the rules wait.
func keepKilling(t *T, a *Appliance, slot uint32) error {
	var last int
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		pid := int(slotAt(t.Context(), a, slot).GetCharon().GetPid())
		if pid == 0 || pid == last {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill charon of slot %d at %s: %w", slot, a.Name, err)
		}
		last = pid
	}
	return nil
}

// nearEnd moves what the session's outbound SA has sent to the last part of its block,
// as a peer that answers no rekey would see it.
func nearEnd(t *T, a *Appliance, s *attached) error {
	_, out := clientSPIs(t, s.Client)
	c, err := xfrm.Open(slotNetns(t, a, s.slot))
	if err != nil {
		return err
	}
	defer c.Close()
	states, err := c.Dump()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(states, func(x xfrm.State) bool { return x.SPI == out })
	if i < 0 {
		return fmt.Errorf("%s has no SA %s", a.Name, out)
	}
	_, err = c.Write([]xfrm.ReplayWrite{{ID: states[i].ID, OSeq: states[i].OSeq/sa.BlockSize*sa.BlockSize + sa.BlockSize - sa.BlockSize/50}})
	return err
}

// blind takes the sensors away, or brings them back.
func blind(s *sensors.Tree, on bool) error {
	var errs []error
	for _, d := range []string{"sys", "smart"} {
		from, to := s.Path(d), s.Path(d+".away")
		if !on {
			from, to = to, from
		}
		errs = append(errs, unix.Rename(from, to))
	}
	return errors.Join(errs...)
}
