package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	strongswan "github.com/shadowcast/shadowcast/sa/charon"
)

func init() {
	o := fleetOptions(ConnSpec{})
	o.Clients = []ClientSpec{{Name: "c1"}, {Name: "c2", Conn: ConnSpec{Encap: true}}}
	Register(Scenario{
		Name: "strongswan-6", Doc: "one of three gateways runs strongSwan 6: sessions go from 5.9 to 6 and back, planned and by a power cut, with rekeys at both",
		Need: fleetNeed, Options: o.detecting(), Bench: true, Run: strongswan6,
	})
}

// strongswan6 plays the adjacent versions of strongSwan and of its HA protocol (3 and 5)
// against each other.
func strongswan6(t *T, l *Lab) {
	ctx := t.Context()
	root, err := strongswan6Root()
	if err != nil {
		t.Skipf("%v", err)
	}
	t.Check(enterAt(l, "fra"))
	fra := l.Appliance("fra")
	t.Check(l.charonFrom(fra, root))
	fleetUp(t, l)
	p := joinAll(t, l, l.Clients(), 250)
	for _, a := range l.Appliances() {
		v := viciOf(a, p[0].slot)
		release, err := v.Version(ctx)
		t.Check(errors.Join(err, v.Close()))
		t.Logf("%s runs strongSwan %s", a.Name, release)
		if want := map[bool]string{true: "6.", false: "5.9"}[a == fra]; !strings.HasPrefix(release, want) {
			t.Fatalf("%s runs strongSwan %s, want %s", a.Name, release, want)
		}
	}
	rekeys := func() {
		t.Check(p.each(func(s *attached) error { return s.Client.RekeyChild(ctx) }))
		t.Check(p.each(func(s *attached) error { return s.Client.RekeyIKE(ctx) }))
		allReady(t, l)
	}
	p.control(t, l)
	p.handover(t, l, "6 to 5.9", "ams")
	rekeys()
	p.handover(t, l, "5.9 to 6", "fra")
	rekeys()
	p.handover(t, l, "again to 5.9", "lhr")
	p.handover(t, l, "again to 6", "fra")
	cuts, victim := p.powerCut(t, l, "power cut of 6")
	for _, cut := range cuts {
		kept(t, cut)
	}
	heir := owned(t, l, p[0].slot, victim)
	rekeys()
	t.Check(victim.PowerOn())
	allReady(t, l)
	cuts, victim = p.powerCut(t, l, "power cut of 5.9")
	for _, cut := range cuts {
		kept(t, cut)
	}
	t.Logf("%s and then %s took over", heir.Name, owned(t, l, p[0].slot, victim).Name)
	rekeys()
	p.control(t, l)
}

// strongswan6Root is the root that scripts/strongswan6.sh makes beside the binaries.
func strongswan6Root() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find strongSwan 6: %w", err)
	}
	root := filepath.Join(filepath.Dir(filepath.Dir(self)), "out", "trixie")
	if _, err := os.Stat(filepath.Join(root, strongswan.Binary)); err != nil {
		return "", fmt.Errorf("missing capability strongSwan 6: %w (scripts/strongswan6.sh makes it)", err)
	}
	return root, nil
}

// charonFrom has an appliance's daemon start the charon of another root. The daemon
// itself stays in this one; in its mount namespace charon's path leads there.
func (l *Lab) charonFrom(a *Appliance, root string) error {
	// The names of the namespaces that the daemon makes are for everybody.
	if err := unix.Mount("", "/run", "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share /run: %w", err)
	}
	there := filepath.Join(l.dir, "charon-of-another-root")
	script := fmt.Sprintf("#!/bin/sh\nexec chroot %s %s\n", root, strongswan.Binary)
	if err := os.WriteFile(there, []byte(script), 0o755); err != nil {
		return fmt.Errorf("write way to another charon: %w", err)
	}
	enter := fmt.Sprintf("set -e\nmount --make-private /\nfor d in proc sys dev run tmp; do mount --rbind /$d %[1]s/$d; done\nmount --bind %[2]s %[3]s\nexec \"$@\"\n", root, there, strongswan.Binary)
	a.Wrap = []string{"/usr/bin/unshare", "--mount", "--propagation", "unchanged", "/bin/sh", "-c", enter, "sh"}
	return nil
}
