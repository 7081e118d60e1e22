package node

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/ssm/lease"
	"github.com/shadowcast/shadowcast/ssm/peer"
)

// leaseKind is the datagram kind of the upgrade lock: a leaseMessage in JSON.
const leaseKind peer.Kind = 2

const (
	leaseRepeat   = 200 * time.Millisecond // between two requests to a registrar that has not answered
	leasePatience = 3 * time.Second
)

type leaseMessage struct {
	Request *lease.Request `json:"q,omitempty"`
	Answer  *lease.Answer  `json:"a,omitempty"`
}

// upgradeLock is this appliance's part of the fleet-wide lock: its vote, if it is a
// registrar, and what it holds itself. Both survive a reboot.
type upgradeLock struct {
	a     *Appliance
	calls sync.Mutex // one request at a time

	mu     sync.Mutex
	voter  *lease.Voter
	broken error // the vote could not be read: this registrar abstains
	tally  *lease.Tally
	asked  string // token and operation of the request under way
	heard  chan struct{}
}

// held is the lock that this appliance holds.
type held struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

func newUpgradeLock(a *Appliance) *upgradeLock {
	u := &upgradeLock{a: a, heard: make(chan struct{}, 1)}
	var p lease.Promise
	u.broken = readJSON(u.file("upgrade-vote"), &p)
	u.voter = lease.NewVoter(p)
	if u.broken != nil {
		a.problem(0, "read this registrar's vote for the upgrade lock", u.broken)
	}
	return u
}

func (u *upgradeLock) file(name string) string {
	return filepath.Join(u.a.cfg.StateDir, name+".json")
}

// readJSON reads path into v; a file that does not exist leaves v alone.
func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFile(path, b, true)
}

// vote answers a request as a registrar. What is promised is on disk first.
func (u *upgradeLock) vote(r lease.Request) (lease.Answer, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := r.Validate(); err != nil {
		return lease.Answer{}, err
	}
	if u.broken != nil {
		return lease.Answer{}, u.broken
	}
	before := u.voter.Promise()
	a, changed := u.voter.Ask(r, time.Now())
	if changed {
		if err := writeJSON(u.file("upgrade-vote"), u.voter.Promise()); err != nil {
			u.voter = lease.NewVoter(before)
			return lease.Answer{}, err
		}
	}
	return a, nil
}

// fromPeer takes a datagram of another appliance.
func (u *upgradeLock) fromPeer(from string, payload []byte) {
	var m leaseMessage
	if err := json.Unmarshal(payload, &m); err != nil {
		u.a.problem(0, "read a message of "+from, err)
		return
	}
	switch {
	case m.Request != nil && slices.Contains(u.a.cfg.Fleet.Registrars, u.a.cfg.Node):
		a, err := u.vote(*m.Request)
		if err != nil {
			u.a.problem(0, "vote on the upgrade lock for "+from, err)
			return
		}
		u.send(from, leaseMessage{Answer: &a})
	case m.Answer != nil:
		u.mu.Lock()
		if u.tally != nil && u.asked == m.Answer.Token+string(m.Answer.Op) {
			u.tally.Add(from, *m.Answer)
		}
		u.mu.Unlock()
		select {
		case u.heard <- struct{}{}:
		default:
		}
	}
}

func (u *upgradeLock) send(to string, m leaseMessage) {
	b, err := json.Marshal(m)
	if err == nil {
		err = u.a.peers.Send(to, leaseKind, b)
	}
	if err != nil {
		u.a.log.Debug("send", "peer", to, "kind", "upgrade lock", "err", err)
	}
}

// ask puts r to every registrar and returns what they said, as soon as enough is
// content or everybody answered or patience ends.
func (u *upgradeLock) ask(ctx context.Context, r lease.Request, enough func(*lease.Tally) bool) (*lease.Tally, error) {
	if err := r.Validate(); err != nil {
		return nil, operator.Invalid("UPGRADE_LOCK_INVALID", "%v", err)
	}
	regs := u.a.cfg.Fleet.Registrars
	t := lease.NewTally(regs)
	u.mu.Lock()
	u.tally, u.asked = t, r.Token+string(r.Op)
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		u.tally = nil
		u.mu.Unlock()
	}()
	if slices.Contains(regs, u.a.cfg.Node) {
		a, err := u.vote(r)
		if err != nil {
			u.a.problem(0, "vote on the upgrade lock", err)
		} else {
			u.mu.Lock()
			t.Add(u.a.cfg.Node, a)
			u.mu.Unlock()
		}
	}
	ctx, cancel := context.WithTimeout(ctx, leasePatience)
	defer cancel()
	again := time.NewTicker(leaseRepeat)
	defer again.Stop()
	for {
		u.mu.Lock()
		done := t.Complete() || enough(t)
		var missing []string
		for _, n := range regs {
			if _, ok := t.Answers()[n]; !ok && n != u.a.cfg.Node {
				missing = append(missing, n)
			}
		}
		u.mu.Unlock()
		if done {
			return t, nil
		}
		for _, n := range missing {
			u.send(n, leaseMessage{Request: &r})
		}
		select {
		case <-ctx.Done():
			return t, nil
		case <-again.C:
		case <-u.heard:
		}
	}
}

// Acquire takes or prolongs the lock.
func (u *upgradeLock) Acquire(ctx context.Context, ttl time.Duration, reason string) (*v1.UpgradeLock, error) {
	u.calls.Lock()
	defer u.calls.Unlock()
	var h held
	if err := readJSON(u.file("upgrade-lock"), &h); err != nil {
		return nil, err
	}
	began := time.Now()
	if h.Token == "" || !began.Before(h.Expires) {
		h = held{Token: rand.Text()}
	}
	r := lease.Request{Op: lease.OpAsk, Token: h.Token, Holder: u.a.cfg.Node, Reason: reason, TTL: ttl}
	if err := r.Validate(); err != nil {
		return nil, operator.Invalid("UPGRADE_LOCK_INVALID", "%v", err)
	}
	// Written before it is asked for: a holder that dies can always give it back. An
	// earlier promise that ends later counts until then, whatever becomes of this one.
	until := began.Add(ttl)
	if h.Expires.After(until) {
		until = h.Expires
	}
	if err := writeJSON(u.file("upgrade-lock"), held{h.Token, until}); err != nil {
		return nil, err
	}
	t, err := u.ask(ctx, r, func(t *lease.Tally) bool { return t.Won() || t.Lost() })
	if err != nil {
		return nil, err
	}
	if t.Won() {
		if err := writeJSON(u.file("upgrade-lock"), held{h.Token, began.Add(ttl)}); err != nil {
			return nil, err
		}
		u.a.events.Add(Entry{Kind: "upgrade-lock", Text: u.a.cfg.Node + " holds the upgrade lock for " + ttl.String(), Reason: reason})
		return u.show(ctx)
	}
	if h.Expires.IsZero() || t.Lost() { // what some promised must not wait for its end
		if _, err := u.ask(ctx, lease.Request{Op: lease.OpRelease, Token: h.Token}, (*lease.Tally).Complete); err != nil {
			return nil, err
		}
		if err := os.Remove(u.file("upgrade-lock")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("forget the upgrade lock: %w", err)
		}
	}
	for _, a := range t.Answers() {
		if a.Holder != "" && a.Holder != u.a.cfg.Node {
			return nil, operator.Refused("UPGRADE_LOCK_HELD", "%s holds the upgrade lock for another %s (%s)", a.Holder, a.Left.Round(time.Second), a.Reason).With("holder", a.Holder)
		}
	}
	return nil, operator.Refused("UPGRADE_LOCK_NO_MAJORITY", "%d of %d registrars answered, %d are needed: %v", len(t.Answers()), len(u.a.cfg.Fleet.Registrars), t.Majority(), u.a.cfg.Fleet.Registrars)
}

// Release gives the lock back.
func (u *upgradeLock) Release(ctx context.Context) (*v1.UpgradeLock, error) {
	u.calls.Lock()
	defer u.calls.Unlock()
	var h held
	if err := readJSON(u.file("upgrade-lock"), &h); err != nil {
		return nil, err
	}
	if h.Token == "" || !time.Now().Before(h.Expires) {
		return nil, operator.Refused("UPGRADE_LOCK_NOT_HELD", "%s does not hold the upgrade lock", u.a.cfg.Node)
	}
	t, err := u.ask(ctx, lease.Request{Op: lease.OpRelease, Token: h.Token}, (*lease.Tally).Complete)
	if err != nil {
		return nil, err
	}
	if !t.Won() {
		return nil, operator.Refused("UPGRADE_LOCK_NO_MAJORITY", "%d of %d registrars answered, %d are needed; try again, it ends by itself at %s", len(t.Answers()),
			len(u.a.cfg.Fleet.Registrars), t.Majority(), h.Expires.Format(time.RFC3339))
	}
	if err := os.Remove(u.file("upgrade-lock")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("forget the upgrade lock: %w", err)
	}
	u.a.events.Add(Entry{Kind: "upgrade-lock", Text: u.a.cfg.Node + " gave the upgrade lock back"})
	return u.show(ctx)
}

// Show tells who holds the lock.
func (u *upgradeLock) Show(ctx context.Context) (*v1.UpgradeLock, error) {
	u.calls.Lock()
	defer u.calls.Unlock()
	return u.show(ctx)
}

func (u *upgradeLock) show(ctx context.Context) (*v1.UpgradeLock, error) {
	t, err := u.ask(ctx, lease.Request{Op: lease.OpLook, Token: rand.Text()}, (*lease.Tally).Complete)
	if err != nil {
		return nil, err
	}
	out := &v1.UpgradeLock{}
	if name, reason, left, ok := t.Holder(); ok {
		out.Holder, out.Reason, out.Left = name, reason, durationpb.New(left)
	}
	for _, n := range u.a.cfg.Fleet.Registrars {
		a, heard := t.Answers()[n]
		v := &v1.UpgradeLockVote{Registrar: n, Silent: !heard, Holder: a.Holder}
		if a.Holder != "" {
			v.Left = durationpb.New(a.Left)
		}
		out.Votes = append(out.Votes, v)
	}
	return out, nil
}
