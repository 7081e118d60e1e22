package lab

import (
	"fmt"
	"os/exec"
	"strings"
)

// shellCommands returns the commands of the first shell block below a heading of a
// document in Markdown: comments are left out, and lines that && or a backslash joins
// are one.
func shellCommands(doc, heading string) ([]string, error) {
	_, rest, ok := strings.Cut(doc, "\n"+heading+"\n")
	if !ok {
		return nil, fmt.Errorf("the document has no heading %q", heading)
	}
	_, rest, ok = strings.Cut(rest, "\n```sh\n")
	block, _, closed := strings.Cut(rest, "\n```\n")
	if !ok || !closed {
		return nil, fmt.Errorf("no shell block follows %q", heading)
	}
	var out []string
	joined := ""
	for line := range strings.Lines(block) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			continue
		}
		if i := strings.Index(line, " #"); i >= 0 {
			line = strings.TrimSpace(line[:i])
		}
		joined = strings.TrimSpace(joined + " " + line)
		if rest, more := strings.CutSuffix(joined, "\\"); more {
			joined = strings.TrimSpace(rest)
			continue
		}
		if joined != "" && !strings.HasSuffix(joined, "&&") {
			out = append(out, joined)
			joined = ""
		}
	}
	if joined != "" {
		return nil, fmt.Errorf("the shell block of %q ends in the middle of a command: %s", heading, joined)
	}
	return out, nil
}

// shell runs a command as an operator of the appliance types it, and returns what it
// says. shadowctl and hostname are the appliance's.
func (a *Appliance) shell(t *T, command string) string {
	ctl, err := a.lab.binary("shadowctl")
	t.Check(err)
	const setting = `set -eu
shadowctl() { "$CTL" --socket "$SOCKET" "$@"; }
hostname() { echo "$NAME"; }
`
	c := exec.CommandContext(t.Context(), "/bin/sh", "-c", setting+command)
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "CTL=" + ctl, "SOCKET=" + a.Config.Socket(), "NAME=" + a.Name}
	out, err := c.CombinedOutput()
	t.Logf("%s# %s\n%s", a.Name, command, out)
	if err != nil {
		t.Fatalf("%s: %s: %v: %s", a.Name, command, err, out)
	}
	return string(out)
}
