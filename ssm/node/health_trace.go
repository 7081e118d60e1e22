package node

import (
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/trace"
)

// traceRetry is how long a trace that cannot be written is left alone.
const traceRetry = time.Minute

// tracer records what the collectors say where the configuration asks for it
// (health.trace). A nil one records nothing.
type tracer struct {
	a        *Appliance
	recorder *trace.Recorder
	failed   string // why, as it was told
	retry    time.Time
}

func newTracer(a *Appliance, boot string, policy hwhealth.Policy) *tracer {
	if a.cfg.Health.Trace == "" {
		return nil
	}
	return &tracer{a: a, recorder: trace.NewRecorder(a.cfg.Health.Trace, a.cfg.Node, boot, policy)}
}

// write records samples. A failure costs the record, not the prediction, and is
// told once.
func (t *tracer) write(samples []hwhealth.Sample, now time.Time) {
	if t == nil || now.Before(t.retry) {
		return
	}
	err := t.recorder.Write(samples)
	if err == nil {
		t.failed = ""
		return
	}
	t.retry = now.Add(traceRetry)
	if err.Error() != t.failed {
		t.failed = err.Error()
		t.a.problem(0, "record the health trace", err)
	}
}

func (t *tracer) close() {
	if t != nil {
		t.a.problem(0, "close the health trace", t.recorder.Close())
	}
}
