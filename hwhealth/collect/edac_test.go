package collect

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
)

var edacLines = []struct {
	text string
	want CorrectedError
}{
	{"EDAC MC0: 1 CE memory read error on CPU_SrcID#0_MC#0_Chan#1_DIMM#0 (channel:1 slot:0 page:0x2fc49 offset:0xa80 grain:32 syndrome:0x0 -  err_code:0x0101:0x0091  ProcessorSocketId:0x0 MemoryControllerId:0x0 PhysicalRankId:0x1 Row:0xac59 Column:0x3d8 Bank:0x2 BankGroup:0x1)",
		CorrectedError{"mc0", "CPU_SrcID#0_MC#0_Chan#1_DIMM#0", "physicalrankid:0x1 row:0xac59 bank:0x2 bankgroup:0x1"}},
	{"EDAC MC1: 3 CE memory scrubbing error on CPU_SrcID#1_MC#0_Chan#0_DIMM#1 (channel:0 slot:1 page:0x1 offset:0x0 grain:32 syndrome:0x0 -  err_code:0x0008:0x00c0 socket:1 imc:0 rank:0 bg:3 ba:1 row:0x4d col:0x10)",
		CorrectedError{"mc1", "CPU_SrcID#1_MC#0_Chan#0_DIMM#1", "rank:0 bg:3 ba:1 row:0x4d"}},
}

func TestCorrectedErrorsInTheKernelLog(t *testing.T) {
	for _, c := range edacLines {
		if got, ok := ParseCorrectedError(c.text); !ok || got != c.want {
			t.Errorf("%q is %+v (%v), want %+v", c.text, got, ok, c.want)
		}
	}
	for _, text := range []string{
		"", "EDAC MC0: Giving out device to module skx_edac", // no error
		"EDAC MC0: 1 UE memory read error on DIMM_A1 (channel:0 row:0x1)", // not corrected
		"EDAC MC0: 1 CE memory read error on CPU_SrcID#0_Ha#0_Chan#0_DIMM#0 (channel:0 slot:0 page:0x1 offset:0x0 grain:32 syndrome:0x0 -  area:DRAM err_code:0001:0090 socket:0 ha:0 channel_mask:1 rank:0)", // row unknown
	} {
		if got, ok := ParseCorrectedError(text); ok {
			t.Errorf("%q is %+v, want nothing", text, got)
		}
	}
}

// Rows are counted per DIMM, each once; a label of several DIMMs blames none, and
// what a user wrote is not heard.
func TestRowsWithErrorsAreCounted(t *testing.T) {
	r := roots(t)
	for _, n := range []string{"dimm0", "dimm1"} {
		write(t, filepath.Join(r.Sys, "devices/system/edac/mc/mc0", n, "dimm_label"), "LABEL#"+n+"\n")
	}
	k := &kernelLog{roots: r, now: func() time.Time { return at }}
	line := func(label, row string) string {
		return "EDAC MC0: 1 CE memory read error on " + label + " (channel:0 slot:0 page:0x1 offset:0x0 grain:32 syndrome:0x0 -  err_code:0x1:0x1 rank:0 bg:0 ba:0 row:" + row + " col:0x1)"
	}
	for i, c := range []struct {
		facility int
		text     string
		dimm     string // "" is nothing
		rows     float64
	}{
		{0, line("LABEL#dimm0", "0x1"), "mc0/dimm0", 1},
		{0, line("LABEL#dimm0", "0x1"), "mc0/dimm0", 1},
		{0, line("LABEL#dimm0", "0x2"), "mc0/dimm0", 2},
		{0, line("LABEL#dimm1", "0x3"), "mc0/dimm1", 1},
		{0, line("LABEL#dimm0 or LABEL#dimm1", "0x4"), "", 0},
		{1, line("LABEL#dimm0", "0x5"), "", 0},
	} {
		s, ok := k.tell(Record{Facility: c.facility, Text: c.text})
		if ok != (c.dimm != "") || ok && (s.Device.Serial != c.dimm || s.Value != c.rows || s.Signal != hwhealth.MemoryRows || s.Check() != nil) {
			t.Errorf("line %d: %+v (%v), want %v rows of %q", i, s, ok, c.rows, c.dimm)
		}
	}
	for i := range 2 * maxPlaces {
		k.tell(Record{Text: line("LABEL#dimm1", "0xf"+itoa(i))})
	}
	if n := len(k.rows["memory/mc0/dimm1"]); n != maxPlaces {
		t.Errorf("%d rows are remembered, want %d at most", n, maxPlaces)
	}
}
