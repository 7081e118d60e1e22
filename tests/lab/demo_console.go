package lab

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// console tells somebody who watches what happens. Lines begin with the time since
// the demo began. What goes on meanwhile is one line that is rewritten on a
// terminal, and a plain line every plainEvery elsewhere.
type console struct {
	w     io.Writer
	live  bool
	began time.Time

	mu   sync.Mutex
	open bool // the rewritten line is on the screen
}

// How often progress is told.
const (
	liveEvery  = 250 * time.Millisecond
	plainEvery = 3 * time.Second
	liveWidth  = 79
)

// toStart goes back to the first column and clears the line. Not a carriage return:
// the console of user-mode Linux has its own idea of them.
const toStart = "\x1b[1G\x1b[K"

// print writes a line as it is.
func (c *console) print(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear()
	fmt.Fprintf(c.w, format+"\n", args...)
}

// say writes a line with the elapsed time.
func (c *console) say(format string, args ...any) {
	c.print("%s %s", c.stamp(), fmt.Sprintf(format, args...))
}

func (c *console) stamp() string {
	return fmt.Sprintf("[%5.1f s]", max(0, time.Since(c.began).Seconds()))
}

// clear takes the rewritten line away; mu is held.
func (c *console) clear() {
	if c.open {
		io.WriteString(c.w, toStart)
		c.open = false
	}
}

func (c *console) progress(text string) {
	line := c.stamp() + "   " + text
	if !c.live {
		c.print("%s", line)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear()
	io.WriteString(c.w, line[:min(len(line), liveWidth)])
	c.open = true
}

// during runs f and tells status while it lasts, also where f ends by Goexit.
func (c *console) during(status func() string, f func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	every := plainEvery
	if c.live {
		every = liveEvery
	}
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				c.progress(status())
			}
		}
	}()
	defer func() {
		close(stop)
		<-done
		c.mu.Lock()
		defer c.mu.Unlock()
		c.clear()
	}()
	f()
}

// waiting is a status without figures.
func waiting(what string) func() string {
	since := time.Now()
	return func() string { return fmt.Sprintf("%s (%.0f s)", what, time.Since(since).Seconds()) }
}

// traffic is a status with the packet counters since now, and how long it has been
// since something reached the client.
func traffic(s *Stream) func() string {
	base := s.counts()
	last, since := base.downGot, time.Now()
	return func() string {
		n := s.counts()
		if n.downGot != last {
			last, since = n.downGot, time.Now()
		}
		// What was under way at the beginning has been sent before it.
		of := func(got, sent int) string { return thousands(min(got, sent)) + "/" + thousands(sent) }
		text := fmt.Sprintf("up %s  down %s", of(n.upGot-base.upGot, n.upSent-base.upSent), of(n.downGot-base.downGot, n.downSent-base.downSent))
		if d := time.Since(since); d > 300*time.Millisecond {
			text += fmt.Sprintf("  SILENT %.1f s", d.Seconds())
		}
		return text
	}
}

// counts are a stream's totals.
type counts struct{ upSent, upGot, downSent, downGot int }

func (n counts) sent() int { return n.upSent + n.downSent }

// counts reads the totals without an account of each packet; what cannot be read is
// 0 here and an error in the account.
func (s *Stream) counts() counts {
	half := func(h *half) (sent, got int) {
		h.mu.Lock()
		sent = len(h.sent)
		h.mu.Unlock()
		got, _ = h.rx.received()
		return sent, got
	}
	var n counts
	n.upSent, n.upGot = half(&s.up)
	n.downSent, n.downGot = half(&s.down)
	return n
}

// arrivals are the packets received in [from, to) in steps of width, each way.
func (s *Stream) arrivals(from, to time.Time, width time.Duration) (up, down []int) {
	f, t := s.span(from, to)
	a, b := s.account(&s.up), s.account(&s.down)
	return a.arrivals(f, t, width), b.arrivals(f, t, width)
}

func (a *account) arrivals(from, to int64, width time.Duration) []int {
	if to <= from {
		return nil
	}
	n := make([]int, (to-from+int64(width)-1)/int64(width))
	for _, g := range a.got {
		if g.At != 0 && g.At >= from && g.At < to {
			n[(g.At-from)/int64(width)]++
		}
	}
	return n
}

// thousands writes n with commas.
func thousands(n int) string {
	s := fmt.Sprint(n)
	neg := strings.HasPrefix(s, "-")
	s = strings.TrimPrefix(s, "-")
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if neg {
		s = "-" + s
	}
	return s
}
