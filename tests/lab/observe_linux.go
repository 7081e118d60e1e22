package lab

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// Observation watches one client and its stream during one phase.
type Observation struct {
	Client *Client
	Stream *Stream
	from   time.Time
	fault  time.Time
	inner  netip.Addr
	marks  []Mark
	detect time.Duration
}

// bucketWidth is the step of the timelines in reports.
const bucketWidth = 20 * time.Millisecond

// Observe begins a phase now. The client must have a session.
func (l *Lab) Observe(c *Client, s *Stream) (*Observation, error) {
	inner, err := c.Inner()
	if err != nil {
		return nil, err
	}
	return &Observation{Client: c, Stream: s, from: time.Now(), inner: inner}, nil
}

// Fault says that the fault of this phase happened at t: outages count from it.
func (o *Observation) Fault(t time.Time, what string) {
	o.fault = t
	o.Mark(t, what)
}

// Mark adds a moment to the report.
func (o *Observation) Mark(t time.Time, what string) { o.marks = append(o.marks, Mark{t, what}) }

// Detected says when the fault was noticed.
func (o *Observation) Detected(t time.Time) {
	if !o.fault.IsZero() {
		o.detect = t.Sub(o.fault)
	}
	o.Mark(t, "detected")
}

// End ends the phase now, lets what is under way arrive, and returns the account.
func (o *Observation) End(ctx context.Context, name string) (Scene, error) {
	to := time.Now()
	select {
	case <-ctx.Done():
		return Scene{}, fmt.Errorf("observe %s: %w", name, context.Cause(ctx))
	case <-time.After(settle):
	}
	r := o.Stream.Report(o.from, to)
	s := Scene{
		Name: name, From: r.From, To: r.To, Sent: r.Sent(), Lost: r.Lost(), Up: r.Up, Down: r.Down,
		LateMS: r.LateMS, Events: o.marks, DetectionMS: ms(int64(o.detect)),
	}
	if r.Refused > 0 {
		s.Refused = fmt.Sprintf("; %d sends refused by the sender's kernel: %s", r.Refused, r.Error)
	}
	s.UpTimeline, s.DownTimeline = o.Stream.Timeline(o.from, to, bucketWidth)
	if !o.fault.IsZero() {
		up, down := o.Stream.Outage(o.fault)
		s.OutageUpMS, s.OutageMS = o.outageMS(up), o.outageMS(down)
	}
	acc, err := o.Client.IKE()
	if err != nil {
		return s, err
	}
	acc = acc.Since(o.from)
	s.ClientIKESAInits, s.IKE = acc.ClientInits(), acc.String()
	// No session is an outcome, not an error of the observation.
	inner, err := o.Client.Inner()
	s.SessionKept = err == nil && s.ClientIKESAInits == 0 && s.Lost < s.Sent
	s.InnerAddressKept = err == nil && inner == o.inner
	return s, nil
}

// outageMS is d in milliseconds; negative for ever.
func (o *Observation) outageMS(d time.Duration) float64 {
	if d < 0 {
		return -1
	}
	return ms(int64(d))
}
