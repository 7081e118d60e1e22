// Package lease is the fleet-wide upgrade lock: at most one appliance holds it,
// so that upgrades go one at a time.
//
// The registrars vote. Each promises the lock to one holder for a limited time
// and keeps its promise over a reboot; whoever has the promises of a majority
// holds the lock, and two majorities share a registrar. Nothing waits for a
// registrar that is gone, and a holder that never comes back loses the lock when
// its time is over.
//
// The package is pure: it decides what a registrar promises and whether a request
// has won. It never sends, stores or reads a clock; ssm/node does that and calls
// it. Data flow: Request -> Voter.Ask at each registrar -> Answer -> Tally.
package lease

import (
	"errors"
	"fmt"
	"time"
)

// Bounds of the time that a lock is asked for.
const (
	MinTTL = time.Minute
	MaxTTL = 24 * time.Hour
)

// maxText bounds names and reasons that come from outside.
const maxText = 256

// Op is what a Request asks of a registrar. The strings are the wire format.
type Op string

// The operations.
const (
	OpAsk     Op = "ask"     // promise me the lock, or prolong it
	OpRelease Op = "release" // take the promise back
	OpLook    Op = "look"    // whom is it promised to?
)

// Request is what an appliance asks of a registrar. It may be lost and repeated.
type Request struct {
	Op     Op            `json:"op"`
	Token  string        `json:"t"` // names this holding of the lock; random
	Holder string        `json:"h,omitempty"`
	Reason string        `json:"r,omitempty"`
	TTL    time.Duration `json:"d,omitempty"`
}

// Validate reports what is wrong with r.
func (r Request) Validate() error {
	switch {
	case r.Op != OpAsk && r.Op != OpRelease && r.Op != OpLook:
		return fmt.Errorf("unknown operation %.32q, want ask, release or look", string(r.Op))
	case r.Token == "" || len(r.Token) > maxText:
		return errors.New("token is missing or too long")
	case r.Op != OpAsk:
		return nil
	case r.Holder == "" || len(r.Holder) > maxText || len(r.Reason) > maxText:
		return errors.New("holder is missing, or holder or reason too long")
	case r.TTL < MinTTL || r.TTL > MaxTTL:
		return fmt.Errorf("time %s, want %s to %s", r.TTL, MinTTL, MaxTTL)
	}
	return nil
}

// Promise is what a registrar has promised; the zero value is nothing.
type Promise struct {
	Token   string    `json:"token"`
	Holder  string    `json:"holder"`
	Reason  string    `json:"reason"`
	Expires time.Time `json:"expires"` // by the registrar's clock
}

// Answer is what a registrar says to a Request.
type Answer struct {
	Token   string        `json:"t"` // of the request
	Op      Op            `json:"op"`
	Granted bool          `json:"g,omitempty"`
	Holder  string        `json:"h,omitempty"` // of the promise as it is now, "" if none
	Reason  string        `json:"r,omitempty"`
	Left    time.Duration `json:"l,omitempty"` // of the promise
}

// Voter is one registrar's promise.
type Voter struct{ promise Promise }

// NewVoter goes on with what the registrar promised before it was restarted.
func NewVoter(p Promise) *Voter { return &Voter{p} }

// Promise returns what must be durable before an answer is sent.
func (v *Voter) Promise() Promise { return v.promise }

// Ask answers a valid request at the given time. changed says that the promise
// must be stored before the answer goes out.
func (v *Voter) Ask(r Request, now time.Time) (a Answer, changed bool) {
	if v.promise.Token != "" && !now.Before(v.promise.Expires) {
		v.promise, changed = Promise{}, true
	}
	switch {
	case r.Op == OpAsk && (v.promise.Token == "" || v.promise.Token == r.Token):
		v.promise, changed = Promise{r.Token, r.Holder, r.Reason, now.Add(r.TTL)}, true
		a.Granted = true
	case r.Op == OpRelease && v.promise.Token == r.Token:
		v.promise, changed = Promise{}, true
		a.Granted = true
	case r.Op == OpRelease:
		a.Granted = true // nothing to take back
	}
	a.Token, a.Op = r.Token, r.Op
	if v.promise.Token != "" {
		a.Holder, a.Reason, a.Left = v.promise.Holder, v.promise.Reason, v.promise.Expires.Sub(now)
	}
	return a, changed
}

// Tally counts the answers to one request.
type Tally struct {
	voters  map[string]bool
	answers map[string]Answer
}

// NewTally counts the answers of these registrars.
func NewTally(registrars []string) *Tally {
	t := &Tally{voters: map[string]bool{}, answers: map[string]Answer{}}
	for _, r := range registrars {
		t.voters[r] = true
	}
	return t
}

// Majority is how many registrars must agree.
func (t *Tally) Majority() int { return len(t.voters)/2 + 1 }

// Add takes the answer of a registrar; others and repetitions do not count.
func (t *Tally) Add(from string, a Answer) {
	if _, again := t.answers[from]; t.voters[from] && !again {
		t.answers[from] = a
	}
}

// Won reports whether a majority granted; Lost whether none can any more.
func (t *Tally) Won() bool { return t.granted() >= t.Majority() }

// Lost reports whether the outstanding answers cannot make a majority.
func (t *Tally) Lost() bool {
	return t.granted()+len(t.voters)-len(t.answers) < t.Majority()
}

// Complete reports whether every registrar has answered.
func (t *Tally) Complete() bool { return len(t.answers) == len(t.voters) }

func (t *Tally) granted() int {
	n := 0
	for _, a := range t.answers {
		if a.Granted {
			n++
		}
	}
	return n
}

// Answers returns what the registrars said.
func (t *Tally) Answers() map[string]Answer { return t.answers }

// Holder returns who holds the lock by the promises heard: the one that a majority
// names, with the shortest time that is left to it.
func (t *Tally) Holder() (name, reason string, left time.Duration, held bool) {
	count := map[string]int{}
	for _, a := range t.answers {
		if a.Holder != "" {
			count[a.Holder]++
		}
	}
	for h, n := range count {
		if n < t.Majority() {
			continue
		}
		for _, a := range t.answers {
			if a.Holder == h && (!held || a.Left < left) {
				name, reason, left, held = h, a.Reason, a.Left, true
			}
		}
	}
	return name, reason, left, held
}
