package collect

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// corrected is one corrected error of a recorded DIMM.
type corrected struct{ at, rank, group, bank, row int64 }

// dimmSample reads the recorded DIMMs, errors in the order of time, and when those
// that failed did.
func dimmSample(t *testing.T) (dimms map[string][]corrected, failed map[string]time.Time) {
	t.Helper()
	f, err := os.Open(filepath.Join(dataDir, "dram_ce_sample/smartmem_sample.tar.gz"))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("missing capability: field data dram_ce_sample (see docs/health.md)")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	dimms, failed = map[string][]corrected{}, map[string]time.Time{}
	for tr := tar.NewReader(gz); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return dimms, failed
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		name := path.Base(h.Name)
		if sn, ok := strings.CutSuffix(name, ".feather"); ok {
			dimms[sn] = feather(t, b)
		}
		if name != "ticket.csv" {
			continue
		}
		rows, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows[1:] {
			sec, err := strconv.ParseInt(row[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			failed[row[0]] = time.Unix(sec, 0)
		}
	}
}

// feather reads one DIMM's log.
func feather(t *testing.T, b []byte) (out []corrected) {
	t.Helper()
	r, err := ipc.NewFileReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range r.NumRecords() {
		batch, err := r.RecordBatch(i)
		if err != nil {
			t.Fatal(err)
		}
		column := func(name string) *array.Int64 {
			for c := range batch.Columns() {
				if x, ok := batch.Column(c).(*array.Int64); ok && batch.ColumnName(c) == name {
					return x
				}
			}
			t.Fatalf("no column %s of 64-bit integers", name)
			return nil
		}
		at, rank, group, bank, row := column("LogTime"), column("RankId"), column("BankgroupId"), column("BankId"), column("RowId")
		for k := range int(batch.NumRows()) {
			out = append(out, corrected{at.Value(k), rank.Value(k), group.Value(k), bank.Value(k), row.Value(k)})
		}
	}
	slices.SortStableFunc(out, func(a, b corrected) int { return int(a.at - b.at) })
	return out
}

// catalogueSays is the gravest of the catalogue's M1 rules that holds at now after
// the first n errors, in that many rows: counted, without a model. factor allows for the predictor's
// memory, which is exact for the newest 64 increases.
func catalogueSays(log []corrected, n, rows int, now time.Time, factor float64) string {
	within := func(d time.Duration) float64 {
		k := 0
		for i := n - 1; i >= 0 && log[i].at >= now.Add(-d).Unix(); i-- {
			k++
		}
		if k > 64 {
			return factor * float64(k)
		}
		return float64(k)
	}
	switch day := within(24 * time.Hour); {
	case within(time.Hour) >= 1000:
		return "M1.storm"
	case day >= 100:
		return "M1.many"
	case rows >= 3:
		return "M1.rows"
	case day >= 10:
		return "M1.some"
	}
	return "M1.first"
}

// m1 are the hazards of the rules.
var m1 = map[string]float64{"M1.first": -math.Log1p(-.005), "M1.some": -math.Log1p(-.05), "M1.many": -math.Log1p(-.2), "M1.rows": -math.Log1p(-.2)}

// TestRecordedDIMMs plays recorded corrected errors of 14 DIMMs through EDAC's
// tree and the kernel log, the collectors and the predictor: after every reading
// the cause is the gravest rule that holds by a count of the errors.
func TestRecordedDIMMs(t *testing.T) {
	dimms, failed := dimmSample(t)
	// The gravest cause ever of the DIMMs that have a graver one than M1.first. Six
	// of the fourteen failed (an uncorrected error); of those two had two errors
	// before it, which is no more than healthy ones have.
	alarms := map[string]string{"sn_10692": "M1.rows", "sn_16171": "M1.rows", "sn_4191": "M1.some", "sn_7219": "M1.some", // failed
		"sn_10": "M1.some", "sn_8": "M1.many"} // did not, in seven months
	if len(dimms) != 14 || len(failed) != 836 {
		t.Fatalf("the sample has %d DIMMs and %d tickets, want 14 and 836", len(dimms), len(failed))
	}
	caught, tickets, wrong := 0, 0, 0
	for sn, log := range dimms {
		worst, alarm, when := replayDIMM(t, sn, log)
		ticket, isFailed := failed[sn]
		if want := cmp.Or(alarms[sn], "M1.first"); worst != want {
			t.Errorf("%s: the gravest cause is %q, want %q", sn, worst, want)
		}
		early := alarm != "" && when.Before(ticket)
		switch {
		case isFailed && early:
			caught++
		case !isFailed && alarm != "":
			wrong++
		}
		if isFailed {
			tickets++
		}
		lead := ""
		if isFailed && alarm != "" {
			lead = fmt.Sprintf(", %s before it failed", ticket.Sub(when))
		}
		t.Logf("%s: %d errors, gravest %s, alarm %q%s", sn, len(log), worst, alarm, lead)
	}
	if tickets != 6 || caught != 4 || wrong != 2 {
		t.Errorf("%d of %d failures had an alarm before, %d of the others; want 4 of 6, and 2", caught, tickets, wrong)
	}
}

// replayDIMM returns the rule of the largest hazard ever, and the first rule above
// M1.first and when it held.
func replayDIMM(t *testing.T, sn string, log []corrected) (worst, alarm string, when time.Time) {
	t.Helper()
	dir := scratch(t)
	r := Roots{Sys: filepath.Join(dir, "sys"), Proc: filepath.Join(dir, "proc"), Dev: filepath.Join(dir, "dev")}
	module := filepath.Join(r.Sys, "devices/system/edac/mc/mc0/dimm0")
	write(t, filepath.Join(module, "dimm_label"), sn+"\n")
	write(t, filepath.Join(module, "dimm_ce_count"), "0\n")
	now := time.Unix(log[0].at, 0).Add(-time.Minute)
	edac, p := &memory{roots: r}, hwhealth.New()
	kmsg := &kernelLog{roots: r, now: func() time.Time { return now }}
	read := func() {
		for _, s := range edac.read(context.Background(), now) {
			p.Observe(s, now)
		}
	}
	read()
	most, places := 0.0, map[corrected]bool{}
	for n := 0; n < len(log); {
		now = time.Unix(log[n].at, 0)
		for ; n < len(log) && log[n].at == now.Unix(); n++ {
			e := log[n]
			s, ok := kmsg.tell(Record{Text: fmt.Sprintf("EDAC MC0: 1 CE memory read error on %s (channel:0 slot:0 page:0x0 offset:0x0 grain:32 syndrome:0x0 -  err_code:0x0:0x0 PhysicalRankId:%#x Row:%#x Column:0x0 Bank:%#x BankGroup:%#x)", sn, e.rank, e.row, e.bank, e.group)})
			if !ok {
				t.Fatalf("%s: the kernel log does not tell error %d", sn, n)
			}
			p.Observe(s, now)
			e.at = 0
			places[e] = true
		}
		write(t, filepath.Join(module, "dimm_ce_count"), itoa(n)+"\n")
		read()
		now = now.Add(time.Second) // what is a level must be seen twice
		read()
		causes := p.Assess(now).Causes
		if len(causes) != 1 {
			t.Fatalf("%s, %d errors: %d causes, want the gravest of the DIMM's", sn, n, len(causes))
		}
		c := causes[0]
		least, largest := catalogueSays(log, n, len(places), now, .9), catalogueSays(log, n, len(places), now, 1.1)
		// What held before and fades may still be the gravest, nothing else.
		if c.Term != least && c.Term != largest && (c.Age == 0 || c.Hazard < m1[least]) {
			t.Errorf("%s, %d errors, %s: the cause is %s (hazard %.4f, age %s), by counting %s", sn, n, now.UTC(), c.Term, c.Hazard, c.Age, least)
			return worst, alarm, when
		}
		if c.Hazard > most {
			worst, most = c.Term, c.Hazard
		}
		if alarm == "" && c.Term != "M1.first" {
			alarm, when = c.Term, now
		}
	}
	return worst, alarm, when
}
