package collect

import (
	"math"
	"strings"
	"testing"
)

// Every parser of small texts: none may crash, and a number that one gives is
// a number.
func FuzzTexts(f *testing.F) {
	for _, s := range []string{"8.0 GT/s PCIe", "RxErr 3\nTOTAL_ERR_COR 7\n", "HardwareCorrupted:     4 kB\n", " THR: 4 1 Threshold\n", "0-3,8,10-11",
		"some avg10=0.1 avg60=2.0 avg300=3 total=1\nfull avg10=0 avg60=1 avg300=0 total=0\n", "XfrmInError 3\nXfrmOutError 1\n",
		"10 0 80 50 10 0 80 150 0 0 0 0 0 0 0 5 50", "4,1,5,-;nvme nvme0: I/O 12 QID 3 timeout, aborting", "0-99999999999",
		edacLines[0].text} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		finite := func(what string, v float64, err error) {
			if err == nil && (math.IsNaN(v) || math.IsInf(v, 0) || v < 0) {
				t.Errorf("%s of %q is %v", what, s, v)
			}
		}
		v, err := ParseLinkSpeed(s)
		finite("link speed", v, err)
		_, _ = ParseAER(s, "TOTAL_ERR_COR")
		v, _, err = ParseHardwareCorrupted(s)
		finite("corrupted memory", v, err)
		v, _ = ParseInterrupts(s, "THR")
		finite("interrupts", v, nil)
		if cpus, err := ParseCPUList(s); err == nil && len(cpus) > 2*maxCPU {
			t.Errorf("%q is %d processors", s, len(cpus))
		}
		for _, full := range []bool{true, false} {
			if v, err := ParsePressure(s, full); err == nil && !(v >= 0 && v <= 1) {
				t.Errorf("pressure of %q is %v", s, v)
			}
		}
		v, err = ParseXfrmStat(s)
		finite("xfrm errors", v, err)
		if st, err := ParseBlockStat(s); err == nil {
			if ms, ok := st.Await(BlockStat{}); ok {
				finite("await", ms, nil)
			}
		}
		if r, err := ParseRecord(s); err == nil && (r.Uptime < 0 || r.Facility < 0) {
			t.Errorf("record of %q is %+v", s, r)
		}
		_, _ = Match(s)
		if e, ok := ParseCorrectedError(s); ok && (e.Label == "" || !strings.Contains(e.Place, "row:")) {
			t.Errorf("%q is an error at %+v", s, e)
		}
	})
}

// Answers of the kernel by netlink.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte{12, 0, 5, 0x80, 8, 0, 2, 0, 1, 2, 3, 4})
	f.Add([]byte{8, 0, 1, 0, 'p', 'c', 'i', 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, u, _, _ := ParseFEC(b)
		if c < 0 || u < 0 {
			t.Errorf("FEC counters %v %v", c, u)
		}
		_, _ = ParseReporter(b)
		_, _ = eepromData(b)
	})
}
