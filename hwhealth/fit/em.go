package fit

import "math"

// moment is one look at a drive: which terms held, when.
type moment struct {
	hour  float64
	terms []uint16
	// until is the hour of the next look; band and base index the pace band
	// and the base bin of the moment.
	until float64
	band  int
	base  int
}

// subject is a drive as the fit sees it.
type subject struct {
	failed  bool
	last    float64
	fold    int
	vendor  string
	moments []moment
}

// judged is how many of the moments count: those from which an alarm would
// have come 24 h before the end.
func (s *subject) judged() int {
	n := len(s.moments)
	for n > 0 && (s.moments[n-1].hour > s.last || s.failed && s.moments[n-1].hour > s.last-24) {
		n--
	}
	return n
}

func sum(terms []uint16, w []float64) float64 {
	s := 0.0
	for _, k := range terms {
		s += w[k]
	}
	return s
}

// worst is the moment with the largest L, and that L; ok is false where none
// counts.
func (s *subject) worst(w []float64) (m *moment, l float64, ok bool) {
	best := -1.0
	for i, n := 0, s.judged(); i < n; i++ {
		if v := sum(s.moments[i].terms, w); v > best {
			best, m = v, &s.moments[i]
		}
	}
	return m, best, m != nil
}

// estimate is the outcome of one fit.
type estimate struct {
	hazard []float64
	drives []int // judged with the term
	failed []int
	silent float64 // hazard of a drive with no term at all
}

// em fits hazards of n terms to the drives.
func em(drives []*subject, n int, o Options) estimate {
	e := estimate{hazard: make([]float64, n), silent: 1e-3}
	for i := range e.hazard {
		e.hazard[i] = .01
	}
	at := make([]*moment, len(drives))
	share, judged := make([]float64, n), make([]float64, n)
	for it := range o.Iterations {
		for i := range share {
			share[i], judged[i] = 0, 0
		}
		silentShare, all := 0.0, 0.0
		for i, d := range drives {
			if it < 10 || it%3 == 0 {
				at[i], _, _ = d.worst(e.hazard)
			}
			m := at[i]
			if m == nil {
				continue
			}
			all++
			for _, k := range m.terms {
				judged[k]++
			}
			if !d.failed {
				continue
			}
			// Given that it failed, the expected number of causes is
			// L / (1 - exp(-L)), of which each term has its share.
			g := 1 / -math.Expm1(-(sum(m.terms, e.hazard) + e.silent))
			for _, k := range m.terms {
				share[k] += g
			}
			silentShare += g
		}
		for i := range e.hazard {
			if judged[i] > 0 {
				e.hazard[i] = math.Max(e.hazard[i]*share[i]/(judged[i]+o.Sparsity), 1e-7)
			} else {
				e.hazard[i] = 0
			}
		}
		e.silent *= silentShare / math.Max(all, 1)
	}
	e.drives, e.failed = make([]int, n), make([]int, n)
	for i, d := range drives {
		if at[i] == nil {
			continue
		}
		for _, k := range at[i].terms {
			e.drives[k]++
			if d.failed {
				e.failed[k]++
			}
		}
	}
	for i, v := range e.hazard {
		if v < o.Least {
			e.hazard[i] = 0
		}
	}
	return e
}
