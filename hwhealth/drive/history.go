package drive

import "math"

// Attrs are the SMART attributes that a history follows, in the order of its
// columns: reallocated, spin retry, reported uncorrectable, command timeout,
// high fly writes, reallocation events, pending, offline uncorrectable.
var Attrs = [...]int{5, 10, 187, 188, 189, 196, 197, 198}

const nAttrs = len(Attrs)

// counted are the columns that the counting terms look at: 5, 187, 188, 197, 198.
var counted = [...]int{0, 2, 3, 6, 7}

// column188 is counted but tells of cables and hosts as well as of media.
const column188 = 3

// Values are raw SMART values, NaN where the drive does not report one.
type Values [nAttrs]float64

// NoValues has no attribute reported.
func NoValues() Values {
	var v Values
	for i := range v {
		v[i] = math.NaN()
	}
	return v
}

// Column is the index of attribute id in Values, -1 if it is not followed.
func Column(id int) int {
	for i, a := range Attrs {
		if a == id {
			return i
		}
	}
	return -1
}

// How an attribute came to be above zero.
const (
	notYet   uint8 = iota // it never was
	fromSeen              // it was when it was first read; since when is unknown
	watched               // it became so under our eyes
)

// never is a time before every drive's life; finite, so that JSON carries it.
const never = -1e9

// column is the history of one attribute. Times are hours.
type column struct {
	Seen     bool    `json:"seen,omitempty"`
	Value    float64 `json:"value,omitempty"`
	Peak     float64 `json:"peak,omitempty"`
	GrewAt   float64 `json:"grew_at"`             // last increase, or never
	Jump     float64 `json:"jump,omitempty"`      // size of the last increase
	Times    float64 `json:"times,omitempty"`     // increases seen
	Nonzero  uint8   `json:"nonzero,omitempty"`   // notYet, fromSeen, watched
	Since    float64 `json:"since,omitempty"`     // hour of the first increase from zero, if watched
	FellBack bool    `json:"fell_back,omitempty"` // was >= fellFrom and went to 0
}

const fellFrom = 8.0

// History is everything that is remembered of a drive.
type History struct {
	Columns [nAttrs]column `json:"columns"`
	At      float64        `json:"at"` // hour of the newest observation
	AgeKnow bool           `json:"age_known"`
}

// NewHistory starts a history. ageKnown says that hours count from the drive's
// first power-on; otherwise the terms on age never hold.
func NewHistory(ageKnown bool) *History {
	h := &History{At: never, AgeKnow: ageKnown}
	for i := range h.Columns {
		h.Columns[i].GrewAt = never
	}
	return h
}

// Observe takes the values of one reading at hour t. An hour before the newest
// one counts as that one: a clock that went back makes nothing older.
func (h *History) Observe(t float64, v Values) {
	t = math.Max(t, h.At)
	h.At = t
	for i := range v {
		if math.IsNaN(v[i]) || v[i] < 0 || math.IsInf(v[i], 0) {
			continue
		}
		h.Columns[i].observe(t, clean(i, v[i]))
	}
}

// clean takes the low 16 bits of 188: Seagate packs three counters into it.
func clean(col int, v float64) float64 {
	if Attrs[col] == 188 && v < 1<<53 {
		return float64(uint64(v) & 0xffff)
	}
	return v
}

func (c *column) observe(t, v float64) {
	if !c.Seen {
		c.Seen, c.Value, c.Peak = true, v, v
		if v > 0 {
			c.Nonzero = fromSeen
		}
		return
	}
	if v > c.Value {
		c.Jump = v - c.Value
		c.GrewAt = t
		c.Times++
		if c.Nonzero == notYet {
			c.Nonzero, c.Since = watched, t
		}
	}
	if v == 0 && c.Value >= fellFrom {
		c.FellBack = true
	}
	c.Value = v
	c.Peak = math.Max(c.Peak, v)
}

// NewestGrowth is the hour of the newest increase of a counted attribute, and
// whether there was one.
func (h *History) NewestGrowth() (float64, bool) {
	at := never
	for _, i := range counted {
		at = math.Max(at, h.Columns[i].GrewAt)
	}
	return at, at > never
}

// Shift moves the history by so many hours and makes them the drive's age: the
// power-on hours became known after the first reading.
func (h *History) Shift(hours float64) {
	h.AgeKnow = true
	move := func(t *float64) {
		if *t > never {
			*t = math.Max(*t+hours, never)
		}
	}
	move(&h.At)
	for i := range h.Columns {
		c := &h.Columns[i]
		move(&c.GrewAt)
		if c.Nonzero == watched {
			move(&c.Since)
		}
	}
}
