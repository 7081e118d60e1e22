package sim

import "testing"

func BenchmarkRun(b *testing.B) {
	events := 0
	for i := range b.N {
		events += Run(NewPlan(int64(i)), false).Steps
	}
	b.ReportMetric(float64(events)/float64(b.N), "events/op")
}
