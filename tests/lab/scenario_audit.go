package lab

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/xfrm"
)

// Charon, the kernel and the daemons' memory are made to differ; one session is
// repaired without touching the others (rule 11), and original lifetimes hold across
// a takeover (rule 8).
func init() {
	o := fleetOptions(ConnSpec{})
	o.Clients = make([]ClientSpec, 2)
	Register(Scenario{Name: "audit-repair", Doc: "an SA is deleted at a shadow and at the owner, charon's announcements are lost: found and mended", Need: fleetNeed,
		Options: o, Timeout: 4 * time.Minute, Bench: true, Run: auditRepair})
	Register(Scenario{Name: "audit-lifetimes", Doc: "a takeover does not prolong the life of keys (rule 8)", Need: fleetNeed,
		Options: fleetOptions(ConnSpec{GatewayChildRekey: "60s", GatewayIKERekey: "75s"}), Timeout: 4 * time.Minute, Bench: true, Run: auditLifetimes})
}

func auditEvery(t *T, l *Lab, d time.Duration) {
	for _, a := range l.Appliances() {
		t.Check(a.Prepare())
		a.Config.Fleet.Handover.AuditInterval = d
		a.Config.Fleet.Handover.RekeySpread = 0
	}
}

// slotNetns is the path of a slot's namespace at an appliance.
func slotNetns(t *T, a *Appliance, slot uint32) string {
	names, err := a.SlotNamespaces()
	t.Check(err)
	i := slices.IndexFunc(names, func(x string) bool { return strings.HasSuffix(x, fmt.Sprintf("s%d", slot)) })
	if i < 0 {
		t.Fatalf("%s has no namespace of slot %d among %v", a.Name, slot, names)
	}
	return filepath.Join("/run/netns", names[i])
}

// dropSA deletes one SA of the session at an appliance.
func dropSA(t *T, a *Appliance, slot uint32, spi sa.SPI) {
	c, err := xfrm.Open(slotNetns(t, a, slot))
	t.Check(err)
	defer c.Close()
	states, err := c.Dump()
	t.Check(err)
	i := slices.IndexFunc(states, func(s xfrm.State) bool { return s.SPI == spi })
	if i < 0 {
		t.Fatalf("%s has no SA %s", a.Name, spi)
	}
	t.Check(c.Delete(states[i].ID))
}

// deaf loses everything on a slot's loopback, where charon and the daemon talk.
func deaf(t *T, a *Appliance, slot uint32, on bool) {
	names, err := a.SlotNamespaces()
	t.Check(err)
	for _, n := range names {
		if !strings.HasSuffix(n, fmt.Sprintf("s%d", slot)) {
			continue
		}
		t.Check(inNamespace(n, func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			attrs := netlink.QdiscAttrs{LinkIndex: lo.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
			if !on {
				return netlink.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: "netem"})
			}
			return netlink.QdiscAdd(netlink.NewNetem(attrs, netlink.NetemQdiscAttrs{Loss: 100}))
		}))
	}
}

// clientSPIs are the SPIs of a client's only child, seen from the gateway.
func clientSPIs(t *T, c *Client) (in, out sa.SPI) {
	s, err := c.SA()
	t.Check(err)
	kids := s.Installed()
	if len(kids) != 1 {
		t.Fatalf("%s has %d children, want one: %s", c.Name, len(kids), s)
	}
	t.Check(in.UnmarshalText([]byte(kids[0].Out)))
	t.Check(out.UnmarshalText([]byte(kids[0].In)))
	return in, out
}

func auditRepair(t *T, l *Lab) {
	auditEvery(t, l, 10*time.Second)
	s, o := start(t, l)
	other := join(t, l, 1) // a session that nothing happens to
	ctx := t.Context()
	otherIn, _ := clientSPIs(t, other.Client)

	// A shadow loses an SA: only that session is fed again.
	var shadow *Appliance
	for _, a := range l.Appliances() {
		if a != o {
			shadow = a
		}
	}
	in, _ := clientSPIs(t, s.Client)
	dropSA(t, shadow, s.slot, in)
	t.Check(shadow.waitEvent(ctx, "repair", "the twin's copy of one session is fed again", 1))
	allReady(t, l)

	// The owner loses one: its packets are lost until the audit has it rekeyed.
	began := time.Now()
	dropSA(t, o, s.slot, in)
	t.Check(o.waitEvent(ctx, "mismatch", "the child is rekeyed, which brings all three together", 1))
	t.Check(s.Stream.WaitReceived(ctx, 100))
	t.Metric("owner_repair_seconds", time.Since(began).Seconds())
	now, _ := clientSPIs(t, s.Client)
	if now == in {
		t.Errorf("the child %s was not replaced", in)
	}
	allReady(t, l)

	// Announcements are lost: the shadows know nothing of a child that carries all
	// packets.
	deaf(t, o, s.slot, true)
	t.Check(s.Client.RekeyChild(ctx))
	deaf(t, o, s.slot, false)
	t.Check(o.waitEvent(ctx, "mismatch", "the IKE_SA is rekeyed, which announces it to the shadows", 1))
	t.Check(o.waitEvent(ctx, "mismatch", "the child is rekeyed, which brings all three together", 2))
	pause(t, 3*time.Second)
	allReady(t, l)
	cut, _ := powerCut(t, l, s, "power-cut")
	kept(t, cut)
	t.Check(s.Client.RekeyChild(ctx))
	if got, _ := clientSPIs(t, other.Client); other.slot == s.slot && got != otherIn {
		t.Errorf("the other session's child %s became %s: it was touched", otherIn, got)
	}
	acc, err := s.Client.IKE()
	t.Check(err)
	if n := acc.ClientInits(); n != 1 {
		t.Errorf("the client sent %d IKE_SA_INIT requests in all, want the first one only: %s", n, acc)
	}
}

// auditLifetimes: what its first owner would rekey after 60 s (child) and 75 s is
// taken over after 40; that starts charon's timers of the IKE_SA anew. The kernel's
// soft limit of the child goes on, unless it passes before charon is active.
func auditLifetimes(t *T, l *Lab) {
	auditEvery(t, l, 5*time.Second)
	s, _ := start(t, l)
	born := time.Now()
	in, _ := clientSPIs(t, s.Client)
	ike, err := s.Client.SA()
	t.Check(err)
	pause(t, 40*time.Second)
	cut, _ := powerCut(t, l, s, "power-cut")
	kept(t, cut)
	took := time.Since(born)
	if got, _ := clientSPIs(t, s.Client); got != in {
		t.Fatalf("the child was replaced within %s, too early to tell", took)
	}
	lived := func(what string, replaced func(IKESA) bool) time.Duration {
		t.Check(poll(t.Context(), 200*time.Millisecond, what+" to be rekeyed", func() (bool, error) {
			x, err := s.Client.SA()
			return err == nil && replaced(x), nil
		}))
		return time.Since(born)
	}
	child := lived("the child", func(x IKESA) bool {
		return !slices.ContainsFunc(x.Installed(), func(c Child) bool { return c.Out == fmt.Sprintf("%08x", uint32(in)) })
	})
	whole := lived("the IKE_SA", func(x IKESA) bool { return x.SPIr != ike.SPIr })
	t.Logf("taken over after %s, the child lived %s, the IKE_SA %s", took, child, whole)
	t.Metric("taken_over_seconds", took.Seconds())
	t.Metric("child_lived_seconds", child.Seconds())
	t.Metric("ike_lived_seconds", whole.Seconds())
	if child >= took+55*time.Second {
		t.Errorf("the child of 60 s lived %s: its time began anew at the takeover after %s", child, took)
	}
	if whole >= took+70*time.Second {
		t.Errorf("the IKE_SA of 75 s lived %s: its time began anew at the takeover after %s", whole, took)
	}
}
