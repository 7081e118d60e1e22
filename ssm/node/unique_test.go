package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/ssm/replica"
	"github.com/shadowcast/shadowcast/ssm/session"
)

var fleetPolicies = map[string]string{"rw": "replace", "kept": "keep"}

// sessionSpec is a session as charon would tell of it.
type sessionSpec struct {
	number   uint64 // names it, within its slot
	conn, id string
	eap      string
	from     string // address and port of the client
}

func ikeOf(n sa.Slot, x sessionSpec) charon.IKERef {
	return charon.IKERef{ID: sa.IKEID{Initiator: sa.IKESPI(0x1100_0000_0000_0000 + x.number), Responder: sa.IKESPI(n.IKELabel() + x.number)}, Version: 2}
}

func sessionID(n sa.Slot, x sessionSpec) string { return ikeOf(n, x).ID.String() }

func mustOf[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// begins are the datagrams by which charon tells of a new session.
func begins(n sa.Slot, x sessionSpec) []charon.Message {
	r := ikeOf(n, x)
	chunk := func(t charon.AttrType) charon.Attr {
		return mustOf(charon.NewChunk(t, bytes.Repeat([]byte{0x80 | byte(t)}, 32)))
	}
	remote := netip.MustParseAddrPort(x.from)
	up := []charon.Attr{charon.NewIKERef(charon.IKEID, r),
		mustOf(charon.NewIdentity(charon.LocalID, charon.Identity{Type: 2, Data: []byte("gw.example")})),
		mustOf(charon.NewIdentity(charon.RemoteID, charon.Identity{Type: 2, Data: []byte(x.id)})),
		mustOf(charon.NewAddr(charon.LocalAddr, netip.MustParseAddrPort("198.51.100.1:4500"))), mustOf(charon.NewAddr(charon.RemoteAddr, remote)),
		charon.NewU32(charon.Conditions, 0x10), charon.NewU32(charon.Extensions, 0x24),
		mustOf(charon.NewName(charon.ConfigName, x.conn)), mustOf(charon.NewAddr(charon.PeerAddr, remote))}
	if x.eap != "" {
		up = append(up, mustOf(charon.NewIdentity(charon.EAPID, charon.Identity{Type: 2, Data: []byte(x.eap)})))
	}
	return []charon.Message{
		{Version: charon.V3, Type: charon.IKEAdd, Attrs: []charon.Attr{charon.NewU8(charon.IKEVersion, 2), charon.NewIKERef(charon.IKEID, r),
			chunk(charon.NonceI), chunk(charon.NonceR), chunk(charon.Secret), chunk(charon.LocalDH), chunk(charon.RemoteDH),
			charon.NewU16(charon.PRF, 5), charon.NewU16(charon.Encr, 12), charon.NewU16(charon.EncrLen, 256),
			charon.NewU16(charon.Integ, 12), charon.NewU16(charon.DH, 31), charon.NewU16(charon.AuthMethod, 2)}},
		{Version: charon.V3, Type: charon.IKEUpdate, Attrs: up},
	}
}

// uniqueBench is an appliance that owns slots, without charon and kernel.
type uniqueBench struct {
	*Appliance
	t *testing.T
}

func newUniqueBench(t *testing.T, name string, id *pki.Identity, policies map[string]string, all []config.Appliance, owns ...sa.Slot) *uniqueBench {
	t.Helper()
	a := &Appliance{cfg: &config.Config{Node: name}, log: slog.New(slog.DiscardHandler), identity: id, incarnation: 1,
		events: &journal{log: operator.NewEvents(name, 1000, slog.New(slog.DiscardHandler))}}
	a.cfg.Fleet.Appliances = all
	a.tiers.Store(&config.Tiers{})
	a.refusals = newRefusals(a)
	a.authority = newAuthority(a)
	a.places = &places{a: a, m: map[sa.Slot]*slotRuntime{}, queue: newQueue()}
	for n := range sa.Slot(4) {
		a.cfg.Fleet.Slots = append(a.cfg.Fleet.Slots, config.Slot{Number: n + 1})
	}
	var err error
	if a.unique, err = newUniques(a, policies, bytes.Repeat([]byte{7}, 32)); err != nil {
		t.Fatal(err)
	}
	b := &uniqueBench{a, t}
	for _, n := range owns {
		b.own(n)
	}
	return b
}

// own begins the tenure of a slot with the sessions in docs.
func (b *uniqueBench) own(n sa.Slot, docs ...*session.Document) *slotRuntime {
	b.t.Helper()
	r := newRuntime(b.Appliance, config.Slot{Number: n})
	r.group, r.ctx = errgroup.WithContext(b.t.Context())
	r.mode, r.ticket, r.ledger = modeOwner, 9, session.New(n)
	pub, err := replica.NewPublisher(replica.PublisherConfig{Slot: n, Ticket: 9, Self: b.cfg.Node, Incarnation: 1, TLS: func(string) *tls.Config { return nil }})
	if err != nil {
		b.t.Fatal(err)
	}
	r.pub = pub
	r.published.Store(pub)
	if b.unique != nil {
		r.unique = newUniqueSlot()
	}
	if _, err := r.ledger.Adopt(docs); err != nil {
		b.t.Fatal(err)
	}
	for _, d := range r.ledger.Docs() {
		r.publish(d)
	}
	b.places.m[n] = r
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.queue.run(ctx) }()
	b.t.Cleanup(func() { cancel(); <-done })
	return r
}

// do runs f in the goroutine of slot n.
func (b *uniqueBench) do(n sa.Slot, f func(r *slotRuntime)) {
	r := b.places.at(n)
	ask(b.t.Context(), r.queue, func() bool { f(r); return true })
}

// begin has charon tell of a session in slot n.
func (b *uniqueBench) begin(n sa.Slot, x sessionSpec) {
	b.do(n, func(r *slotRuntime) {
		for _, m := range begins(n, x) {
			r.ownerMessage(m)
		}
		if _, ok := r.ledger.Doc(sessionID(n, x)); !ok {
			b.t.Errorf("the ledger does not know session %+v", x)
		}
	})
}

// leaving are the sessions of slot n that shall end, and where their rivals are.
func (b *uniqueBench) leaving(n sa.Slot) (out []string) {
	b.do(n, func(r *slotRuntime) {
		for id, d := range r.unique.leaving {
			out = append(out, fmt.Sprintf("%s for slot %d at %s", id, d.slot, d.at))
		}
	})
	slices.Sort(out)
	return out
}

func (b *uniqueBench) told() (out []string) {
	evs, _, _ := b.events.log.After(0, 1000)
	for _, e := range evs {
		if e.Kind == "unique" {
			out = append(out, e.Message+" ("+e.Reason+")")
		}
	}
	return out
}

// fakeEnds is a charon that ends what it holds.
type fakeEnds struct {
	sas   []charon.IKESA
	ended []uint32
	fail  error
}

func (f *fakeEnds) ListSAs(context.Context, bool) ([]charon.IKESA, error) { return f.sas, nil }

func (f *fakeEnds) TerminateIKE(_ context.Context, t charon.Target, force bool, timeout time.Duration) error {
	if force || timeout >= 0 {
		return errors.New("charon ends duplicates otherwise")
	}
	f.ended = append(f.ended, t.ID)
	return f.fail
}

// end has the fake charon end what is due in slot n.
func (b *uniqueBench) end(n sa.Slot, f *fakeEnds, now time.Time) {
	b.do(n, func(r *slotRuntime) {
		want := r.due(now)
		done, err := terminate(b.t.Context(), f, want)
		r.endedUnique(r.unique, want, done, err)
	})
}

// twoAppliances are ams with slot 1 and fra with slot 2, over gRPC.
func twoAppliances(t *testing.T, policies map[string]string) (ams, fra *uniqueBench) {
	t.Helper()
	dir := t.TempDir()
	if _, err := pki.Init(dir, pki.Options{}); err != nil {
		t.Fatal(err)
	}
	var all []config.Appliance
	var ls []net.Listener
	for _, n := range []string{"ams", "fra"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		at := l.Addr().(*net.TCPAddr).AddrPort()
		ls, all = append(ls, l), append(all, config.Appliance{Name: n, Address: at.Addr(), ReplicationPort: at.Port()})
		if _, err := pki.Issue(dir, n, []netip.Addr{at.Addr()}, pki.Options{Validity: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	var bs []*uniqueBench
	for i, p := range all {
		id, err := pki.Load(pki.Files{CA: filepath.Join(dir, pki.CACertFile), Cert: filepath.Join(dir, p.Name+".crt"), Key: filepath.Join(dir, p.Name+".key")}, p.Name)
		if err != nil {
			t.Fatal(err)
		}
		b := newUniqueBench(t, p.Name, id, policies, all, sa.Slot(i+1))
		if b.replicas, err = newReplicas(b.Appliance); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = b.replicas.server.Serve(ls[i]) })
		for _, o := range b.unique.others {
			wg.Go(func() { _ = o.run(ctx) })
		}
		t.Cleanup(func() { cancel(); b.replicas.receiver.Close(); b.replicas.server.Stop(); wg.Wait() })
		bs = append(bs, b)
	}
	return bs[0], bs[1]
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

var (
	alice1 = sessionSpec{number: 1, conn: "rw", id: "alice", from: "203.0.113.9:4500"}
	alice2 = sessionSpec{number: 2, conn: "rw", id: "alice", from: "203.0.113.10:4500"}
)

func TestUniqueReplace(t *testing.T) {
	ams, fra := twoAppliances(t, fleetPolicies)
	ams.begin(1, alice1)
	ams.begin(1, sessionSpec{number: 3, conn: "rw", id: "bob", from: "203.0.113.9:4501"})
	ams.begin(1, sessionSpec{number: 4, conn: "many", id: "alice", from: "203.0.113.9:4502"})
	ams.begin(1, sessionSpec{number: 5, conn: "kept", id: "alice", from: "203.0.113.9:4503"})
	ams.begin(1, sessionSpec{number: 6, conn: "rw", id: "alice", from: "[2001:db8::9]:4500"}) // by another family
	ams.begin(1, sessionSpec{number: 7, conn: "rw", id: "alice", eap: "carol", from: "203.0.113.9:4504"})
	fra.begin(2, alice2)
	eventually(t, "ams ends the older session", func() bool { return len(ams.leaving(1)) > 0 })
	old := sessionID(1, alice1)
	if got := ams.leaving(1); !slices.Equal(got, []string{old + " for slot 2 at fra"}) {
		t.Fatalf("ams ends %v", got)
	}
	f := &fakeEnds{sas: []charon.IKESA{{ID: ikeOf(1, alice1).ID, UniqueID: 41}, {ID: ikeOf(1, alice2).ID, UniqueID: 42}}}
	ams.end(1, f, time.Now())
	ams.end(1, f, time.Now()) // it was asked
	if !slices.Equal(f.ended, []uint32{41}) {
		t.Errorf("charon ends %v, want 41", f.ended)
	}
	want := fmt.Sprintf("session %s of alice is ended: its client has a new one (connection rw has unique = replace; session %s began in slot 2 at fra)", old, sessionID(2, alice2))
	if got := ams.told(); !slices.Equal(got, []string{want}) {
		t.Errorf("ams tells %q, want %q", got, want)
	}
	if m := ams.unique.metrics(); m.Ended["replace"] != 1 || m.Ended["keep"] != 0 || m.Untold != 0 {
		t.Errorf("counted: %+v", m)
	}
	// charon gives up on a client that is gone, soon after a takeover: the end is no
	// suspect's, and the shadows hear of it at once.
	ams.do(1, func(r *slotRuntime) {
		r.ledger.Takeover(time.Now())
		r.ownerMessage(session.EndOf(ikeOf(1, alice1).ID, false))
		if _, here := r.ledger.Doc(old); here || len(r.suspects) > 0 || len(r.unique.leaving) > 0 {
			t.Errorf("held %t, suspects %v, leaving %v", here, r.suspects, r.unique.leaving)
		}
		r.ownerMessage(session.EndOf(ikeOf(1, sessionSpec{number: 3}).ID, false))
		if len(r.suspects) != 1 {
			t.Errorf("suspects %v, want the other session", r.suspects)
		}
	})
	// What ams announced of its own ended nobody's.
	if got := fra.leaving(2); len(got) > 0 {
		t.Errorf("fra ends %v", got)
	}
}

func TestUniqueKeep(t *testing.T) {
	ams, fra := twoAppliances(t, fleetPolicies)
	old := sessionSpec{number: 1, conn: "kept", id: "x", eap: "alice", from: "203.0.113.9:4500"}
	young := sessionSpec{number: 2, conn: "kept", id: "y", eap: "alice", from: "203.0.113.10:4500"}
	again := sessionSpec{number: 3, conn: "kept", id: "z", eap: "alice", from: old.from}
	ams.begin(1, old)
	fra.begin(2, again) // authenticates anew
	fra.begin(2, young)
	eventually(t, "fra ends the newer session", func() bool { return len(fra.leaving(2)) > 0 })
	if got := fra.leaving(2); !slices.Equal(got, []string{sessionID(2, young) + " for slot 1 at ams"}) {
		t.Fatalf("fra ends %v", got)
	}
	fra.end(2, &fakeEnds{sas: []charon.IKESA{{ID: ikeOf(2, young).ID, UniqueID: 5}}}, time.Now())
	if got := strings.Join(fra.told(), "\n"); !strings.Contains(got, "of y is ended: its client has one already (connection kept has unique = keep; session "+sessionID(1, old)+" goes on in slot 1 at ams)") {
		t.Errorf("fra tells %q", got)
	}
	if m := fra.unique.metrics(); m.Ended["keep"] != 1 {
		t.Errorf("counted: %+v", m)
	}
	if got := ams.leaving(1); len(got) > 0 {
		t.Errorf("ams ends %v", got)
	}
}

// Both at once: one of them stays, and both appliances say which.
func TestUniqueTie(t *testing.T) {
	ams, fra := twoAppliances(t, fleetPolicies)
	at := time.Now()
	for _, x := range []struct {
		b *uniqueBench
		n sa.Slot
		s sessionSpec
	}{{ams, 1, alice1}, {fra, 2, alice2}} {
		x.b.do(x.n, func(r *slotRuntime) {
			// As ownerMessage does, at the same time.
			for _, m := range begins(x.n, x.s) {
				out, _ := r.ledger.Apply(m, func() sa.Birth { return r.birth }, at)
				began := r.newcomers(out.Changes, at)
				r.output(out)
				if len(began) > 0 {
					r.a.unique.announce(r, began)
				}
			}
		})
	}
	eventually(t, "the session of the lower slot ends", func() bool { return len(ams.leaving(1)) == 1 })
	eventually(t, "ams tells fra", func() bool { return len(fra.unique.remembered(hashOfAlice(fra))) == 2 })
	if got := fra.leaving(2); len(got) > 0 {
		t.Errorf("fra ends %v as well", got)
	}
}

func hashOfAlice(b *uniqueBench) replica.Hash {
	return b.unique.hash('i', []byte{4, 2}, []byte("alice"))
}

// Two slots of one appliance.
func TestUniqueBetweenSlotsOfOneAppliance(t *testing.T) {
	b := newUniqueBench(t, "ams", nil, fleetPolicies, nil, 1, 2)
	b.begin(1, alice1)
	b.begin(2, alice2)
	if got := b.leaving(1); len(got) != 1 || !strings.Contains(got[0], "for slot 2 at ams") {
		t.Errorf("leaving %v", got)
	}
	b.begin(2, sessionSpec{number: 8, conn: "rw", id: "alice", from: "203.0.113.11:4500"}) // charon's own affair
	if got := b.leaving(2); len(got) > 0 {
		t.Errorf("leaving in the same slot %v", got)
	}
	old, young := sessionSpec{number: 11, conn: "kept", id: "bob", from: "203.0.113.9:4500"}, sessionSpec{number: 12, conn: "kept", id: "bob", from: "203.0.113.10:4500"}
	b.begin(1, old)
	b.begin(2, young)
	eventually(t, "the newer one to leave", func() bool { return len(b.leaving(2)) == 1 })
}

// A slot that is claimed comes with a session whose client is elsewhere by now; and what
// comes with a slot is announced to nobody.
func TestUniqueAfterTakeover(t *testing.T) {
	from := newUniqueBench(t, "ams", nil, fleetPolicies, nil, 1)
	from.begin(1, alice1)
	var docs []*session.Document
	from.do(1, func(r *slotRuntime) { docs = r.ledger.Docs() })

	b := newUniqueBench(t, "fra", nil, fleetPolicies, []config.Appliance{{Name: "fra"}, {Name: "lhr"}})
	stay := b.hearNewcomers(t.Context(), "lhr", []replica.Newcomer{{Identity: hashOfAlice(b), Policy: replica.UniqueReplace, Slot: 3, ID: "new", Established: time.Now()}})
	if len(stay) > 0 {
		t.Errorf("%v stay without a slot", stay)
	}
	b.own(1, docs...)
	if got := b.leaving(1); !slices.Equal(got, []string{sessionID(1, alice1) + " for slot 3 at lhr"}) {
		t.Errorf("leaving %v", got)
	}
	// The other way round: what comes is newer than what is remembered.
	b2 := newUniqueBench(t, "osl", nil, fleetPolicies, []config.Appliance{{Name: "osl"}, {Name: "lhr"}})
	now := time.Now()
	b2.hearNewcomers(t.Context(), "lhr", []replica.Newcomer{{Identity: hashOfAlice(b2), Policy: replica.UniqueReplace, Slot: 3, ID: "new", Established: now.Add(-time.Minute)}})
	b2.hearNewcomers(t.Context(), "ams", []replica.Newcomer{{Identity: hashOfAlice(b2), Policy: replica.UniqueReplace, Slot: 1, ID: sessionID(1, alice1), Established: now}})
	b2.own(1, docs...)
	if got := b2.leaving(1); len(got) > 0 {
		t.Errorf("leaving %v", got)
	}
	for _, x := range []*uniqueBench{b, b2} {
		if n := len(x.unique.others[0].queue); n > 0 {
			t.Errorf("%s announces %d adopted sessions", x.cfg.Node, n)
		}
	}
}

// Neither a rekey nor what charon sends again is a new session.
func TestUniqueNewcomersAreNew(t *testing.T) {
	b := newUniqueBench(t, "ams", nil, fleetPolicies, []config.Appliance{{Name: "ams"}, {Name: "fra"}}, 1)
	queued := func() int { return len(b.unique.others[0].queue) }
	b.begin(1, alice1)
	if queued() != 1 {
		t.Fatalf("%d announced, want one", queued())
	}
	rekeyed := func(old, now sessionSpec) {
		b.do(1, func(r *slotRuntime) {
			ms := begins(1, now)
			ms[0].Attrs = append(ms[0].Attrs, charon.NewIKERef(charon.RekeyID, ikeOf(1, old)), charon.NewU16(charon.OldPRF, 5),
				mustOf(charon.NewChunk(charon.OldSKD, bytes.Repeat([]byte{1}, 32))))
			for _, m := range ms {
				r.ownerMessage(m)
			}
		})
	}
	rekeyed(alice1, sessionSpec{number: 21, conn: "rw", id: "alice", from: alice1.from})
	rekeyed(sessionSpec{number: 30}, sessionSpec{number: 31, conn: "rw", id: "dora", from: "203.0.113.12:4500"}) // of one that nobody knew
	b.do(1, func(r *slotRuntime) { r.recalled = time.Now().Add(time.Minute) })
	b.begin(1, sessionSpec{number: 32, conn: "rw", id: "emil", from: "203.0.113.13:4500"})
	b.do(1, func(r *slotRuntime) { r.recalled = time.Time{} })
	b.begin(1, sessionSpec{number: 33, conn: "many", id: "fred", from: "203.0.113.14:4500"})
	if queued() != 1 {
		t.Errorf("%d announced, want the first alone", queued())
	}
}

// Without such a connection nothing is kept and nothing is said.
func TestUniqueOff(t *testing.T) {
	b := newUniqueBench(t, "ams", nil, nil, []config.Appliance{{Name: "ams"}, {Name: "fra"}}, 1)
	b.begin(1, alice1)
	b.do(1, func(r *slotRuntime) {
		if r.unique != nil || r.a.unique != nil || r.a.unique.metrics() != nil {
			t.Error("something is kept")
		}
		r.endDismissed(time.Now())
	})
	if stay := b.hearNewcomers(t.Context(), "fra", []replica.Newcomer{{ID: "x", Slot: 2}}); stay != nil {
		t.Errorf("%v stay", stay)
	}
}

// A client at the same address and port may authenticate anew: the old session has 10 s.
// One that charon does not end is tried some times, and named.
func TestUniqueEndsLateOrNever(t *testing.T) {
	b := newUniqueBench(t, "ams", nil, fleetPolicies, nil, 1, 2)
	b.begin(1, alice1)
	same := alice2
	same.from = alice1.from
	b.begin(2, same)
	f := &fakeEnds{sas: []charon.IKESA{{ID: ikeOf(1, alice1).ID, UniqueID: 1}}, fail: errors.New("busy")}
	now := time.Now()
	b.leaving(1) // the slot has heard
	b.end(1, f, now.Add(renewsFor-time.Second))
	if len(f.ended) > 0 {
		t.Error("it ends at once")
	}
	for i := range dismissTries {
		b.end(1, f, now.Add(renewsFor+time.Duration(i+1)*time.Minute))
	}
	if got := b.told(); len(f.ended) != dismissTries || len(got) != 1 || !strings.Contains(got[0], "goes on: charon does not end it busy") {
		t.Errorf("charon was asked %d times; told %q", len(f.ended), got)
	}
	if m := b.unique.metrics(); m.Ended["replace"] != 0 {
		t.Errorf("counted: %+v", m)
	}
}

func TestUniqueManyAtOnce(t *testing.T) {
	b := newUniqueBench(t, "ams", nil, fleetPolicies, nil, 1)
	f := &fakeEnds{}
	var ns []replica.Newcomer
	for i := range uint64(50) {
		x := sessionSpec{number: i, conn: "rw", id: fmt.Sprint("c", i), from: "203.0.113.9:4500"}
		b.begin(1, x)
		f.sas = append(f.sas, charon.IKESA{ID: ikeOf(1, x).ID, UniqueID: uint32(i + 1)})
		ns = append(ns, replica.Newcomer{Identity: b.unique.hash('i', []byte{4, 2}, []byte(x.id)), Policy: replica.UniqueReplace, Slot: 2, ID: fmt.Sprint(i), Established: time.Now().Add(time.Second)})
	}
	b.hearNewcomers(t.Context(), "fra", ns)
	b.end(1, f, time.Now())
	got := b.told()
	if len(f.ended) != 50 || len(got) != dismissTold+1 || !strings.HasPrefix(got[dismissTold], "42 more sessions are ended") {
		t.Errorf("%d ended, told %q", len(f.ended), got)
	}
}

// What is remembered has an end, in time and in number.
func TestUniqueMemory(t *testing.T) {
	u, err := newUniques(&Appliance{cfg: &config.Config{}}, fleetPolicies, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	for i := range newcomersMost + 10 {
		u.remember("fra", now, replica.Newcomer{ID: fmt.Sprint(i), Identity: replica.HashOf(fmt.Append(nil, i%100))})
	}
	kept := 0
	for i := range 100 {
		kept += len(u.remembered(replica.HashOf(fmt.Append(nil, i))))
	}
	if len(u.byID) != newcomersMost || len(u.order) != newcomersMost || kept != newcomersMost {
		t.Errorf("%d by session, %d in order, %d by identity, want %d", len(u.byID), len(u.order), kept, newcomersMost)
	}
	if !u.older("0", replica.Newcomer{Established: u.since.Add(time.Second)}) {
		t.Error("what is forgotten is not old")
	}
	if u.older("0", replica.Newcomer{Established: u.since.Add(-time.Second)}) {
		t.Error("what may have been announced before anybody listened is old")
	}
	u.remember("fra", now.Add(newcomersFor), replica.Newcomer{ID: "last"})
	if len(u.byID) != 1 || len(u.by) != 1 || len(u.order) != 1 {
		t.Errorf("after its time: %d by session, %d by identity, %d in order", len(u.byID), len(u.by), len(u.order))
	}
}
