package node

import "time"

// backlog holds the children that charon was fed and the kernel does not have
// completely, oldest first. Every operation costs the same for one child as for
// a hundred thousand, because a snapshot makes each of them incomplete once.
type backlog struct {
	open     map[*twinChild]bool
	order    []waiting // entries of completed children are passed over
	progress time.Time // when a child was last completed
	// late are those of them that have failed to come once: a second attempt begins
	// their time anew and promises nothing.
	late map[*twinChild]bool
}

type waiting struct {
	c     *twinChild
	since time.Time
}

func newBacklog() backlog {
	return backlog{open: map[*twinChild]bool{}, progress: time.Now(), late: map[*twinChild]bool{}}
}

func (b *backlog) len() int { return len(b.open) }

func (b *backlog) add(c *twinChild, now time.Time) {
	if b.open[c] {
		return
	}
	b.open[c] = true
	c.since = now
	b.order = append(b.order, waiting{c, now})
}

func (b *backlog) remove(c *twinChild) {
	if b.open[c] {
		delete(b.open, c)
		delete(b.late, c)
		b.progress = time.Now()
	}
}

// age is how long the oldest child has been incomplete, 0 if none is.
func (b *backlog) age(now time.Time) time.Duration {
	for len(b.order) > 0 {
		w := b.order[0]
		if b.open[w.c] && w.c.since.Equal(w.since) {
			return now.Sub(w.since)
		}
		b.order = b.order[1:]
	}
	b.order = nil
	return 0
}

// missed marks all that are open as late.
func (b *backlog) missed() {
	for c := range b.open {
		b.late[c] = true
	}
}
