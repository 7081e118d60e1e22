package audit

import (
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/ssm/session"
)

// Held sorts documents that were read back by whether charon still holds the session:
// its live IKE_SA, or one that a pending exchange brought. The others have ended, or
// their IKE_SA was rekeyed, since the documents were written.
func Held(docs []*session.Document, sas []charon.IKESA) (held, ended []*session.Document) {
	ikes := list(sas).ikes
	for _, d := range docs {
		if holds(ikes, d) {
			held = append(held, d)
		} else {
			ended = append(ended, d)
		}
	}
	return held, ended
}

func holds(ikes map[sa.IKEID]charon.IKESA, d *session.Document) bool {
	if g := d.Live(); g == nil {
		return false
	} else if _, ok := ikes[g.ID]; ok {
		return true
	}
	for _, e := range d.Pending {
		for _, f := range e.Effects {
			if f.Type != charon.IKEAdd {
				continue
			}
			if ref, err := f.Message().SA(); err == nil {
				if _, ok := ikes[ref.ID]; ok {
					return true
				}
			}
		}
	}
	return false
}
