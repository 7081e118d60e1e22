package collect

import (
	"fmt"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect/sysfs"
)

// batch gathers what one reading of one source says.
type batch struct {
	source string
	now    time.Time
	out    []hwhealth.Sample
}

func newBatch(source string, now time.Time) *batch { return &batch{source: source, now: now} }

// put adds a value.
func (b *batch) put(d hwhealth.Device, sig hwhealth.Signal, v float64) {
	b.out = append(b.out, hwhealth.Of(b.source, d, sig, v, b.now))
}

// limited adds a value with the part's own limits.
func (b *batch) limited(d hwhealth.Device, sig hwhealth.Signal, v float64, l hwhealth.Limits) {
	s := hwhealth.Of(b.source, d, sig, v, b.now)
	s.Limits = l
	b.out = append(b.out, s)
}

// event adds something that happened once, in words.
func (b *batch) event(d hwhealth.Device, sig hwhealth.Signal, n float64, why string) {
	s := hwhealth.Of(b.source, d, sig, n, b.now)
	s.Why = why
	b.out = append(b.out, s)
}

// missing says that a value could not be read.
func (b *batch) missing(d hwhealth.Device, sig hwhealth.Signal, format string, args ...any) {
	b.out = append(b.out, hwhealth.MissingOf(b.source, d, sig, fmt.Sprintf(format, args...), b.now))
}

// counter adds the running total in a file; a file that the source does not
// offer is no sample, one that cannot be understood is missing.
func (b *batch) counter(d hwhealth.Device, sig hwhealth.Signal, dir sysfs.Dir, parts ...string) {
	v, err := dir.Uint(parts...)
	switch {
	case err == nil:
		b.put(d, sig, float64(v))
	case !sysfs.Absent(err):
		b.missing(d, sig, "%v", err)
	}
}

// sum adds the sum of several totals of which at least one is offered. One
// that cannot be read makes the sum missing: part of a total looks like a reset.
func (b *batch) sum(d hwhealth.Device, sig hwhealth.Signal, dir sysfs.Dir, names ...string) {
	total, found := uint64(0), false
	for _, n := range names {
		v, err := dir.Uint(n)
		switch {
		case err == nil:
			total, found = total+v, true
		case !sysfs.Absent(err):
			b.missing(d, sig, "%v", err)
			return
		}
	}
	if found {
		b.put(d, sig, float64(total))
	}
}

// roster remembers which devices a source has shown, so that one that
// vanishes is told: once as gone in every reading until it is back.
type roster struct {
	seen map[string]hwhealth.Device
	gone map[string]bool
}

// call compares the devices of a reading that worked with those before. A part
// in whose slot there is another one was replaced, and is not missed.
func (r *roster) call(b *batch, now map[string]hwhealth.Device) {
	if r.seen == nil {
		r.seen, r.gone = map[string]hwhealth.Device{}, map[string]bool{}
	}
	slots := map[string]bool{}
	for _, d := range now {
		if s := d.Slot(); s != "" {
			slots[s] = true
		}
	}
	for key, d := range r.seen {
		if _, ok := now[key]; !ok {
			if slots[d.Slot()] {
				delete(r.seen, key)
				delete(r.gone, key)
				continue
			}
			r.gone[key] = true
			b.out = append(b.out, b.goneSample(d))
		}
	}
	for key, d := range now {
		r.seen[key] = d
		if r.gone[key] {
			delete(r.gone, key)
			b.put(d, hwhealth.Gone, 0)
		}
	}
}

func (b *batch) goneSample(d hwhealth.Device) hwhealth.Sample {
	s := hwhealth.Of(b.source, d, hwhealth.Gone, 1, b.now)
	s.Why = "vanished from " + b.source
	return s
}
