package lab

import (
	"slices"
	"strings"
	"testing"

	"github.com/shadowcast/shadowcast/docs"
)

func TestShellCommands(t *testing.T) {
	const doc = "# x\n\n## one\n\ntext\n\n```sh\na b     # why\n# only this\nc &&\n  d --e \"f\" &&\n  g\nh \\\n  i\n```\n\n## two\n\n```sh\nj &&\n```\n## three\n"
	got, err := shellCommands(doc, "## one")
	if want := []string{"a b", `c && d --e "f" && g`, "h i"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("commands %q, %v, want %q", got, err, want)
	}
	for heading, want := range map[string]string{"## two": "in the middle of a command: j &&", "## three": "no shell block", "## four": "no heading"} {
		if _, err := shellCommands(doc, heading); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", heading, err, want)
		}
	}
	if got, err := shellCommands(docs.Operations, "### Upgrade the fleet"); err != nil || len(got) != 6 {
		t.Errorf("the upgrade has the commands %q, %v", got, err)
	}
}
