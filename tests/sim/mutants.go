package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// mutant is one way to build the fleet wrongly: a change of the sources that the
// search must notice. It exists in an overlay of the build only.
type mutant struct {
	name     string
	file     string // below the module
	old, new string
	// suite is the package whose tests must catch what the simulator does not
	// model (the inside of a session and of the kernel) or what costs an outage
	// that its promises allow. "" is the simulator.
	// tests is the pattern of those that need no privilege.
	suite, tests string
}

var mutants = []mutant{
	{name: "the lowest ticket wins", file: "ssm/claim.go",
		old: "case t <= s.ticket || owner == \"\":", new: "case s.ticket != 0 && t > s.ticket || t == 0 || t == s.ticket || owner == \"\":"},
	{name: "a ticket is issued again after a reboot with lost memory", file: "ssm/tickets.go",
		old: "k := grantKey{s.cfg.Slot, from, m.Incarnation}\n\tif t := c.registrar.grants[k]; t > m.Ticket {", new: "k := grantKey{s.cfg.Slot, from, 0}\n\tif t := c.registrar.grants[grantKey{s.cfg.Slot, from, m.Incarnation - 1}]; t > 0 {\n\t\tc.grant(s, from, m.Incarnation, t)\n\t\treturn\n\t}\n\tif t := c.registrar.grants[k]; t > m.Ticket {"},
	{name: "two lineages issue in one partition", file: "ssm/tickets.go",
		old: "\tif c.cfg.Registrar == c.cfg.Self {\n\t\tc.onRequest(s, c.cfg.Self, m)\n\t\treturn\n\t}\n\tc.send(c.cfg.Registrar, m)\n}\n\nfunc (c *Core) onRequest(s *slot, from Node, m Message) {\n\tif c.cfg.Registrar != c.cfg.Self {",
		new: "\tif c.cfg.Registrar == c.cfg.Self || c.suspected(c.cfg.Registrar) {\n\t\tc.onRequest(s, c.cfg.Self, m)\n\t\treturn\n\t}\n\tc.send(c.cfg.Registrar, m)\n}\n\nfunc (c *Core) onRequest(s *slot, from Node, m Message) {\n\tif false {"},
	{name: "claim on lost probes alone", file: "ssm/claim.go", old: "case p.routeLost:", new: "case true:"},
	{name: "a deaf owner loses its slot without evidence", file: "ssm/deaf.go", suite: "./ssm", tests: "TestADeafOwner", old: "case p.routeLost:", new: "case true:"},
	{name: "a deaf owner loses its slot although somebody reaches it", file: "ssm/deaf.go", suite: "./ssm", tests: "TestADeafOwner", old: "|| len(p.hears) > 0 ||", new: "||"},
	{name: "an owner rises above a shadow that is deaf", file: "ssm/tickets.go", suite: "./ssm", tests: "TestAnOwnerDoesNotRise", old: "|| !p.deaf.IsZero() ||", new: "||"},
	{name: "a claim spends no ticket below it", file: "ssm/tickets.go", old: "if s.armed != 0 && s.armed <= s.ticket {", new: "if false {"},
	{name: "an overtaken owner keeps its fence open", file: "ssm/claim.go", old: "func (c *Core) lose(s *slot, why string) {\n\tc.closeFence(s)", new: "func (c *Core) lose(s *slot, why string) {"},
	{name: "the target of a move that was given up keeps its fence open", file: "ssm/move.go", old: "func (c *Core) stopTaking(s *slot, why string) {\n\tc.closeFence(s)", new: "func (c *Core) stopTaking(s *slot, why string) {"},
	{name: "the target of a move opens before the children are in its kernel", file: "ssm/move.go", suite: "./ssm", tests: "TestMoveWaitsForTheKernel", old: "if s.behind {", new: "if false {"},
	{name: "what a rebooted member may have claimed is forgotten", file: "ssm/peers.go", old: "s.outbid = max(s.outbid, s.ticket, s.armed, s.granted, s.held[n].ticket)\n", new: ""},
	{name: "a claim of a life that has ended takes the slot", file: "ssm/claim.go", suite: "./ssm", tests: "TestClaimOfAnEndedLife",
		old: "case c.ended(owner, life) &&", new: "case false &&"},
	{name: "an owner without a charon is silent about the ticket it owned by", file: "ssm/core.go", old: "if e.Ticket > s.ticket {\n\t\t\t\tc.spent", new: "if false {\n\t\t\t\tc.spent"},
	{name: "a charon that was started empty is taken for the active one", file: "ssm/core.go", suite: "./ssm", tests: "TestRestoredOwner",
		old: "c.emit(ActRemember{Slot: s.cfg.Slot, Role: RoleNone, Ticket: e.Ticket})\n", new: ""},
	{name: "a home founds its slot anew over a complete twin", file: "ssm/claim.go", old: "if c.alive(n) && c.peers[n].slots[s.cfg.Slot].Ready {", new: "if n == \"\" {"},
	{name: "an owner rises while a member of its slot is silent", file: "ssm/tickets.go", old: "case !c.undisputed(s):", new: "case false:"},
	{name: "a renewal overlooks a shadow that was not up when it last spoke", file: "ssm/tickets.go", suite: "./ssm", tests: "TestRenewalWaits",
		old: "c.alive(n) && r.Armed < s.granted {", new: "c.alive(n) && r.Armed < s.granted && (r.Armed != 0 || r.Up) {"},
	{name: "a renewal overlooks shadows whose tickets are on their way", file: "ssm/tickets.go", suite: "./ssm", tests: "TestRenewalWaits",
		old: "c.alive(n) && r.Armed < s.granted {", new: "c.alive(n) && r.Armed < s.granted && r.Armed != 0 {"},
	{name: "a refill that ends while its owner listens is forgotten", file: "ssm/claim.go", suite: "./ssm", tests: "TestRefeedOutlives",
		old: "if !s.refeeding || !c.holds(s) {", new: "if !s.refeeding || s.role != RoleOwner {"},
	{name: "a charon that dies while nobody owns its slot stays dead", file: "ssm/claim.go", suite: "./ssm", tests: "TestCharonOfAnUnowned",
		old: "s.retryAt = c.now // nobody owns", new: "_ = c.now // nobody owns"},
	{name: "a late tick claims before what waits has been read", file: "ssm/core.go", old: "return c.now.Before(c.readUntil) || c.late(c.now.Sub(c.tick)) }", new: "return false }"},
	{name: "an owner renews its ticket before its shadows are armed above", file: "ssm/tickets.go", old: "if c.now.Sub(s.renewing) <= rearmPatience {", new: "if false {"},
	{name: "a process that stood still believes its own silence", file: "ssm/core.go", old: "if !c.late(gap) {\n\t\treturn\n\t}\n\t// What", new: "if true {\n\t\treturn\n\t}\n\t// What"},
	{name: "a restarted daemon makes a shadow of a slot that is active", file: "ssm/claim.go", old: "\tcase !s.found:\n\t\treturn // a slot", new: "\tcase false:\n\t\treturn // a slot"},
	{name: "a shadow that knows less claims first", file: "ssm/claim.go", old: "cmp.Compare(s.seen, seen), cmp.Compare", new: "cmp.Compare(seen, s.seen), cmp.Compare"},
	{name: "the last announcer withdraws on a prediction", file: "ssm/standing.go", old: "func (c *Core) mayLeave() bool {", new: "func (c *Core) mayLeave() bool {\n\tif true {\n\t\treturn true\n\t}"},
	{name: "probes repeat no claims", file: "ssm/peers.go", old: "case sr.Owner != \"\":", new: "case false:"},
	{name: "a dead owner's shadows wait for a tombstone of its probes", file: "ssm/claim.go", old: "if s.armed == 0 || c.unread() {\n\t\treturn\n\t}\n\twait :=", new: "if s.armed == 0 || c.unread() || c.now.Sub(last) < 3*time.Second {\n\t\treturn\n\t}\n\twait :="},
	{name: "a member goes before whoever replaces it is ready", file: "ssm/set.go", old: "case c.relieved(s):", new: "case len(s.wanted) > 0:"},
	{name: "a replacement counts before its twin is complete", file: "ssm/set.go", old: "\tready := c.readyShadows(s)\n",
		new: "\tvar ready []Node\n\tfor n, h := range s.held {\n\t\tif h.ticket > s.ticket {\n\t\t\tready = append(ready, n)\n\t\t}\n\t}\n"},
	{name: "the ticket of a member that goes is forgotten before it is void", file: "ssm/set.go", old: "\t\ts.leaving[n] = s.version + 1\n", new: "\t\tdelete(s.held, n)\n"},
	{name: "a member that has left keeps its ticket", file: "ssm/set.go", old: "s.armed, s.granted, s.role = 0, 0, RoleNone\n", new: "s.role = RoleNone\n"},
	{name: "a member that returns gets the ticket that it gave up", file: "ssm/set.go", old: "\ts.floor = max(s.floor, s.armed, s.granted)\n", new: "\ts.floor = 0\n"},
	{name: "a late report brings an old shadow set back", file: "ssm/set.go", suite: "./ssm", tests: "TestAnOldSet", old: "s.owner == from && sr.Version > s.version:", new: "s.owner == from && sr.Version > 0:"},
	{name: "an appliance outside a shadow set keeps its twin", file: "ssm/set.go", old: "if s.role != RoleShadow || s.version == 0 || c.invited(s) {", new: "if true {"},
	{name: "a move whose slot is taken away ends without a word", file: "ssm/claim.go", suite: "./ssm", tests: "TestEveryMoveEnds", old: "\tc.closeFence(s)\n\tc.giveUp(s, why)\n", new: "\tc.closeFence(s)\n\ts.move = nil\n"},
	{name: "a new owner forgets who shadows its slot", file: "ssm/set.go", suite: "./ssm", tests: "TestANewOwnerKeepsTheSet", old: "\tif was != \"\" && !slices.Contains(s.set, was) {\n", new: "\ts.set = nil\n\tif false {\n"},
	{name: "a shadow keeps a ticket that is below an SA's birth", file: "ssm/core.go", old: "s.floor = max(s.floor, e.Base+1)", new: "_ = e.Base"},
	{name: "a new owner asks nobody for what it lacks", file: "ssm/claim.go", suite: "./ssm", tests: "TestWhoMayKnowMore", old: "ask = c.knowMore(s)", new: "ask = nil"},
	{name: "a new owner asks followers of another one", file: "ssm/cover.go", suite: "./ssm", tests: "TestWhoMayKnowMore", old: "n == s.owner || t.OwnerTicket != s.ticket {", new: "n == s.owner {"},
	{name: "a refill brings back what has ended here", file: "ssm/session/refill.go", suite: "./ssm/session", tests: "TestRefillRefuses", old: "case s == nil && known:", new: "case known && false:"},
	{name: "a refill overwrites what went on here", file: "ssm/session/refill.go", suite: "./ssm/session", tests: "TestRefillRefuses", old: "case s != nil && s.doc.Rev != was:", new: "case false:"},
	{name: "a refill installs SAs anew", file: "ssm/session/refill.go", suite: "./ssm/session", tests: "TestRefillRefuses", old: "if _, twice := had[in]; twice {", new: "if false {"},
	{name: "no owner filter", file: "ssm/sim/replicate.go", old: "if !t.takes(s.n.name, uint64(ticket)) || ticket < t.hello {", new: "if t.mode != twin || !t.charon {"},
	{name: "preset forgotten on re-install", file: "ssm/sim/shell.go", old: "\t\t\t\t\ts.place(c, k, s.preset)", new: "\t\t\t\t\tk.by, k.placed = s.tenure(s.preset), true"},
	{name: "an SA sends before it is in its block", file: "ssm/sim/shell.go", old: "k := &sadb{since", new: "k := &sadb{by: s.tenure(s.ticket), placed: true, since"},
	{name: "a snapshot brings deleted sessions back", file: "ssm/sim/replicate.go", old: "\ts.docs = maps.Clone(docs)\n", new: "\ts.docs = maps.Clone(docs)\n\tfor x, r := range was {\n\t\tif x.deleted {\n\t\t\ts.docs[x] = r\n\t\t}\n\t}\n"},
	{name: "a rebuilt twin says that it is complete before the snapshot", file: "ssm/sim/shell.go", old: "ready := s.mode == twin && s.charon && s.whole", new: "ready := s.mode == twin && s.charon"},
	{name: "the dead-man is ignored", file: "ssm/core.go", old: "until = c.cfg.DeadMan\n", new: "until = 0\n"},
	{name: "effects of an exchange are fed at once", file: "ssm/session/exchange.go", suite: "./ssm/session", tests: "TestModel|TestCrashStories|TestCommit|TestAncestors",
		old: "if e != nil {\n\t\te.Effects = append", new: "if false {\n\t\te.Effects = append"},
	{name: "an ancestor is dropped at a rekey", file: "ssm/session/content.go", suite: "./ssm/session", tests: "TestModel|TestCrashStories|TestCommit|TestAncestors",
		old: "if slices.ContainsFunc(d.Children, func(c Child) bool { return c.IKE == first }) {", new: "if slices.ContainsFunc(d.Children, func(c Child) bool { return c.IKE == first && false }) {"},
	{name: "a replay sample is written backwards", file: "sa/xfrm/plan.go", suite: "./sa/xfrm", tests: "TestApply",
		old: "if w.In == nil || w.In.Seq < s.Seq {", new: "if w.In == nil {"},
}

// playMutants builds each mutant, or those whose names contain one of only, and
// searches until it is caught.
func playMutants(out io.Writer, only []string, runs int64, workers int) error {
	chosen := slices.DeleteFunc(slices.Clone(mutants), func(m mutant) bool {
		return len(only) > 0 && !slices.ContainsFunc(only, func(s string) bool { return strings.Contains(m.name, s) })
	})
	if len(chosen) == 0 {
		return fmt.Errorf("no mutant has a name that contains %q", only)
	}
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "shadowcast-mutants")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var missed []string
	for i, m := range chosen {
		how, err := m.play(root, filepath.Join(dir, fmt.Sprint(i)), runs, workers)
		if err != nil {
			return fmt.Errorf("mutant %q: %w", m.name, err)
		}
		if how == "" {
			missed = append(missed, m.name)
			how = "NOT CAUGHT"
		}
		fmt.Fprintf(out, "%-66s %s\n", m.name, how)
	}
	fmt.Fprintf(out, "mutants: %d built, %d caught\n", len(chosen), len(chosen)-len(missed))
	if len(missed) > 0 {
		return fmt.Errorf("not caught in %d runs: %s", runs, strings.Join(missed, "; "))
	}
	return nil
}

// patched is the mutated source.
func (m mutant) patched(root string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, m.file))
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(b), m.old); n != 1 {
		return "", fmt.Errorf("%s contains the text to change %d times, want once", m.file, n)
	}
	return strings.Replace(string(b), m.old, m.new, 1), nil
}

var found = regexp.MustCompile(`(?m)^VIOLATION seed (\d+): (.*)$`)

// play returns how the mutant was caught, "" if it was not.
func (m mutant) play(root, dir string, runs int64, workers int) (string, error) {
	text, err := m.patched(root)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	src, overlay, bin := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "sim")
	spec, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, m.file): src}})
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.WriteFile(src, []byte(text), 0o600), os.WriteFile(overlay, spec, 0o600)); err != nil {
		return "", err
	}
	if m.suite != "" {
		return m.test(root, overlay)
	}
	build := exec.Command("go", "build", "-overlay", overlay, "-o", bin, "./tests/sim")
	build.Dir = root
	if b, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, b)
	}
	b, err := exec.Command(bin, "-first", "-runs", fmt.Sprint(runs), "-workers", fmt.Sprint(workers), "-brief").CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", err
	}
	x := found.FindSubmatch(b)
	if x == nil {
		return "", nil
	}
	return fmt.Sprintf("seed %s: %s", x[1], x[2]), nil
}

var failedTest = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

// test runs the suite over the sources, which it must pass, and over the mutant, and
// returns the first test that fails there.
func (m mutant) test(root, overlay string) (string, error) {
	run := func(args ...string) ([]byte, error) {
		cmd := exec.Command("go", append([]string{"test", "-run", m.tests}, args...)...)
		cmd.Dir = root
		return cmd.CombinedOutput()
	}
	if b, err := run(m.suite); err != nil {
		return "", fmt.Errorf("test %s without the mutant: %w\n%s", m.suite, err, b)
	}
	args := []string{"-overlay", overlay, m.suite}
	files, _ := filepath.Glob(filepath.Join(root, m.suite, "*_test.go")) // the pattern is well formed
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(`"pgregory.net/rapid"`)) {
			// What fails here fails in the mutant: no example to keep beside the sources.
			return m.failing(run(append(args, "-rapid.nofailfile")...))
		}
	}
	return m.failing(run(args...))
}

// failing reads the name of the first test that failed, "" if none did.
func (m mutant) failing(b []byte, err error) (string, error) {
	if err == nil {
		return "", nil
	}
	x := failedTest.FindSubmatch(b)
	if x == nil {
		return "", fmt.Errorf("test %s: %w\n%s", m.suite, err, b)
	}
	return fmt.Sprintf("%s of %s", x[1], m.suite), nil
}

// moduleRoot is the directory of go.mod above the working directory.
func moduleRoot() (string, error) {
	b, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(b))), nil
}
