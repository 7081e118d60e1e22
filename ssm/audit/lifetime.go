package audit

import (
	"fmt"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/ssm/session"
)

// Deadline is when charon will renew an IKE_SA or a child, as it was first
// scheduled. A zero time means never.
type Deadline struct {
	IKE     sa.IKEID
	SPI     sa.SPI    // inbound, of the child; 0: of the IKE_SA
	RekeyAt time.Time // soft
	EndAt   time.Time // reauthentication of an IKE_SA, hard limit of a child
}

// Schedule lists the deadlines of sas that docs do not know yet.
func Schedule(docs []*session.Document, sas []charon.IKESA, now time.Time) []Deadline {
	var out []Deadline
	listed := list(sas)
	at := func(d time.Duration) time.Time {
		if d <= 0 {
			return time.Time{}
		}
		return now.Add(d).Round(time.Second).UTC()
	}
	for _, d := range docs {
		g := d.Live()
		if g == nil {
			continue
		}
		if s, ok := listed.ikes[g.ID]; ok && g.RekeyAt.IsZero() && g.ReauthAt.IsZero() && (s.Rekey > 0 || s.Reauth > 0) {
			out = append(out, Deadline{IKE: g.ID, RekeyAt: at(s.Rekey), EndAt: at(s.Reauth)})
		}
		for _, c := range d.Children {
			if k, ok := listed.children[c.In]; ok && c.RekeyAt.IsZero() && c.LifeAt.IsZero() && (k.Rekey > 0 || k.Life > 0) {
				out = append(out, Deadline{IKE: g.ID, SPI: c.In, RekeyAt: at(k.Rekey), EndAt: at(k.Life)})
			}
		}
	}
	return out
}

// Act is what enforces a deadline.
type Act string

// The acts.
const (
	RekeyIKE   Act = "rekey"
	ReauthIKE  Act = "reauthenticate"
	RekeyChild Act = "rekey child"
	EndChild   Act = "end child"
)

// Overdue is an IKE_SA or a child whose original deadline has passed while charon,
// whose timers were started anew by a takeover, would let it live on.
type Overdue struct {
	Act     Act
	Session string
	IKE     sa.IKEID
	SPI     sa.SPI // inbound, of a child
	Unique  uint32 // charon's number of what the act is about
	By      time.Duration
}

func (o Overdue) String() string {
	what := "IKE_SA " + o.IKE.String()
	if o.SPI != 0 {
		what = "child " + o.SPI.String()
	}
	return fmt.Sprintf("%s of session %s is overdue by %s", what, o.Session, o.By.Round(time.Second))
}

// overdueGrace leaves charon's own timers the first word: its deadlines are the
// original ones where no takeover intervened.
const overdueGrace = 10 * time.Second

// Late lists what is overdue at now.
func Late(docs []*session.Document, sas []charon.IKESA, now time.Time) []Overdue {
	var out []Overdue
	listed := list(sas)
	past := func(t time.Time) (time.Duration, bool) {
		return now.Sub(t), !t.IsZero() && now.Sub(t) > overdueGrace
	}
	for _, d := range docs {
		g := d.Live()
		if g == nil {
			continue
		}
		s, ok := listed.ikes[g.ID]
		if !ok || s.State != "ESTABLISHED" {
			continue // on its way out, or in the middle of it
		}
		o := Overdue{Session: d.SessionID, IKE: g.ID, Unique: s.UniqueID}
		if by, ok := past(g.ReauthAt); ok {
			// Everything below begins anew with it.
			o.Act, o.By = ReauthIKE, by
			out = append(out, o)
			continue
		}
		if by, ok := past(g.RekeyAt); ok {
			o.Act, o.By = RekeyIKE, by
			out = append(out, o)
		}
		for _, c := range d.Children {
			k, ok := listed.children[c.In]
			if !ok || k.State != "INSTALLED" {
				continue
			}
			o := Overdue{Session: d.SessionID, IKE: g.ID, SPI: c.In, Unique: k.UniqueID}
			if by, ok := past(c.LifeAt); ok {
				o.Act, o.By = EndChild, by
				out = append(out, o)
			} else if by, ok := past(c.RekeyAt); ok {
				o.Act, o.By = RekeyChild, by
				out = append(out, o)
			}
		}
	}
	return out
}

// listing is charon's list by name.
type listing struct {
	ikes     map[sa.IKEID]charon.IKESA
	children map[sa.SPI]charon.ChildSA
}

func list(sas []charon.IKESA) listing {
	l := listing{map[sa.IKEID]charon.IKESA{}, map[sa.SPI]charon.ChildSA{}}
	for _, s := range sas {
		l.ikes[s.ID] = s
		for _, k := range s.Children {
			l.children[k.In] = k
		}
	}
	return l
}
