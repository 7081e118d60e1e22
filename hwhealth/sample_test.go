package hwhealth

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestSampleCheckNamesTheField(t *testing.T) {
	at := time.Unix(1000, 0)
	good := Of("smartctl", Device{Class: ClassDisk, Serial: "S1"}, DiskPassed, 1, at)
	if err := good.Check(); err != nil {
		t.Fatalf("a good sample: %v", err)
	}
	for _, c := range []struct {
		name string
		edit func(*Sample)
		want string
	}{
		{"no source", func(s *Sample) { s.Source = "" }, "source"},
		{"no serial", func(s *Sample) { s.Device.Serial = "" }, "serial"},
		{"no signal", func(s *Sample) { s.Signal = "" }, "signal"},
		{"no time", func(s *Sample) { s.At = time.Time{} }, "time"},
		{"NaN", func(s *Sample) { s.Value = math.NaN() }, "no number"},
		{"wrong kind", func(s *Sample) { s.Kind = Counter }, "kind"},
	} {
		s := good
		c.edit(&s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error about %q", c.name, err, c.want)
		}
	}
	missing := MissingOf("smartctl", good.Device, DiskPassed, "timed out", at)
	missing.Value = math.NaN()
	if err := missing.Check(); err != nil {
		t.Errorf("a missing value needs no number: %v", err)
	}
}

func TestSMARTSignalsRoundTrip(t *testing.T) {
	for _, id := range []int{1, 5, 197, 255} {
		if got, ok := SMARTID(SignalSMART(id)); !ok || got != id {
			t.Errorf("SMARTID(SignalSMART(%d)) = %d, %v", id, got, ok)
		}
	}
	for _, s := range []Signal{"disk.smart_", "disk.smart_0", "disk.smart_256", DiskPassed, Gone} {
		if id, ok := SMARTID(s); ok {
			t.Errorf("%s passes for attribute %d", s, id)
		}
	}
}

func TestEverySignalHasKindUnitAndHelp(t *testing.T) {
	for s, i := range Signals {
		if i.Unit == "" || i.Help == "" || (i.Kind != Level && i.Kind != Counter && i.Kind != Event) {
			t.Errorf("%s: %+v", s, i)
		}
	}
}
