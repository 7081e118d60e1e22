package ssm

import "time"

// pathTimes are the last round-trip times from here to clients of a slot, the newest
// first. A single one is no bound: on a busy machine the time that a measurement
// waits for the processor counts as the path's.
type pathTimes struct {
	best, worst [pathSamples]time.Duration
}

// pathSamples are the measurements of a quarter of a minute: the shell makes one in
// three seconds and one before each move.
const pathSamples = 5

// add notes the shortest and the longest answer of one measurement.
func (p *pathTimes) add(best, worst time.Duration) {
	copy(p.best[1:], p.best[:])
	copy(p.worst[1:], p.worst[:])
	p.best[0], p.worst[0] = best, max(best, worst)
}

// low is the path without queues, 0 if unknown.
func (p *pathTimes) low() time.Duration {
	low := p.best[0]
	for _, d := range p.best {
		if d > 0 && d < low {
			low = d
		}
	}
	return low
}

// high is the path with what queues added lately, 0 if unknown.
func (p *pathTimes) high() time.Duration {
	high := time.Duration(0)
	for _, d := range p.worst {
		high = max(high, d)
	}
	return high
}
