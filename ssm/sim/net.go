package sim

import (
	"time"

	"github.com/shadowcast/shadowcast/ssm"
)

// timed is something that happens at a moment. Those of one moment happen in the
// order in which they were arranged.
type timed struct {
	at  time.Duration
	seq uint64
	do  func()
}

// agenda is a binary heap, the next to happen first. container/heap would box every
// entry; this is where a campaign spends its time.
type agenda []timed

func (a agenda) before(i, j int) bool {
	return a[i].at < a[j].at || a[i].at == a[j].at && a[i].seq < a[j].seq
}

func (a *agenda) push(x timed) {
	*a = append(*a, x)
	h := *a
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.before(i, up) {
			break
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
}

func (a *agenda) pop() timed {
	h := *a
	x, last := h[0], len(h)-1
	h[0], h[last] = h[last], timed{}
	h = h[:last]
	*a = h
	for i := 0; ; {
		down := 2*i + 1
		if down+1 < last && h.before(down+1, down) {
			down++
		}
		if down >= last || !h.before(down, i) {
			return x
		}
		h[i], h[down] = h[down], h[i]
		i = down
	}
}

func (w *World) after(d time.Duration, do func()) {
	w.seq++
	w.agenda.push(timed{w.now + d, w.seq, do})
}

// latency of one datagram: mostly a few milliseconds, now and then long enough to
// arrive behind later ones.
func (w *World) latency() time.Duration {
	d := time.Duration(1+w.rng.Intn(8)) * time.Millisecond
	if w.rng.Intn(40) == 0 {
		d += time.Duration(w.rng.Intn(150)) * time.Millisecond
	}
	return d
}

func (w *World) connected(from, to *node) bool { return !w.cut[from.index*len(w.nodes)+to.index] }

// send carries a message between cores.
func (w *World) send(from *node, x ssm.ActSend) {
	to := w.byName[x.To]
	if to == nil || w.rng.Float64() < w.loss {
		return
	}
	copies := 1
	if w.rng.Intn(60) == 0 {
		copies = 2
	}
	for range copies {
		w.after(w.latency(), func() {
			// A datagram that is under way when a cable is cut is lost as well.
			if w.connected(from, to) {
				to.post(ssm.EvMessage{From: from.name, Msg: x.Msg})
			}
		})
	}
}

func (w *World) cutOneWay(from, to *node) { w.cut[from.index*len(w.nodes)+to.index] = from != to }

// split leaves only nodes of one side with each other. In half of the cases BGP
// goes the same way, so that each side sees the other's liveness routes vanish.
func (w *World) split(side func(*node) int) {
	routes := w.rng.Intn(2) == 0
	for _, a := range w.nodes {
		for _, b := range w.nodes {
			if side(a) != side(b) {
				w.cutOneWay(a, b)
				if routes {
					w.route(b, a, false, 150*time.Millisecond)
				}
			}
		}
	}
}

func (w *World) heal() {
	clear(w.cut)
	w.loss = 0
	for _, a := range w.nodes {
		for _, b := range w.nodes {
			if a != b && a.machine {
				w.route(b, a, true, 100*time.Millisecond)
			}
		}
	}
}

// route tells to whether it has the liveness route of n.
func (w *World) route(to, n *node, up bool, delay time.Duration) {
	w.after(delay, func() {
		if up && !n.daemon {
			return
		}
		to.routes[n.index] = up
		to.post(ssm.EvLiveness{Node: n.name, Up: up})
	})
}

// routeOf tells everybody.
func (w *World) routeOf(n *node, up bool) {
	for _, o := range w.nodes {
		if o != n {
			w.route(o, n, up, time.Duration(80+w.rng.Intn(120))*time.Millisecond)
		}
	}
}
