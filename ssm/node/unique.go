package node

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shadowcast/shadowcast/metrics"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon/swanctl"
	"github.com/shadowcast/shadowcast/ssm/replica"
	"github.com/shadowcast/shadowcast/ssm/session"
)

const (
	// newcomersFor is how long new sessions are remembered: longer than the oldest
	// announcement that a receiver accepts, so that a session whose own announcement is
	// not remembered is older than whatever is announced.
	newcomersFor = replica.NewcomerAge + 5*time.Minute
	// newcomersMost bounds their number: some 20 MB.
	newcomersMost = 1 << 16
	// answerWithin bounds how long an announcement waits for the slots here.
	answerWithin = time.Second
)

// uniqueInfo separates the key of identities from the other keys derived from the fleet's.
const uniqueInfo = "shadowcast unique v1"

// uniques makes the unique policy of connections, which charon applies within a slot, hold
// for the slots of the whole fleet. Every appliance is told of every new session under
// such a policy; whoever owns an older one of the same client acts on it, by rule judge,
// which both owners decide alike. The others remember it for slots that they may own soon.
type uniques struct {
	a        *Appliance
	policies map[string]replica.Unique // by connection
	key      []byte
	others   []*announcer
	since    time.Time // when listening began

	mu    sync.Mutex
	byID  map[string]heard
	by    map[replica.Hash][]string // sessions, by identity
	order []string                  // sessions, as they were heard of

	replaced, excluded atomic.Uint64
}

// heard is a new session and who owned it then.
type heard struct {
	replica.Newcomer
	at   string
	when time.Time // by our clock
}

// newUniques returns nil where no connection has a policy that reaches beyond a slot.
func newUniques(a *Appliance, policies map[string]string, fleetKey []byte) (*uniques, error) {
	if len(policies) == 0 {
		return nil, nil
	}
	u := &uniques{a: a, policies: map[string]replica.Unique{}, since: time.Now(), byID: map[string]heard{}, by: map[replica.Hash][]string{}}
	for name, p := range policies {
		u.policies[name] = map[string]replica.Unique{swanctl.UniqueReplace: replica.UniqueReplace, swanctl.UniqueKeep: replica.UniqueKeep}[p]
	}
	var err error
	if u.key, err = hkdf.Key(sha256.New, fleetKey, nil, uniqueInfo, sha256.Size); err != nil {
		return nil, fmt.Errorf("derive the key of identities: %w", err)
	}
	for _, p := range a.cfg.Fleet.Appliances {
		if p.Name != a.cfg.Node {
			u.others = append(u.others, newAnnouncer(u, replica.Shadow{Name: p.Name, Addr: p.Replication()}))
		}
	}
	return u, nil
}

// hash names what only the fleet may compare.
func (u *uniques) hash(what byte, parts ...[]byte) (h replica.Hash) {
	m := hmac.New(sha256.New, u.key)
	m.Write([]byte{what})
	for _, p := range parts {
		m.Write(binary.BigEndian.AppendUint16(nil, uint16(len(p))))
		m.Write(p)
	}
	copy(h[:], m.Sum(nil))
	return h
}

// newcomer describes the session of d, without its time; false where its connection has no
// policy that matters here.
func (u *uniques) newcomer(d *session.Document) (n replica.Newcomer, ok bool) {
	connection, id, known := d.Client()
	policy := u.policies[connection]
	if !known || policy == 0 || id.Type == idAny {
		return n, false
	}
	client := clientAddr(d).Unmap()
	// As charon has it, a client may have a session by IPv4 and one by IPv6.
	family := byte(4)
	if client.Is6() {
		family = 6
	}
	return replica.Newcomer{Policy: policy, Slot: d.Slot, ID: d.SessionID,
		Identity: u.hash('i', []byte{family, id.Type}, id.Data),
		Source:   u.hash('s', client.AsSlice(), binary.BigEndian.AppendUint16(nil, d.Ports.ClientPort))}, true
}

// idAny is the identity of nobody in particular.
const idAny = 0

// remember notes new sessions of the owner at.
func (u *uniques) remember(at string, now time.Time, ns ...replica.Newcomer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.order) > 0 {
		old := u.byID[u.order[0]]
		if now.Sub(old.when) < newcomersFor && len(u.order)+len(ns) <= newcomersMost {
			break
		}
		u.order = u.order[1:]
		delete(u.byID, old.ID)
		// The oldest of an identity comes first, as in order.
		if l := u.by[old.Identity]; len(l) > 1 {
			u.by[old.Identity] = l[1:]
		} else {
			delete(u.by, old.Identity)
		}
	}
	for _, n := range ns {
		if _, again := u.byID[n.ID]; again {
			continue
		}
		u.byID[n.ID] = heard{n, at, now}
		u.by[n.Identity] = append(u.by[n.Identity], n.ID)
		u.order = append(u.order, n.ID)
	}
}

// remembered are the new sessions of an identity.
func (u *uniques) remembered(identity replica.Hash) (out []heard) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, id := range u.by[identity] {
		out = append(out, u.byID[id])
	}
	return out
}

// older reports whether session id is older than n: of two new ones their owners agree on
// it, and what nobody announced lately is older than either. Who has listened for less
// long than n lives cannot say of what it did not hear of.
func (u *uniques) older(id string, n replica.Newcomer) bool {
	u.mu.Lock()
	own, isNew := u.byID[id]
	u.mu.Unlock()
	if !isNew {
		return u.since.Before(n.Established)
	}
	return own.Before(n)
}

// announce tells the other appliances, and the other slots here, of new sessions of r.
func (u *uniques) announce(r *slotRuntime, ns []replica.Newcomer) {
	for _, p := range u.others {
		p.add(ns)
	}
	for _, s := range u.a.places.all() {
		if s != r && s.published.Load() != nil {
			s.do(func() {
				if stay := s.rivals(u.a.cfg.Node, ns); len(stay) > 0 {
					u.exclude(u.a.cfg.Node, ns, stay)
				}
			})
		}
	}
}

// hearNewcomers takes what the owner at says of its new sessions, and returns which sessions of
// slots that are owned here exclude some of them.
func (a *Appliance) hearNewcomers(ctx context.Context, at string, ns []replica.Newcomer) (stay []replica.Incumbent) {
	u := a.unique
	if u == nil {
		return nil
	}
	// First of all: a slot that is claimed meanwhile asks for what is remembered.
	u.remember(at, time.Now(), ns...)
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	said := map[string]bool{}
	for _, r := range a.places.all() {
		if r.published.Load() == nil {
			continue
		}
		for _, i := range ask(ctx, r.queue, func() []replica.Incumbent { return r.rivals(at, ns) }) {
			if !said[i.Newcomer] {
				said[i.Newcomer] = true
				stay = append(stay, i)
			}
		}
	}
	return stay
}

// exclude ends those of ns, owned here, that an older session of the owner at excludes.
func (u *uniques) exclude(at string, ns []replica.Newcomer, stay []replica.Incumbent) {
	slots := map[string]sa.Slot{}
	for _, n := range ns {
		slots[n.ID] = n.Slot
	}
	for _, i := range stay {
		u.a.at(slots[i.Newcomer], func(r *slotRuntime) {
			if r.unique != nil && r.unique.byID[i.Newcomer].Policy == replica.UniqueKeep {
				r.dismiss(i.Newcomer, dismissal{policy: replica.UniqueKeep, rival: i.ID, slot: i.Slot, at: at, due: time.Now()})
			}
		})
	}
}

func (u *uniques) count(p replica.Unique) {
	if p == replica.UniqueKeep {
		u.excluded.Add(1)
	} else {
		u.replaced.Add(1)
	}
}

// metrics is nil where no connection has such a policy.
func (u *uniques) metrics() *metrics.Unique {
	if u == nil {
		return nil
	}
	m := &metrics.Unique{Ended: map[string]uint64{replica.UniqueReplace.String(): u.replaced.Load(), replica.UniqueKeep.String(): u.excluded.Load()}}
	for _, p := range u.others {
		m.Untold += p.untold.Load()
	}
	return m
}
