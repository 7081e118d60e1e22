package lab

import (
	"slices"
	"strings"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// preflight tells what the daemons found about their machines when they started, each
// finding once, with who has it.
func (d *story) preflight() {
	who := map[string][]string{}
	var order []string
	for _, a := range d.l.Appliances() {
		evs, err := a.Events(d.t.Context())
		d.t.Check(err)
		for _, e := range evs {
			if e.Kind != "preflight" || e.Severity < v1.Severity_SEVERITY_WARNING {
				continue
			}
			if who[e.Message] == nil {
				order = append(order, e.Message)
			}
			if !slices.Contains(who[e.Message], a.Name) {
				who[e.Message] = append(who[e.Message], a.Name)
			}
		}
	}
	if len(order) == 0 {
		d.c.say("preflight found nothing to mend")
	}
	for _, m := range order {
		d.c.say("preflight on %s: %s", strings.Join(who[m], ", "), m)
	}
}
