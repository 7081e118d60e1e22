package fit

import "github.com/shadowcast/shadowcast/hwhealth/drive"

// The grid of candidate terms. Levels double, so that any monotone step
// function of a counter can be built from them.
var (
	levels    = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384}
	growDays  = []float64{1.5, 7.5, 30, 90}
	times     = []float64{1, 2, 3, 5, 8, 12, 20}
	jumps     = []float64{2, 8, 32, 128, 512}
	newDays   = []float64{30, 90, 365.25}
	ages      = []float64{0, .25, 1, 2, 3, 4, 0}
	fromModel = []float64{1, 8, 64}
	five      = []int{5, 187, 188, 197, 198}
)

// candidates lists every term that the fit may use for drives of groups;
// recalled are the models of which more drives failed than lived.
func candidates(groups []string, recalled map[string]bool) []drive.Term {
	var out []drive.Term
	add := func(t drive.Term) { out = append(out, t) }
	each := func(k drive.Kind, a int, ns []float64) {
		for _, n := range ns {
			add(drive.Term{Kind: k, A: a, N: n})
		}
	}
	for _, a := range drive.Attrs {
		if a == 189 { // high fly writes: common on healthy drives, no use alone
			continue
		}
		each(drive.KindLevel, a, levels)
		each(drive.KindGrew, a, growDays)
		each(drive.KindTimes, a, times)
		each(drive.KindJump, a, jumps)
		each(drive.KindNew, a, newDays)
		add(drive.Term{Kind: drive.KindOld, A: a})
		if a == 197 || a == 198 { // the only ones that go down
			each(drive.KindPeak, a, levels)
			add(drive.Term{Kind: drive.KindFell, A: a})
		}
	}
	for n := 2.0; n <= 5; n++ {
		for _, k := range []drive.Kind{drive.KindNonzero, drive.KindGrown, drive.KindGrown7, drive.KindGrown30, drive.KindGrown90} {
			add(drive.Term{Kind: k, N: n})
		}
	}
	for i, a := range five {
		for _, b := range five[i+1:] {
			add(drive.Term{Kind: drive.KindBoth, A: a, B: b})
			add(drive.Term{Kind: drive.KindBothGrew, A: a, B: b})
		}
	}
	for _, g := range groups {
		for _, a := range five {
			for _, n := range fromModel {
				add(drive.Term{Group: g, Kind: drive.KindPeak, A: a, N: n})
			}
			add(drive.Term{Group: g, Kind: drive.KindTimes, A: a, N: 1})
		}
		add(drive.Term{Group: g, Kind: drive.KindEvidence})
		add(drive.Term{Group: g, Kind: drive.KindMedia})
		for i := 0; i+1 < len(ages); i++ {
			add(drive.Term{Group: g, Kind: drive.KindEvidenceAge, N: ages[i], To: ages[i+1]})
			add(drive.Term{Group: g, Kind: drive.KindMediaAge, N: ages[i], To: ages[i+1]})
		}
		if recalled[g] {
			add(drive.Term{Group: g, Kind: drive.KindModel})
		}
	}
	return out
}
