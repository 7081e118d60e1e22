package collect

import (
	"regexp"
	"strings"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect/sysfs"
)

// EDAC's counters do not say which row erred; the drivers of processors that can
// tell write it to the kernel log.
var (
	correctedError = regexp.MustCompile(`^EDAC (MC\d+): \d+ CE .*\bon (.+?) \(`)
	// errorPlace finds the rank, bank group, bank and row of both formats of the
	// Intel drivers: "rank:1 bg:2 ba:3 row:0x4d" and "PhysicalRankId:0x1 Row:0x4d ...".
	errorPlace = regexp.MustCompile(`\b(?:PhysicalRankId|BankGroup|Bank|Row|rank|bg|ba|row):(?:0x[0-9a-f]+|\d+)\b`)
)

// maxPlaces bounds the rows that are remembered of one DIMM.
const maxPlaces = 64

// CorrectedError is where a corrected memory error was.
type CorrectedError struct {
	Controller string // mc0
	Label      string // of the DIMM
	Place      string // rank, bank and row, as the driver writes them
}

// ParseCorrectedError reads EDAC's line of a corrected error. ok is false for
// other lines and for those of drivers that do not know the row.
func ParseCorrectedError(text string) (e CorrectedError, ok bool) {
	m := correctedError.FindStringSubmatch(text)
	if m == nil {
		return e, false
	}
	place := strings.ToLower(strings.Join(errorPlace.FindAllString(text, -1), " "))
	if !strings.Contains(place, "row:") {
		return e, false
	}
	return CorrectedError{strings.ToLower(m[1]), m[2], place}, true
}

// erredRows counts the distinct rows of each DIMM that had corrected errors since
// the daemon started.
type erredRows map[string]map[string]bool

// add notes e and returns the sample that follows; ok is false where the label
// belongs to no DIMM, which is so when the driver could only tell several.
func (r erredRows) add(roots Roots, e CorrectedError) (d hwhealth.Device, rows float64, ok bool) {
	dir := roots.sys("devices", "system", "edac", "mc", e.Controller)
	names, err := dir.List()
	if err != nil {
		return d, 0, false
	}
	for _, n := range names {
		kind, _, rest, isIndex := sysfs.Index(n)
		if !isIndex || rest != "" || kind != "dimm" && kind != "rank" {
			continue
		}
		if label, err := dir.Text(n, "dimm_label"); err != nil || label != e.Label {
			continue
		}
		d = dimm(e.Controller, n, e.Label)
		seen := r[d.Key()]
		if seen == nil {
			seen = map[string]bool{}
			r[d.Key()] = seen
		}
		if len(seen) < maxPlaces {
			seen[e.Place] = true
		}
		return d, float64(len(seen)), true
	}
	return d, 0, false
}

// dimm is the device of one module below a controller.
func dimm(controller, name, label string) hwhealth.Device {
	return hwhealth.Device{Class: hwhealth.ClassMemory, Serial: controller + "/" + name, Name: printable(label)}
}
