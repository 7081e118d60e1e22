package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/replica"
	"github.com/shadowcast/shadowcast/ssm/session"
)

const (
	// gatherWithin bounds how long an owner waits for sessions that others hold. Until
	// then it feeds no shadow.
	gatherWithin = 2 * time.Second
	// askAgain paces questions to a shadow that does not know of our ticket yet.
	askAgain = 50 * time.Millisecond
)

// fetch reads every session that from holds of a slot.
type fetch func(ctx context.Context, from replica.Shadow, put func(replica.Change) error) error

// gathered is what the shadows of a slot hold of it.
type gathered struct {
	docs     []*session.Document // the newest of each session, by session
	answered []string            // who told all it has
	silent   []string            // who did not, and why
	bad      int                 // documents that cannot be used
	problem  error               // the first of them
}

// who says who answered and who did not.
func (g gathered) who() string {
	s := "nobody"
	if len(g.answered) > 0 {
		s = strings.Join(g.answered, ", ")
	}
	if len(g.silent) > 0 {
		s += "; not from " + strings.Join(g.silent, ", ")
	}
	return s
}

// gather asks shadows of slot n for its sessions and returns at once when all have
// answered, else when ctx ends: what comes later is not counted. run runs the questions
// and waits for them.
func gather(ctx context.Context, n sa.Slot, from []replica.Shadow, ask fetch, run func(func() error)) gathered {
	var mu sync.Mutex
	var g gathered
	over := false
	left := len(from)
	all := make(chan struct{})
	if left == 0 {
		close(all)
	}
	why := map[string]string{}
	put := func(c replica.Change) error {
		d, err := session.Unpack(c.Doc)
		switch {
		case err != nil:
			err = fmt.Errorf("read session %s: %w", c.ID, err)
		case d.SessionID != c.ID || d.Slot != n:
			err = fmt.Errorf("session %s comes in a document of session %s, slot %d", c.ID, d.SessionID, d.Slot)
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case over:
			return context.DeadlineExceeded
		case err != nil:
			// The other sessions are no worse for it.
			if g.bad++; g.problem == nil {
				g.problem = err
			}
		case len(g.docs) >= len(from)*replica.MaxSessions:
			return fmt.Errorf("more than %d sessions", replica.MaxSessions)
		default:
			g.docs = append(g.docs, d)
		}
		return nil
	}
	for _, s := range from {
		run(func() error {
			err := askUntil(ctx, s, ask, put, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				why[s.Name] = err.Error()
			})
			mu.Lock()
			defer mu.Unlock()
			if over {
				return nil
			}
			if err == nil {
				g.answered = append(g.answered, s.Name)
			}
			if left--; left == 0 {
				close(all)
			}
			return nil
		})
	}
	select {
	case <-all:
	case <-ctx.Done():
	}
	mu.Lock()
	defer mu.Unlock()
	over = true
	slices.Sort(g.answered)
	for _, s := range from {
		if slices.Contains(g.answered, s.Name) {
			continue
		}
		reason := why[s.Name]
		if reason == "" {
			reason = "no answer in time"
		}
		g.silent = append(g.silent, s.Name+" ("+reason+")")
	}
	g.docs = session.Newest(g.docs)
	return g
}

// askUntil asks again where the shadow may not have heard of our claim yet. failed gets
// every reason but the end of ctx.
func askUntil(ctx context.Context, from replica.Shadow, ask fetch, put func(replica.Change) error, failed func(error)) error {
	for {
		err := ask(ctx, from, put)
		if err != nil && ctx.Err() == nil {
			failed(err)
		}
		if c := status.Code(err); c != codes.PermissionDenied && c != codes.Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(askAgain):
		}
	}
}

// fetcher asks as the owner of slot n by ticket t.
func (a *Appliance) fetcher(n sa.Slot, t sa.Ticket) fetch {
	cfg := replica.FetchConfig{Slot: n, Ticket: t, Self: a.cfg.Node, Incarnation: a.incarnation, TLS: a.identity.ClientTLS, PeerName: pki.PeerName}
	return func(ctx context.Context, from replica.Shadow, put func(replica.Change) error) error {
		_, err := replica.Fetch(ctx, cfg, from, put)
		if status.Code(err) == codes.InvalidArgument {
			// It runs the release before, in the middle of an upgrade.
			older := cfg
			older.Version = replica.MinProtocolVersion
			var oerr error
			if _, oerr = replica.Fetch(ctx, older, from, put); oerr == nil {
				return nil
			}
			err = errors.Join(err, oerr)
		}
		return err
	}
}

// refilling is the time in which an owner waits for sessions that others hold.
type refilling struct {
	// restarted: charon holds the sessions and this daemon lost its memory of them.
	// What charon and its clients say meanwhile is digested afterwards.
	restarted bool
	inst      *charon.Instance // that holds them
	later     []func()
	heard     map[heardKey]session.Header // the furthest of each direction
	overflow  int                         // of later
}

func newReadBack(inst *charon.Instance) *refilling {
	return &refilling{restarted: true, inst: inst, heard: map[heardKey]session.Header{}}
}

type heardKey struct {
	ike      sa.IKEID
	response bool
}

// laterMost bounds what waits for the sessions it is about: many times what charon
// says in gatherWithin.
const laterMost = 1 << 16

// postpone keeps f until the sessions that it is about are here, and reports whether it
// does.
func (r *slotRuntime) postpone(f func()) bool {
	x := r.refill
	if x == nil || !x.restarted {
		return false
	}
	if len(x.later) >= laterMost {
		x.overflow++
	} else {
		x.later = append(x.later, f)
	}
	return true
}

func (x *refilling) hear(h session.Header) {
	k := heardKey{h.ID, h.Response}
	if old, ok := x.heard[k]; ok && old.MsgID >= h.MsgID || len(x.heard) >= laterMost {
		return
	}
	x.heard[k] = h
}

// gatherSessions asks for the sessions of the slot and hands them to then in this
// runtime's goroutine, unless the tenure has ended before.
func (r *slotRuntime) gatherSessions(from []ssm.Node, then func(gathered)) {
	x, pub := r.refill, r.pub
	shadows, ask := r.shadows(from), r.a.fetcher(r.n, r.ticket)
	r.group.Go(func() error {
		ctx, cancel := context.WithTimeout(r.ctx, gatherWithin)
		defer cancel()
		g := gather(ctx, r.n, shadows, ask, r.group.Go)
		r.do(func() {
			if r.refill == x && r.pub == pub {
				then(g)
			}
		})
		return nil
	})
}
