package audit

import (
	"testing"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/ssm/session"
)

func TestHeld(t *testing.T) {
	v := agreed(t)
	d := v.Docs[0]
	for name, x := range map[string]struct {
		sas  []charon.IKESA
		held int
	}{
		"still there":     {v.Charon, 1},
		"nothing there":   {nil, 0},
		"others there":    {[]charon.IKESA{{ID: sa.IKEID{Initiator: 1, Responder: 2}}}, 0},
		"only the former": {[]charon.IKESA{{ID: *d.Live().RekeyOf}}, 0},
	} {
		if held, ended := Held(v.Docs, x.sas); len(held) != x.held || len(held)+len(ended) != 1 {
			t.Errorf("%s: %d held, %d ended", name, len(held), len(ended))
		}
	}
	// A document without IKE_SAs is held by nobody.
	if held, _ := Held([]*session.Document{{SessionID: "x"}}, v.Charon); len(held) != 0 {
		t.Error("an empty document is held")
	}
}
