package drive

import (
	"fmt"
	"strconv"
)

// Term is one condition on a drive's history, and as such one entry of the
// hazard table. A term with a Group counts only for drives of that model or
// vendor.
type Term struct {
	Group string  `json:"group,omitempty"`
	Kind  Kind    `json:"kind"`
	A     int     `json:"attr,omitempty"`
	B     int     `json:"attr2,omitempty"`
	N     float64 `json:"n,omitempty"`  // threshold, count, days or years
	To    float64 `json:"to,omitempty"` // upper bound of an age in years; 0 is none
}

// Kind says which condition a term is.
type Kind string

// The kinds. "The five" are 5, 187, 188, 197 and 198; "media" means all of
// them but 188, which also tells of cables and hosts.
const (
	KindLevel       Kind = "level"        // A is N or more
	KindPeak        Kind = "peak"         // A was N or more at some time
	KindFell        Kind = "fell"         // A was 8 or more and went back to 0
	KindGrew        Kind = "grew"         // A increased within N days
	KindTimes       Kind = "times"        // A was seen to increase N times or more
	KindJump        Kind = "jump"         // A's newest increase was N or more, within 30 days
	KindNew         Kind = "new"          // A left zero within N days
	KindOld         Kind = "old"          // A was above zero when it was first read
	KindNonzero     Kind = "nonzero"      // N of the five were ever above zero
	KindGrown       Kind = "grown"        // N of the five were seen to increase
	KindGrown7      Kind = "grown7"       // N of the five increased within 7.5 days
	KindGrown30     Kind = "grown30"      // ... 30 days
	KindGrown90     Kind = "grown90"      // ... 90 days
	KindBoth        Kind = "both"         // A and B were ever above zero
	KindBothGrew    Kind = "both-grew"    // A and B increased within 30 days
	KindEvidence    Kind = "evidence"     // one of the five was ever above zero
	KindMedia       Kind = "media"        // one of the media attributes was
	KindEvidenceAge Kind = "evidence-age" // evidence at N to To years of age
	KindMediaAge    Kind = "media-age"    // media evidence at N to To years
	KindModel       Kind = "model"        // always: what is known of the model alone
)

// String is the term for people.
func (t Term) String() string {
	s := t.condition()
	if t.Group != "" {
		return t.Group + ": " + s
	}
	return s
}

func (t Term) condition() string {
	n := strconv.FormatFloat(t.N, 'g', -1, 64)
	years := n + "+ years"
	if t.To > 0 {
		years = n + "-" + strconv.FormatFloat(t.To, 'g', -1, 64) + " years"
	}
	switch t.Kind {
	case KindLevel:
		return fmt.Sprintf("%d >= %s", t.A, n)
	case KindPeak:
		return fmt.Sprintf("%d reached %s", t.A, n)
	case KindFell:
		return fmt.Sprintf("%d fell back to 0", t.A)
	case KindGrew:
		return fmt.Sprintf("%d grew within %s d", t.A, n)
	case KindTimes:
		return fmt.Sprintf("%d grew %s times", t.A, n)
	case KindJump:
		return fmt.Sprintf("%d jumped by %s", t.A, n)
	case KindNew:
		return fmt.Sprintf("%d first seen within %s d", t.A, n)
	case KindOld:
		return fmt.Sprintf("%d nonzero from the start", t.A)
	case KindNonzero:
		return n + " of 5 nonzero"
	case KindGrown:
		return n + " of 5 grew"
	case KindGrown7:
		return n + " of 5 grew within 7.5 d"
	case KindGrown30:
		return n + " of 5 grew within 30 d"
	case KindGrown90:
		return n + " of 5 grew within 90 d"
	case KindBoth:
		return fmt.Sprintf("%d and %d", t.A, t.B)
	case KindBothGrew:
		return fmt.Sprintf("%d and %d grew within 30 d", t.A, t.B)
	case KindEvidence:
		return "any evidence"
	case KindMedia:
		return "any media evidence"
	case KindEvidenceAge:
		return "evidence at " + years
	case KindMediaAge:
		return "media evidence at " + years
	case KindModel:
		return "this model"
	}
	return string(t.Kind)
}

// check reports a term that means nothing.
func (t Term) check() error {
	one, two := false, false
	switch t.Kind {
	case KindLevel, KindPeak, KindFell, KindGrew, KindTimes, KindJump, KindNew, KindOld:
		one = true
	case KindBoth, KindBothGrew:
		one, two = true, true
	case KindNonzero, KindGrown, KindGrown7, KindGrown30, KindGrown90, KindEvidence, KindMedia, KindEvidenceAge, KindMediaAge:
	case KindModel:
		if t.Group == "" {
			return fmt.Errorf("a term of kind model needs a group")
		}
	default:
		return fmt.Errorf("kind %q is none of the table's", t.Kind)
	}
	if one && Column(t.A) < 0 || two && Column(t.B) < 0 {
		return fmt.Errorf("%s: attributes %d, %d are not among %v", t.Kind, t.A, t.B, Attrs)
	}
	if t.N < 0 {
		return fmt.Errorf("%s: n is %v, it cannot be negative", t.Kind, t.N)
	}
	return nil
}

// The windows and bounds of the terms: hours for the code, days in the table.
const (
	day     = 24.0
	year    = 8766.0
	jumpFor = 30 * day
)

// compiled is a term ready to be asked often.
type compiled struct {
	kind   Kind
	code   uint8
	a, b   int
	n, to  float64
	hazard float64
	term   int // index in the table
}

// codes turn kinds into small numbers for the switch of holds.
var codes = map[Kind]uint8{
	KindLevel: 1, KindPeak: 2, KindFell: 3, KindGrew: 4, KindTimes: 5, KindJump: 6, KindNew: 7, KindOld: 8,
	KindNonzero: 9, KindGrown: 10, KindGrown7: 11, KindGrown30: 12, KindGrown90: 13, KindBoth: 14, KindBothGrew: 15,
	KindEvidence: 16, KindMedia: 17, KindEvidenceAge: 18, KindMediaAge: 19, KindModel: 20,
}

func compile(t Term, hazard float64, index int) compiled {
	c := compiled{kind: t.Kind, code: codes[t.Kind], n: t.N, to: t.To, hazard: hazard, term: index}
	if t.A != 0 {
		c.a = Column(t.A)
	}
	if t.B != 0 {
		c.b = Column(t.B)
	}
	switch t.Kind {
	case KindGrew, KindNew:
		c.n *= day
	case KindEvidenceAge, KindMediaAge:
		c.n *= year
		c.to *= year
	}
	return c
}

// tally are the counts that several terms ask for.
type tally struct {
	nonzero, grown, grown7, grown30, grown90 float64
	media                                    bool
}

func (h *History) tally(t float64) (y tally) {
	for _, i := range counted {
		c := &h.Columns[i]
		if c.Peak > 0 {
			y.nonzero++
			y.media = y.media || i != column188
		}
		if c.Times > 0 {
			y.grown++
			age := t - c.GrewAt
			if age <= 90*day {
				y.grown90++
				if age <= 30*day {
					y.grown30++
					if age <= 7.5*day {
						y.grown7++
					}
				}
			}
		}
	}
	return y
}

// holds reports whether the term holds at hour t; y is the tally at t.
func (c *compiled) holds(h *History, y *tally, t float64) bool {
	a := &h.Columns[c.a]
	switch c.code {
	case 1:
		return a.Value >= c.n
	case 2:
		return a.Peak >= c.n
	case 3:
		return a.FellBack
	case 4:
		return a.Times > 0 && t-a.GrewAt <= c.n
	case 5:
		return a.Times >= c.n
	case 6:
		return a.Jump >= c.n && t-a.GrewAt <= jumpFor
	case 7:
		return a.Nonzero == watched && a.Value > 0 && t-a.Since <= c.n
	case 8:
		return a.Nonzero == fromSeen && a.Value > 0
	case 9:
		return y.nonzero >= c.n
	case 10:
		return y.grown >= c.n
	case 11:
		return y.grown7 >= c.n
	case 12:
		return y.grown30 >= c.n
	case 13:
		return y.grown90 >= c.n
	case 14:
		return a.Peak > 0 && h.Columns[c.b].Peak > 0
	case 15:
		b := &h.Columns[c.b]
		return a.Times > 0 && b.Times > 0 && t-a.GrewAt <= jumpFor && t-b.GrewAt <= jumpFor
	case 16:
		return y.nonzero > 0
	case 17:
		return y.media
	case 18:
		return y.nonzero > 0 && h.aged(t, c.n, c.to)
	case 19:
		return y.media && h.aged(t, c.n, c.to)
	}
	return true // model
}

// aged reports whether the drive is from to hours old at hour t.
func (h *History) aged(t, from, to float64) bool {
	return h.AgeKnow && t >= from && (to == 0 || t < to)
}
