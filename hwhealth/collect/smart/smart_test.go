package smart

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
)

var testTime = time.Unix(1700000000, 0)

func checkSamples(t testing.TB, name string, r *Report) map[hwhealth.Signal]hwhealth.Sample {
	t.Helper()
	out := map[hwhealth.Signal]hwhealth.Sample{}
	for _, s := range r.Samples("smartctl", hwhealth.Device{Class: r.Class(), Serial: "S1"}, testTime) {
		if err := s.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		out[s.Signal] = s
	}
	return out
}

// Every dump parses, and its figures are those that a look at the text alone
// gives.
func TestDumps(t *testing.T) {
	dumps, nvme, ata, failed, media, silent := 0, 0, 0, 0, 0, 0
	corpus(t, "enterprise_snapshots/smartctl_dumps.tar.gz", func(name string, b []byte) {
		if !strings.Contains(name, "/dumps/") && !strings.HasPrefix(name, "dumps/") {
			return
		}
		dumps++
		text := string(b)
		r, err := ParseText(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if !r.Says() {
			silent++
		}
		got := checkSamples(t, name, r)
		switch r.Kind {
		case NVMe:
			nvme++
			if r.Health.MediaErrors > 0 {
				media++
			}
			if math.IsNaN(r.Health.Spare) || math.IsNaN(r.Health.Used) || math.IsNaN(r.Health.MediaErrors) {
				t.Errorf("%s: health log is incomplete: %+v", name, *r.Health)
			}
			if want := grep(text, "Critical Warning:", "0x00") == 1; want != (r.Health.CriticalWarning == 0) {
				t.Errorf("%s: critical warning %#x", name, r.Health.CriticalWarning)
			}
		case ATA:
			ata++
			if want := grep(text, "   NOW  ") + grep(text, "FAILING_NOW"); want > 0 {
				now := 0
				for _, a := range r.Attributes {
					if a.FailedNow {
						now++
					}
				}
				if now != want {
					t.Errorf("%s: %d attributes fail now, want %d", name, now, want)
				}
			}
			if got[hwhealth.SignalSMART(9)].Missing || len(r.Attributes) < 3 {
				t.Errorf("%s: only %d attributes", name, len(r.Attributes))
			}
		default:
			t.Errorf("%s: kind %q", name, r.Kind)
		}
		if want := grep(text, "self-assessment test result: FAILED") == 1; want != (r.Passed == 0) {
			t.Errorf("%s: passed %v", name, r.Passed)
		} else if want {
			failed++
		}
	})
	if dumps != 465 || nvme != 218 || ata != 247 || failed != 186 || silent != 0 {
		t.Errorf("%d dumps: %d NVMe, %d ATA, %d failed, %d say nothing; want 465: 218, 247, 186, 0", dumps, nvme, ata, failed, silent)
	}
	t.Logf("%d dumps: %d NVMe (%d with media errors), %d ATA, %d with a failed verdict", dumps, nvme, media, ata, failed)
}

// Every JSON document of the fixtures is read, or is one that is no drive's.
func TestDocuments(t *testing.T) {
	kinds := map[Kind]int{}
	scans, unversioned := 0, 0
	each := func(name string, b []byte) {
		if !strings.HasSuffix(name, ".json") {
			return
		}
		if strings.Contains(name, "_scan_") {
			scans++
			found, err := ParseScan(b)
			if err != nil || len(found) == 0 {
				t.Errorf("%s: %d devices, %v", name, len(found), err)
			}
			return
		}
		r, err := ParseJSON(b)
		if !bytes.Contains(b, []byte("json_format_version")) {
			unversioned++ // cut by hand: refused, with the reason
			if err == nil || !strings.Contains(err.Error(), "format version") {
				t.Errorf("%s has no format version: %v", name, err)
			}
			return
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		kinds[r.Kind]++
		got := checkSamples(t, name, r)
		var plain map[string]any
		if err := json.Unmarshal(b, &plain); err != nil {
			t.Fatal(err)
		}
		if st, ok := plain["smart_status"].(map[string]any); ok && st["passed"] != nil {
			if (st["passed"] == true) != (r.Passed == 1) {
				t.Errorf("%s: passed is %v, document says %v", name, r.Passed, st["passed"])
			}
		}
		if table, ok := plain["ata_smart_attributes"].(map[string]any); ok {
			for _, row := range table["table"].([]any) {
				row := row.(map[string]any)
				sig := hwhealth.SignalSMART(int(row["id"].(float64)))
				if want := row["raw"].(map[string]any)["value"].(float64); got[sig].Value != want {
					t.Errorf("%s: %s is %v, want %v", name, sig, got[sig].Value, want)
				}
			}
		}
		if log, ok := plain["nvme_smart_health_information_log"].(map[string]any); ok {
			if got[hwhealth.NVMeMediaErrors].Value != log["media_errors"].(float64) ||
				got[hwhealth.NVMeUsed].Value != log["percentage_used"].(float64) {
				t.Errorf("%s: NVMe figures %v", name, got)
			}
		}
	}
	corpus(t, "fixtures/smartctl_exporter_testdata.tar.gz", each)
	corpus(t, "fixtures/scrutiny_testdata.tar.gz", each)
	if kinds[ATA] < 100 || kinds[NVMe] < 50 || kinds[SCSI] < 4 || scans != 3 || unversioned != 3 {
		t.Errorf("documents by kind %v, %d scans, %d without a version; want at least 100 ATA, 50 NVMe, 4 SCSI, and 3, 3", kinds, scans, unversioned)
	}
	t.Logf("documents: %v, scans %d, refused without a format version %d", kinds, scans, unversioned)
}

// Corrupted copies of real documents are refused or understood, never wrong.
func TestCorruptedDocuments(t *testing.T) {
	refused, read := 0, 0
	corpus(t, "fixtures/smartctl_exporter_testdata.tar.gz", func(name string, b []byte) {
		if !strings.HasSuffix(name, ".json") {
			return
		}
		for _, edit := range []func([]byte) []byte{
			func(b []byte) []byte { return b[:len(b)/2] },
			func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`"value": `), []byte(`"value": -`)) },
			func(b []byte) []byte {
				return bytes.ReplaceAll(b, []byte(`"current": `), []byte(`"current": -128e3, "x": `))
			},
			func(b []byte) []byte {
				return bytes.ReplaceAll(b, []byte(`"media_errors": `), []byte(`"media_errors": 4e38, "x": `))
			},
			func(b []byte) []byte {
				return bytes.ReplaceAll(b, []byte(`"json_format_version": [`), []byte(`"json_format_version": [2,`))
			},
			func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`:`), []byte(`;`)) },
		} {
			r, err := ParseJSON(edit(bytes.Clone(b)))
			if err != nil {
				refused++
				continue
			}
			read++
			for sig, s := range checkSamples(t, name, r) {
				if sig == hwhealth.DiskTemperature && !s.Missing && (s.Value < -40 || s.Value > 150) {
					t.Errorf("%s: temperature %v went through", name, s.Value)
				}
				if s.Kind == hwhealth.Counter && s.Value < 0 {
					t.Errorf("%s: negative counter %s", name, sig)
				}
			}
		}
	})
	if refused == 0 || read == 0 {
		t.Errorf("%d refused, %d read: the corruptions do not bite", refused, read)
	}
}

func TestPackedCounterStaysRaw(t *testing.T) {
	r, err := ParseJSON([]byte(`{"json_format_version":[1,0],"smartctl":{"exit_status":0},"device":{"protocol":"ATA"},
		"ata_smart_attributes":{"table":[{"id":188,"name":"Command_Timeout","value":100,"thresh":0,"when_failed":"","raw":{"value":4295032833}}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	got := checkSamples(t, "188", r)
	if v := got[hwhealth.SignalSMART(188)].Value; v != 4295032833 {
		t.Errorf("188 is %v, want the raw 4295032833: unpacking is the predictor's", v)
	}
	if !got[hwhealth.DiskPassed].Missing {
		t.Errorf("no verdict in the document, but the sample says %v", got[hwhealth.DiskPassed])
	}
}

func TestExitStatus(t *testing.T) {
	r, err := ParseJSON([]byte(`{"json_format_version":[1,0],"smartctl":{"exit_status":2,"messages":[{"string":"/dev/sdz: Unable to detect device type"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	got := checkSamples(t, "open failed", r)[hwhealth.DiskPassed]
	if !got.Missing || !strings.Contains(got.Why, "open failed") || !strings.Contains(got.Why, "Unable to detect") {
		t.Errorf("got %+v, want missing with smartctl's own words", got)
	}
	if s := (ExitFailing | ExitErrorLog).String(); s != "disk failing, errors logged" {
		t.Errorf("exit bits in words: %q", s)
	}
	for _, doc := range []string{`{}`, `[]`, `{"json_format_version":[1,0],"smartctl":{}}`, `{"json_format_version":[1,0],"smartctl":{"exit_status":999}}`,
		`{"json_format_version":[1,0],"smartctl":{"exit_status":0}}`, `{"json_format_version":[1,0],"smartctl":{"exit_status":0},"device":{"protocol":"IDE"}}`} {
		if _, err := ParseJSON([]byte(doc)); err == nil {
			t.Errorf("%s was accepted", doc)
		}
	}
}

func TestLogPage(t *testing.T) {
	b := make([]byte, LogSize)
	b[0], b[1], b[2], b[3], b[4], b[5] = 0x04, 0x4d, 0x01, 9, 10, 120 // 333 K
	b[128], b[160], b[176], b[192], b[196] = 100, 3, 7, 5, 2
	r, err := ParseLog(b)
	if err != nil {
		t.Fatal(err)
	}
	got := checkSamples(t, "log", r)
	for sig, want := range map[hwhealth.Signal]float64{
		hwhealth.NVMeCriticalWarning: 4, hwhealth.DiskTemperature: 60, hwhealth.NVMeSpare: 9, hwhealth.NVMeSpareThreshold: 10,
		hwhealth.NVMeUsed: 120, hwhealth.DiskPowerOnHours: 100, hwhealth.NVMeMediaErrors: 3, hwhealth.NVMeErrorLog: 7,
		hwhealth.NVMeWarningTempTime: 5, hwhealth.NVMeCritTempTime: 2, hwhealth.DiskSolid: 1,
	} {
		if got[sig].Value != want || got[sig].Missing {
			t.Errorf("%s is %+v, want %v", sig, got[sig], want)
		}
	}
	if _, err := ParseLog(bytes.Repeat([]byte{0xff}, LogSize)); err == nil {
		t.Error("a controller that answers with ones was believed")
	}
	if _, err := ParseLog(b[:100]); err == nil {
		t.Error("a short page was accepted")
	}
}

func FuzzParseJSON(f *testing.F) {
	f.Add([]byte(`{"json_format_version":[1,0],"smartctl":{"exit_status":0},"device":{"protocol":"NVMe"},"nvme_smart_health_information_log":{"critical_warning":0,"media_errors":1}}`))
	f.Add([]byte(`{"json_format_version":[1,0],"smartctl":{"exit_status":4},"device":{"protocol":"SCSI"},"scsi_grown_defect_list":3,"temperature":{"current":300}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseJSON(b); err == nil {
			checkSamples(t, "fuzz", r)
		}
		_, _ = ParseScan(b)
	})
}

func FuzzParseText(f *testing.F) {
	f.Add("smartctl 7.1\n  5 Reallocated_Sector_Ct   PO--CK   100   100   005    -    2\n194 Temperature_Celsius     -O----   176   176   000    NOW    34 (Min/Max 23/38)\n")
	f.Add("smartctl 6.6\n  9 Power_On_Hours          0x0032   087   087   000    Old_age   Always       -       92350h+12m\n")
	f.Add("smartctl 7.4\nSMART/Health Information (NVMe Log 0x02)\nCritical Warning:  0x04\nAvailable Spare: 100%\nData Units Read: 1,234 [1 TB]\n")
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParseText(s); err == nil {
			checkSamples(t, "fuzz", r)
		}
	})
}

func FuzzParseLog(f *testing.F) {
	f.Add(make([]byte, LogSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseLog(b); err == nil {
			checkSamples(t, "fuzz", r)
		}
	})
}
