package dnsupdate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Config is an Updater's.
type Config struct {
	Server string // host:port of the zone's primary
	Zone   string // fully qualified
	Key    Key
	TTL    time.Duration // of the names, whole seconds
	// Timeout bounds one exchange with the server; 2 s if 0.
	Timeout time.Duration
	// OnEvent is called from Run's goroutine and must not block; may be nil.
	OnEvent func(Event)
	// Now is the clock that signs; time.Now if nil.
	Now func() time.Time
}

// Kind says what happened to a name.
type Kind int

// Kinds of events.
const (
	Published  Kind = iota + 1 // the server has what is wanted
	Failed                     // it has not, and why; told again only when the reason changes
	Superseded                 // an appliance with a higher ticket has the name
)

// Event is something that happened to a name.
type Event struct {
	Kind   Kind
	Name   string
	Reason string
}

// Status is a name's state.
type Status struct {
	Name      string
	Want      Record
	Published bool
	Tries     int       // since it was wanted
	Problem   string    // of the last try
	Next      time.Time // of the next one
}

// Back-off of a name that failed, and how often one that did not is looked at again.
const (
	retryFirst  = time.Second
	retryMost   = time.Minute
	verifyEvery = 10 * time.Minute
	fudge       = 300 // seconds that clocks may differ (RFC 8945 section 10)
	conflicts   = 3   // times that a lost race is run again at once
)

// Updater keeps names. Its methods may be called from any goroutine.
type Updater struct {
	cfg  Config
	log  *slog.Logger
	ask  func(ctx context.Context, m *dns.Msg) (*dns.Msg, error)
	wake chan struct{}

	mu    sync.Mutex
	names map[string]*nameState
}

type nameState struct {
	Status
	told string // last reason that was told
}

// New checks c and returns an Updater that wants nothing yet.
func New(c Config, log *slog.Logger) (*Updater, error) {
	if _, _, err := net.SplitHostPort(c.Server); err != nil {
		return nil, fmt.Errorf("check dns update: server %q: %w", c.Server, err)
	}
	if _, ok := dns.IsDomainName(c.Zone); !ok || c.Zone == "" {
		return nil, fmt.Errorf("check dns update: zone %q is no domain name", c.Zone)
	}
	if c.TTL < time.Second || c.TTL%time.Second != 0 {
		return nil, fmt.Errorf("check dns update: ttl %v, want whole seconds", c.TTL)
	}
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.OnEvent == nil {
		c.OnEvent = func(Event) {}
	}
	c.Zone = dns.CanonicalName(c.Zone)
	u := &Updater{cfg: c, log: log, wake: make(chan struct{}, 1), names: map[string]*nameState{}}
	u.ask = u.exchange
	return u, nil
}

// String names the task.
func (u *Updater) String() string { return "dns updates" }

// Want makes names the whole set of names that this appliance answers for, by fully
// qualified name or relative to the zone. Others it leaves as they are: their new
// owner changes them. It returns at once.
func (u *Updater) Want(names map[string]Record) {
	u.mu.Lock()
	defer u.mu.Unlock()
	want := map[string]Record{}
	for n, r := range names {
		want[u.qualify(n)] = r
	}
	for n := range u.names {
		if _, ok := want[n]; !ok {
			delete(u.names, n)
		}
	}
	changed := false
	for n, r := range want {
		s := u.names[n]
		if s != nil && s.Want.Owner == r.Owner && s.Want.Ticket == r.Ticket && sameAddresses(s.Want.Addresses, r.Addresses) {
			continue
		}
		r.Addresses = slices.Clone(r.Addresses)
		u.names[n] = &nameState{Status: Status{Name: n, Want: r}}
		changed = true
	}
	if changed {
		select {
		case u.wake <- struct{}{}:
		default:
		}
	}
}

func (u *Updater) qualify(name string) string {
	if name = dns.CanonicalName(name); dns.IsSubDomain(u.cfg.Zone, name) {
		return name
	}
	return name + u.cfg.Zone
}

// Status lists the names that are wanted, sorted.
func (u *Updater) Status() []Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	var out []Status
	for _, n := range slices.Sorted(maps.Keys(u.names)) {
		out = append(out, u.names[n].Status)
	}
	return out
}

// Run works until ctx ends.
func (u *Updater) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		name, want, at := u.next()
		if name != "" && !time.Now().Before(at) {
			u.work(ctx, name, want)
			continue
		}
		if name == "" {
			timer.Stop()
		} else {
			timer.Reset(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-u.wake:
		case <-timer.C:
		}
	}
}

// next is the name whose turn is first.
func (u *Updater) next() (name string, want Record, at time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, n := range slices.Sorted(maps.Keys(u.names)) {
		if s := u.names[n]; name == "" || s.Next.Before(at) {
			name, want, at = n, s.Want, s.Next
		}
	}
	return name, want, at
}

// work tries once to make name what is wanted, and notes what came of it.
func (u *Updater) work(ctx context.Context, name string, want Record) {
	v, err := u.settle(ctx, name, want)
	if ctx.Err() != nil {
		u.mu.Lock()
		defer u.mu.Unlock()
		if s := u.names[name]; s != nil {
			s.Next = time.Now().Add(time.Hour) // Run is about to end
		}
		return
	}
	u.mu.Lock()
	s := u.names[name]
	if s == nil || s.Want.Ticket != want.Ticket || s.Want.Owner != want.Owner {
		u.mu.Unlock() // wanted otherwise meanwhile
		return
	}
	s.Tries++
	var e Event
	switch {
	case err != nil:
		s.Published, s.Problem = false, err.Error()
		s.Next = time.Now().Add(backOff(s.Tries))
		e = Event{Failed, name, s.Problem}
	case v.verdict == superseded:
		s.Published, s.Problem = false, fmt.Sprintf("%s has it with ticket %d, above ours, %d", v.by.owner, v.by.ticket, want.Ticket)
		s.Next = time.Now().Add(verifyEvery)
		e = Event{Superseded, name, s.Problem}
	default:
		s.Published, s.Problem = true, ""
		s.Next = time.Now().Add(verifyEvery)
		e = Event{Published, name, fmt.Sprintf("%s owns with ticket %d: %s, try %d", want.Owner, want.Ticket, addressList(want.Addresses), s.Tries)}
		s.Tries = 0
	}
	tell := e.Kind == Published && (v.changed || s.told != "") || e.Kind != Published && e.Reason != s.told
	if s.told = e.Reason; e.Kind == Published {
		s.told = ""
	}
	u.mu.Unlock()
	if tell {
		u.cfg.OnEvent(e)
	}
}

func addressList(as []netip.Addr) string {
	var out []string
	for _, a := range as {
		out = append(out, a.String())
	}
	return strings.Join(out, ", ")
}

// backOff is how long to wait after the n-th failure: doubling, with up to a fifth at
// random, so that a fleet does not come back to its server in step.
func backOff(n int) time.Duration {
	d := min(retryFirst<<min(n-1, 10), retryMost)
	return d + time.Duration(rand.Int64N(int64(d/5)))
}

// outcome is what settle found or did.
type outcome struct {
	verdict verdict
	by      marker
	changed bool
}

// settle reads the name and changes it, if it must.
func (u *Updater) settle(ctx context.Context, name string, want Record) (outcome, error) {
	var err error
	for range conflicts {
		var f found
		if f, err = u.read(ctx, name); err != nil {
			return outcome{}, err
		}
		switch v := judge(f, want, u.cfg.TTL); v {
		case superseded:
			return outcome{verdict: v, by: f.marker}, nil
		case upToDate:
			return outcome{verdict: v}, nil
		}
		_, err = u.ask(ctx, update(u.cfg.Zone, name, f, want, u.cfg.TTL))
		if err == nil {
			return outcome{verdict: upToDate, changed: true}, nil
		}
		if !errors.Is(err, errChanged) {
			return outcome{}, fmt.Errorf("update %s: %w", name, err)
		}
	}
	return outcome{}, fmt.Errorf("update %s: %w", name, err)
}

// read asks the primary for the name's records.
func (u *Updater) read(ctx context.Context, name string) (f found, err error) {
	for _, typ := range []uint16{dns.TypeTXT, dns.TypeA, dns.TypeAAAA} {
		m := new(dns.Msg)
		m.SetQuestion(name, typ)
		m.RecursionDesired = false
		r, err := u.ask(ctx, m)
		if err == nil && !r.Authoritative {
			err = fmt.Errorf("%s is not authoritative for %s, want its primary", u.cfg.Server, u.cfg.Zone)
		}
		if err == nil {
			err = f.take(name, r.Answer)
		}
		if err != nil {
			return f, fmt.Errorf("read %s: %w", name, err)
		}
	}
	return f, nil
}

// exchange signs and sends m over TCP, which tells surely whether an update arrived
// (RFC 2136 section 6.2), and takes nothing but a signed answer for success.
func (u *Updater) exchange(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, u.cfg.Timeout, fmt.Errorf("no answer of %s within %v", u.cfg.Server, u.cfg.Timeout))
	defer cancel()
	m.SetTsig(u.cfg.Key.Name, u.cfg.Key.Algorithm, fudge, u.cfg.Now().Unix())
	c := dns.Client{Net: "tcp", Timeout: u.cfg.Timeout, TsigSecret: map[string]string{u.cfg.Key.Name: u.cfg.Key.secret}}
	conn, err := c.DialContext(ctx, u.cfg.Server)
	if err != nil {
		return nil, cmpCause(ctx, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	r, _, err := c.ExchangeWithConnContext(ctx, m, conn)
	if r != nil && r.Response {
		// An answer that says why it is not signed, or not as it should, is worth
		// more than the signature's error.
		if why := explain(r, u.cfg.Zone, u.cfg.Key); why != nil {
			return nil, why
		}
	}
	if err != nil {
		return nil, cmpCause(ctx, err)
	}
	if r.IsTsig() == nil {
		return nil, fmt.Errorf("the answer of %s is not signed", u.cfg.Server)
	}
	return r, nil
}

// cmpCause prefers the reason for which ctx ended.
func cmpCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return fmt.Errorf("no answer: %w", err)
	}
	return err
}
