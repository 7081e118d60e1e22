package lab

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// docBlock is a fenced block of a document in Markdown. What a test does with it
// stands in the comment above it:
//
//	<!-- lab: on ams fra when REASON -->    carried out there, one machine after another
//	<!-- lab: file PATH on each -->         the content of a file, as an editor leaves it
//	<!-- lab: shown -->                     what a command prints
//	<!-- lab: not run, REASON -->
type docBlock struct {
	Line int    // of the opening fence, from 1
	Lang string // "sh", or "" for none
	Text string

	On     []string // machines; "each" is every appliance
	When   string   // what must have happened, "" for nothing
	File   string   // path of a file that has this content
	Shown  bool
	NotRun string // why it is not carried out
}

// docSection is the section of a document below a heading of the third level, after as
// many empty lines as stand before it: numbers of lines are the document's.
func docSection(doc, heading string) (string, error) {
	before, rest, ok := strings.Cut(doc, "\n"+heading+"\n")
	if !ok {
		return "", fmt.Errorf("the document has no heading %q", heading)
	}
	for _, next := range []string{"\n### ", "\n## "} {
		rest, _, _ = strings.Cut(rest, next)
	}
	return strings.Repeat("\n", strings.Count(before, "\n")+2) + rest + "\n", nil
}

// docMark begins the comment above a block.
const docMark = "<!-- lab: "

// docBlocks returns the fenced blocks of a document. One without a mark, or a mark
// without a block, is an error.
func docBlocks(doc string) ([]docBlock, error) {
	var out []docBlock
	var open *docBlock
	mark, markLine := "", 0
	for i, line := range strings.Split(doc, "\n") {
		n := i + 1
		switch {
		case open != nil && line == "```":
			out = append(out, *open)
			open = nil
		case open != nil:
			open.Text += line + "\n"
		case strings.HasPrefix(line, docMark):
			m, ok := strings.CutSuffix(strings.TrimPrefix(line, docMark), " -->")
			if !ok || mark != "" {
				return nil, fmt.Errorf("line %d: the mark %q must end in its line and have a block of its own", n, line)
			}
			mark, markLine = m, n
		case strings.HasPrefix(line, "```"):
			open = &docBlock{Line: n, Lang: strings.TrimPrefix(line, "```")}
			if err := open.read(mark); err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			mark = ""
		case mark != "" && line != "":
			return nil, fmt.Errorf("line %d: the mark of line %d stands above no block", n, markLine)
		}
	}
	if open != nil || mark != "" {
		return nil, fmt.Errorf("the document ends within a block, or after a mark")
	}
	return out, nil
}

// read fills in what a mark says.
func (b *docBlock) read(mark string) error {
	rest, when, timed := strings.Cut(mark, " when ")
	if !timed {
		if rest, when, timed = strings.Cut(mark, " while "); timed {
			when = "while " + when
		}
	}
	words := strings.Fields(rest)
	switch {
	case mark == "":
		return fmt.Errorf("a block without a mark; want %son ... -->, file, shown, or not run and why", docMark)
	case mark == "shown":
		b.Shown = true
	case strings.HasPrefix(mark, "not run, "):
		b.NotRun = strings.TrimPrefix(mark, "not run, ")
	case len(words) > 1 && words[0] == "on" && b.Lang == "sh":
		b.On, b.When = words[1:], when
	case len(words) > 3 && words[0] == "file" && words[2] == "on" && !timed:
		b.File, b.On = words[1], words[3:]
	default:
		return fmt.Errorf("a block with the mark %q; want %son ... -->, file, shown, or not run and why", mark, docMark)
	}
	return nil
}

// on reports whether the block concerns a machine; each is every machine of each.
func (b docBlock) on(machine string, each []string) bool {
	return slices.Contains(b.On, machine) || slices.Contains(b.On, "each") && slices.Contains(each, machine)
}

// shellCommands returns the commands of the first shell block below a heading of a
// document in Markdown.
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
	out, err := splitCommands(block)
	if err != nil {
		return nil, fmt.Errorf("the shell block of %q %w", heading, err)
	}
	return out, nil
}

// splitCommands returns the commands of a shell block: comments are left out, and lines
// that && or a backslash joins are one.
func splitCommands(block string) ([]string, error) {
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
		return nil, fmt.Errorf("ends in the middle of a command: %s", joined)
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
