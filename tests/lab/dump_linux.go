package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/vishvananda/netns"
)

// Dump writes what helps to understand a failure into the output directory's dump/:
// addresses, routes, rules, qdiscs and filters, SAs and policies without keys,
// XFRM error counters of every namespace, slots included; what the daemons, the
// charons and the routers say. Parts that cannot be read are left out and named.
func (l *Lab) Dump(ctx context.Context) error {
	dir := filepath.Join(l.out, "dump")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make dump directory: %w", err)
	}
	names, err := l.namespaces("")
	errs := []error{err}
	for _, n := range names {
		errs = append(errs, os.WriteFile(filepath.Join(dir, strings.TrimPrefix(n[len(l.id):], "-")+".txt"), dumpNetns(ctx, n), 0o644))
	}
	for _, r := range l.routers {
		var text bytes.Buffer
		for _, c := range r.soft.dump() {
			out, err := r.soft.command(c)
			fmt.Fprintf(&text, "# %s\n%s\n%s\n", c, out, errText(err))
		}
		errs = append(errs, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s.%s.txt", r.name, r.soft)), text.Bytes(), 0o644))
	}
	for _, c := range l.clients {
		if c.charon == nil {
			continue
		}
		errs = append(errs, dumpCharon(filepath.Join(dir, c.Name+".sas.txt"), c.charon))
		if acc, err := c.IKE(); err == nil {
			var text bytes.Buffer
			for _, m := range acc.Messages {
				fmt.Fprintf(&text, "%s %s\n", m.At.Format("15:04:05.000000"), m)
			}
			errs = append(errs, os.WriteFile(filepath.Join(dir, c.Name+".ike.txt"), text.Bytes(), 0o644))
		}
	}
	for _, a := range l.appliances {
		if a.daemon == nil {
			continue
		}
		s, err := a.Status(ctx)
		text := protojson.MarshalOptions{Multiline: true}.Format(s) + "\n" + errText(err)
		errs = append(errs, os.WriteFile(filepath.Join(dir, a.Name+".status.json"), []byte(text), 0o644))
		for _, sock := range a.ViciSockets() {
			errs = append(errs, dumpCharon(filepath.Join(dir, a.Name+"."+slotOf(sock)+".sas.txt"), &charon{name: a.Name, sock: sock}))
		}
	}
	return errors.Join(errs...)
}

func dumpCharon(path string, c *charon) error {
	var b bytes.Buffer
	sas, err := c.list()
	for _, s := range sas {
		fmt.Fprintln(&b, s)
	}
	b.WriteString(errText(err))
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return "cannot read: " + err.Error() + "\n"
}

// ipBatch shows SAs without their keys.
const ipBatch = `addr
route show table all
rule
neigh
xfrm state list nokeys
xfrm policy
`

// dumpNetns runs the tools that a person would, one thread inside the namespace.
func dumpNetns(ctx context.Context, name string) []byte {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var b bytes.Buffer
	h, err := netns.GetFromName(name)
	if err != nil {
		return []byte(errText(err))
	}
	defer h.Close()
	ns := &Netns{Name: name, h: h}
	err = ns.Do(func() error {
		// One process for all of ip: they are slow to start in user-mode Linux.
		for _, x := range []struct {
			argv  []string
			stdin string
		}{{[]string{"ip", "-force", "-s", "-batch", "-"}, ipBatch}, {[]string{"tc", "-s", "qdisc"}, ""}} {
			cmd := exec.CommandContext(ctx, x.argv[0], x.argv[1:]...)
			cmd.Stdin = strings.NewReader(x.stdin)
			out, err := cmd.CombinedOutput()
			fmt.Fprintf(&b, "# %v\n%s%s\n", x.argv, out, errText(err))
		}
		// /proc/net is that of the process; the thread's own is under its task.
		for _, f := range []string{"xfrm_stat", "snmp", "udp"} {
			out, err := os.ReadFile("/proc/thread-self/net/" + f)
			fmt.Fprintf(&b, "# %s\n%s%s\n", f, out, errText(err))
		}
		return nil
	})
	b.WriteString(errText(err))
	return b.Bytes()
}

// XFRMErrors returns the XFRM error counters of a namespace that are not zero, such
// as XfrmInStateSeqError.
func (n *Netns) XFRMErrors() (map[string]uint64, error) {
	out := map[string]uint64{}
	err := n.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/xfrm_stat")
		if err != nil {
			return fmt.Errorf("read XFRM counters of %s: %w", n.Name, err)
		}
		for l := range bytes.Lines(b) {
			var k string
			var v uint64
			if _, err := fmt.Sscan(string(l), &k, &v); err == nil && v != 0 {
				out[k] = v
			}
		}
		return nil
	})
	return out, err
}

// sortedKeys makes maps print in one order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
