package lab

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/pki"
)

func init() {
	o := fleetOptions(ConnSpec{ESP: ESPCBC})
	Register(Scenario{
		Name: "no-key-leaks", Doc: "the keys of a live session are in no log, file, default answer or core file, wherever it has been",
		Need: fleetNeed, Options: o, Run: noKeyLeaks,
	})
}

// noKeyLeaks plays everything that handles keys and then looks for them.
func noKeyLeaks(t *T, l *Lab) {
	s, o := start(t, l)
	needles := sessionKeys(t, l, o, s.slot)
	t.Check(s.Client.RekeyChild(t.Context()))
	t.Check(s.Client.RekeyIKE(t.Context()))
	handover(t, l, s, "planned", other(l, o))
	allReady(t, l)
	searched := 0
	look := func(where string, b []byte) {
		searched++
		for _, n := range needles {
			if how := n.in(b); how != "" {
				t.Errorf("%s of the session is in %s, as %s", n.what, where, how)
			}
		}
	}
	files := func() {
		for _, a := range l.Appliances() {
			if a.daemon.Alive() { // else its run directory is gone
				lookInto(t, a.runDir(), look)
			}
			lookInto(t, a.Config.StateDir, look)
		}
		lookInto(t, l.OutDir(), look)
	}
	files() // a power cut wipes the run directory of its victim
	cut, _ := powerCut(t, l, s, "power-cut")
	kept(t, cut)
	heir := owned(t, l, s.slot)
	needles = append(needles, sessionKeys(t, l, heir, s.slot)...)
	fleetKey, err := pki.LoadFleetKey(heir.Config.FleetKeyFile)
	t.Check(err)
	for what, key := range map[string][]byte{"fleet key": fleetKey, "pre-shared key": []byte(psk)} {
		n, err := newNeedle(what, key)
		t.Check(err)
		needles = append(needles, n)
	}

	files()
	for _, a := range l.Appliances() {
		if !a.daemon.Alive() {
			continue
		}
		answers(t, a, s.slot, look)
		noCores(t, a)
	}
	t.Logf("%d keys looked for in %d files and answers", len(needles), searched)
	t.Metric("keys", len(needles))
	t.Metric("searched", searched)
	if searched < 20 {
		t.Errorf("only %d files and answers were searched", searched)
	}
}

// sessionKeys reads the secrets of the slot's session from the one place that may
// show them, and those of the kernel's SAs, and proves that the search finds them.
func sessionKeys(t *T, l *Lab, a *Appliance, slot uint32) []needle {
	doc, err := realDocument(t, a, slot)
	t.Check(err)
	api, err := a.API()
	t.Check(err)
	shown, err := api.GetSession(t.Context(), &v1.GetSessionRequest{Id: doc.SessionID, RevealKeys: true})
	t.Check(err)
	var out []needle
	for i, g := range doc.IKE {
		for _, add := range g.Add {
			for _, x := range add {
				if !x.Secret() {
					continue
				}
				k, err := x.Key()
				t.Check(err)
				n, err := newNeedle(fmt.Sprintf("%s of IKE_SA %d", x.Type, i), []byte(k))
				t.Check(err)
				if n.in(shown.Document) == "" {
					t.Fatalf("the search does not find %s where it is shown: it proves nothing", n.what)
				}
				out = append(out, n)
			}
		}
	}
	kernel := kernelKeys(t, a, slot)
	if len(out) == 0 || len(kernel) < 4 {
		t.Fatalf("%d secrets of the session and %d keys of its SAs found, want some and at least 4", len(out), len(kernel))
	}
	return append(out, kernel...)
}

var kernelKey = regexp.MustCompile(`(?:enc|auth-trunc|auth|aead) \S+ 0x([0-9a-f]+)`)

// kernelKeys are the keys of the slot's ESP SAs.
func kernelKeys(t *T, a *Appliance, slot uint32) []needle {
	names, err := a.SlotNamespaces()
	t.Check(err)
	var text []byte
	for _, name := range names {
		if !strings.HasSuffix(name, fmt.Sprintf("s%d", slot)) {
			continue
		}
		t.Check(inNamespace(name, func() (err error) {
			text, err = exec.CommandContext(t.Context(), "ip", "xfrm", "state", "list").Output()
			return err
		}))
	}
	var out []needle
	for i, m := range kernelKey.FindAllSubmatch(text, -1) {
		key, err := hex.DecodeString(string(m[1]))
		t.Check(err)
		n, err := newNeedle(fmt.Sprintf("key %d of an SA", i), key)
		t.Check(err)
		if n.in(text) == "" {
			t.Fatalf("the search does not find a key in the kernel's own list: it proves nothing")
		}
		out = append(out, n)
	}
	return out
}

func lookInto(t *T, dir string, look func(string, []byte)) {
	t.Check(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil {
			look(path, b)
		}
		return err
	}))
}

// answers looks at everything the operator API, shadowctl and the metrics say by
// themselves.
func answers(t *T, a *Appliance, slot uint32, look func(string, []byte)) {
	api, err := a.API()
	t.Check(err)
	ctx := t.Context()
	say := func(what string, m proto.Message, err error) {
		t.Check(err)
		look(a.Name+": "+what, []byte(protojson.Format(m)))
	}
	st, err := api.GetStatus(ctx, &v1.GetStatusRequest{})
	say("status", st, err)
	sl, err := api.GetSlot(ctx, &v1.GetSlotRequest{Number: slot})
	say("slot", sl, err)
	peers, err := api.GetPeers(ctx, &v1.GetPeersRequest{})
	say("peers", peers, err)
	bgp, err := api.GetBGP(ctx, &v1.GetBGPRequest{})
	say("bgp", bgp, err)
	list, err := api.ListSessions(ctx, &v1.ListSessionsRequest{})
	say("sessions", list, err)
	for _, x := range list.GetSessions() {
		r, err := api.GetSession(ctx, &v1.GetSessionRequest{Id: x.Id})
		say("session", r, err)
		look(a.Name+": session document", r.GetDocument())
	}
	evs, err := a.Events(ctx)
	t.Check(err)
	for _, e := range evs {
		look(a.Name+": event", []byte(protojson.Format(e)))
	}
	text := scrape(t, a, "metrics-"+a.Name+".txt")
	look(a.Name+": metrics", text)
	page, err := a.Fetch(ctx, "/status.json")
	t.Check(err)
	t.Check(os.WriteFile(filepath.Join(a.lab.OutDir(), "status-"+a.Name+".json"), page, 0o644))
	look(a.Name+": status page", page)
	if !strings.Contains(string(page), `"kind":"claim"`) && a.Name == owned(t, a.lab, slot).Name {
		t.Errorf("%s: its status page does not tell of the takeover", a.Name)
	}
	if a.Name == owned(t, a.lab, slot).Name {
		for _, want := range []string{`shadowcast_snapshot_up 1`, `shadowcast_slot_sessions\{role="owner",slot="%d"\} 1`, `shadowcast_sequence_headroom_ratio\{slot="%d"\} 0\.`,
			`shadowcast_takeovers_total\{cause="owner-died"\} [1-9]`, `shadowcast_takeover_duration_seconds_count\{phase="total"\} [1-9]`} {
			want = strings.ReplaceAll(want, "%d", strconv.Itoa(int(slot)))
			if !regexp.MustCompile("(?m)^" + want).Match(text) {
				t.Errorf("%s: nothing like %q is in its metrics", a.Name, want)
			}
		}
	}
	ctl, err := a.lab.binary("shadowctl")
	t.Check(err)
	for _, args := range [][]string{{"status"}, {"session", "list", "-o", "json"}, {"session", "show", list.GetSessions()[0].GetId()}} {
		out, err := exec.CommandContext(ctx, ctl, append([]string{"--socket", a.Config.Socket()}, args...)...).CombinedOutput()
		if err != nil {
			t.Errorf("shadowctl %v: %v: %s", args, err, out)
		}
		look(a.Name+": shadowctl "+strings.Join(args, " "), out)
	}
}

// noCores checks that no process of the appliance can leave its memory on disk: no
// core files, and the daemon's memory, which holds every key, locked and closed to
// other processes.
func noCores(t *T, a *Appliance) {
	slots, err := a.SlotNamespaces()
	t.Check(err)
	inodes, err := inodesOf(append(slots, a.ns.Name))
	t.Check(err)
	pids, err := pidsIn(inodes)
	t.Check(err)
	if len(pids) < 2 {
		t.Errorf("%s: %d processes found, want the daemon and its charons", a.Name, len(pids))
	}
	for _, pid := range pids {
		if pid == os.Getpid() {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "limits"))
		if err != nil {
			continue // it has ended
		}
		if !regexp.MustCompile(`(?m)^Max core file size\s+0\s+0\s`).Match(b) {
			t.Errorf("%s: process %d may leave a core file", a.Name, pid)
		}
	}
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(a.daemon.PID()), "status"))
	t.Check(err)
	var locked uint64
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmLck:"); ok {
			fmt.Sscan(rest, &locked)
		}
	}
	if locked == 0 {
		t.Errorf("%s: the daemon's memory is not locked: keys may reach the swap space", a.Name)
	}
}
