package lab

import (
	"fmt"
	"slices"
	"strings"
)

// outageLimitMS is the longest outage that a power cut may cost.
const outageLimitMS = 1000

// judge fills in Guarantees and Met.
func (r *Report) judge() {
	r.Guarantees = []Guarantee{r.plannedLossless(), r.moves("return", "return home loses 0 packets", 1), r.shortOutage(), r.noNewSession(), r.stateKept(), r.lives()}
	r.Notes = slices.Clone(r.takeovers)
	for _, s := range r.Scenes {
		if strings.HasPrefix(s.Name, "control") && s.Lost > 0 {
			r.Notes = append(r.Notes, fmt.Sprintf("%s: %s of %s packets lost without any fault: the machine is too busy for these figures to mean much", s.Title, thousands(s.Lost), thousands(s.Sent)))
		}
	}
	r.Met = len(r.Failures) == 0
	for _, g := range r.Guarantees {
		r.Met = r.Met && g.Met
	}
}

func (r *Report) named(name string) []ReportScene {
	var out []ReportScene
	for _, s := range r.Scenes {
		if s.Name == name {
			out = append(out, s)
		}
	}
	return out
}

func (r *Report) plannedLossless() Guarantee {
	g := r.moves("planned", fmt.Sprintf("planned handover loses 0 of at least %s packets, %d times in a row", thousands(plannedPackets), plannedMoves), plannedMoves)
	for _, s := range r.named("planned") {
		if s.Sent < plannedPackets {
			g.Met = false
			g.Found += fmt.Sprintf("; %s: only %s sent", s.Title, thousands(s.Sent))
		}
	}
	return g
}

// moves judges the scenes of one name that must lose nothing, n of them.
func (r *Report) moves(name, text string, n int) Guarantee {
	ss := r.named(name)
	sent, lost, again := 0, 0, 0
	var bad []string
	for _, s := range ss {
		sent, lost, again = sent+s.Sent, lost+s.Lost, again+s.Up.Duplicates+s.Down.Duplicates
		if s.Lost > 0 {
			bad = append(bad, fmt.Sprintf("%s lost %d", s.Title, s.Lost))
		}
	}
	g := Guarantee{Text: text, Met: len(ss) >= n && lost == 0 && sent > 0}
	if len(ss) == 0 {
		g.Found = "not played"
		return g
	}
	g.Found = fmt.Sprintf("lost %s of %s in %d of %d played", thousands(lost), thousands(sent), len(ss), n)
	if again > 0 {
		g.Found += fmt.Sprintf(", %d arrived twice", again)
	}
	if len(bad) > 0 {
		g.Found += "; " + strings.Join(bad, ", ")
	}
	return g
}

func (r *Report) shortOutage() Guarantee {
	g := Guarantee{Text: fmt.Sprintf("power cut: first packet server to client within %s ms", thousands(outageLimitMS)), Met: true}
	ss := r.named("power-cut")
	if len(ss) == 0 {
		g.Met, g.Found = false, "not played"
	}
	for _, s := range ss {
		g.Met = g.Met && s.OutageMS > 0 && s.OutageMS <= outageLimitMS
		g.Found = s.outageText(s.OutageMS)
		if s.OutageUpMS != 0 {
			g.Found += ", client to server " + s.outageText(s.OutageUpMS)
		}
		if s.DetectionMS > 0 {
			g.Found += fmt.Sprintf(", of it detection %.0f ms", s.DetectionMS)
		}
	}
	for _, s := range r.named("power-cut-unshadowed") {
		g.Found += "; without shadowing " + s.OutageText()
	}
	return g
}

func (r *Report) noNewSession() Guarantee {
	return r.everyShadowed("with shadowing the client never sends IKE_SA_INIT again", func(s ReportScene) string {
		if s.ClientIKESAInits > 0 {
			return fmt.Sprintf("%d in %s", s.ClientIKESAInits, s.Title)
		}
		return ""
	})
}

func (r *Report) stateKept() Guarantee {
	return r.everyShadowed("with shadowing session and inner address stay", func(s ReportScene) string {
		if !s.SessionKept || !s.InnerAddressKept {
			return fmt.Sprintf("%s: session %s, inner address kept %t", s.Title, keptText(s.SessionKept), s.InnerAddressKept)
		}
		return ""
	})
}

// everyShadowed judges all scenes with shadowing by bad, which returns what is wrong.
func (r *Report) everyShadowed(text string, bad func(ReportScene) string) Guarantee {
	g := Guarantee{Text: text}
	n := 0
	var wrong []string
	for _, s := range r.Scenes {
		if !s.Shadowed {
			continue
		}
		n++
		if w := bad(s); w != "" {
			wrong = append(wrong, w)
		}
	}
	g.Met = n > 0 && len(wrong) == 0
	g.Found = strings.Join(wrong, ", ")
	switch {
	case n == 0:
		g.Found = "not played"
	case g.Met:
		g.Found = fmt.Sprintf("true of all %d scenes", n)
	}
	return g
}

// lives judges what the session still does after the power cut.
func (r *Report) lives() Guarantee {
	g := Guarantee{Text: "after the power cut the new owner answers DPD, child rekey and IKE rekey", Met: true}
	var found []string
	for _, name := range []string{"client-dpd", "client-child-rekey", "client-ike-rekey"} {
		word := "not played"
		for _, s := range r.named(name) {
			word = "yes"
			if !s.SessionKept {
				word = "no"
			}
		}
		g.Met = g.Met && word == "yes"
		found = append(found, strings.TrimPrefix(name, "client-")+" "+word)
	}
	g.Found = strings.Join(found, ", ")
	return g
}
