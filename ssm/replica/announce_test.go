package replica

import (
	"context"
	"crypto/tls"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/shadowcast/shadowcast/api/peer/v1"
	"github.com/shadowcast/shadowcast/sa"
)

func announcerTo(t *testing.T, ca *fleetCA, self string, n *node) *Announcer {
	cfg := ca.issue(t, self)
	x := NewAnnouncer(AnnouncerConfig{Self: self, TLS: func(string) *tls.Config { return cfg }}, n.shadow())
	t.Cleanup(x.Close)
	return x
}

func newcomer(id string) Newcomer {
	return Newcomer{Identity: HashOf([]byte("alice")), Source: HashOf([]byte("10.0.0.1")), Policy: UniqueKeep, Slot: 2, ID: id, Established: time.UnixMicro(time.Now().UnixMicro())}
}

func TestAnnounce(t *testing.T) {
	ca := newCA(t)
	var got []Newcomer
	from := ""
	n := startNode(t, ca, "fra", func(c *ReceiverConfig) {
		c.Newcomers = func(_ context.Context, owner string, ns []Newcomer) []Incumbent {
			got, from = ns, owner
			return []Incumbent{{Newcomer: ns[1].ID, Slot: 1, ID: "old"}}
		}
	})
	x := announcerTo(t, ca, "ams", n)
	sent := []Newcomer{newcomer("a"), newcomer("b")}
	sent[0].Policy = UniqueReplace
	for range 2 { // the second time over the same connection
		stay, err := x.Announce(t.Context(), sent)
		if err != nil || !slices.Equal(stay, []Incumbent{{"b", 1, "old"}}) {
			t.Fatalf("%v, %v", stay, err)
		}
	}
	if from != "ams" || !slices.Equal(got, sent) {
		t.Errorf("%s tells of %+v, want %+v", from, got, sent)
	}
	// The appliance is lost, and comes back.
	n.stop()
	if _, err := x.Announce(t.Context(), sent); status.Code(err) != codes.Unavailable {
		t.Errorf("nobody answers: %v", err)
	}
	n.start()
	if _, err := x.Announce(t.Context(), sent); err != nil {
		t.Errorf("after it came back: %v", err)
	}
}

// An appliance of the release before, and one that does not listen.
func TestAnnounceUnimplemented(t *testing.T) {
	ca := newCA(t)
	n := startNode(t, ca, "fra")
	if _, err := announcerTo(t, ca, "ams", n).Announce(t.Context(), []Newcomer{newcomer("a")}); status.Code(err) != codes.Unimplemented {
		t.Errorf("%v, want unimplemented", err)
	}
}

func TestAnnouncementsRefused(t *testing.T) {
	ca := newCA(t)
	heard := 0
	n := startNode(t, ca, "fra", func(c *ReceiverConfig) {
		c.Newcomers = func(context.Context, string, []Newcomer) []Incumbent { heard++; return nil }
		c.KnownSlot = func(n sa.Slot) bool { return n <= 6 }
	})
	conn, err := Dial("fra", n.addr, ca.issue(t, "ams"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	good := func() *peerv1.Newcomer {
		return &peerv1.Newcomer{Identity: make([]byte, 16), Source: make([]byte, 16), Policy: peerv1.Unique_UNIQUE_REPLACE, Slot: 2, Id: "a",
			EstablishedMicros: uint64(time.Now().UnixMicro())}
	}
	with := func(edit func(m *peerv1.Newcomer)) []*peerv1.Newcomer {
		m := good()
		edit(m)
		return []*peerv1.Newcomer{good(), m}
	}
	for _, x := range []struct {
		kind, want string
		owner      string
		list       []*peerv1.Newcomer
	}{
		{KindGreeting, "no appliance name", "", nil},
		{KindName, `certificate names "ams"`, "lhr", nil},
		{KindOversized, "1025 sessions, at most 1024 fit", "ams", slices.Repeat([]*peerv1.Newcomer{good()}, MaxNewcomers+1)},
		{KindMalformed, "hashes have 15 and 16 octets, want 16", "ams", with(func(m *peerv1.Newcomer) { m.Identity = m.Identity[1:] })},
		{KindMalformed, "hashes have 16 and 0 octets", "ams", with(func(m *peerv1.Newcomer) { m.Source = nil })},
		{KindMalformed, "session id has 0 octets", "ams", with(func(m *peerv1.Newcomer) { m.Id = "" })},
		{KindMalformed, "session id has 257 octets", "ams", with(func(m *peerv1.Newcomer) { m.Id = strings.Repeat("x", 257) })},
		{KindMalformed, "policy 0 is neither", "ams", with(func(m *peerv1.Newcomer) { m.Policy = 0 })},
		{KindMalformed, "policy 258 is neither", "ams", with(func(m *peerv1.Newcomer) { m.Policy = 258 })},
		{KindUnknownSlot, "the fleet has no slot 7", "ams", with(func(m *peerv1.Newcomer) { m.Slot = 7 })},
		{KindUnknownSlot, "slot 0 is out of range", "ams", with(func(m *peerv1.Newcomer) { m.Slot = 0 })},
		{KindUnknownSlot, "slot 65538 is out of range", "ams", with(func(m *peerv1.Newcomer) { m.Slot = 65538 })},
		{KindClock, "in the future", "ams", with(func(m *peerv1.Newcomer) { m.EstablishedMicros += 2 * uint64(NewcomerAhead.Microseconds()) })},
		{KindClock, "in the future", "ams", with(func(m *peerv1.Newcomer) { m.EstablishedMicros = 1<<64 - 1 })},
		{KindClock, "ago", "ams", with(func(m *peerv1.Newcomer) { m.EstablishedMicros -= 2 * uint64(NewcomerAge.Microseconds()) })},
		{KindClock, "ago", "ams", with(func(m *peerv1.Newcomer) { m.EstablishedMicros = 0 })},
	} {
		before := n.refusals(x.kind)
		_, err := peerv1.NewReplicaClient(conn).Announce(t.Context(), &peerv1.AnnounceRequest{Owner: x.owner, Newcomers: x.list})
		if err == nil || !strings.Contains(err.Error(), x.want) || n.refusals(x.kind) != before+1 {
			t.Errorf("%s: %v, want %q and a refusal more than %d", x.kind, err, x.want, n.refusals(x.kind)-1)
		}
	}
	if heard != 0 {
		t.Errorf("%d lists were heard, all are bad", heard)
	}
}

// Certificates of another fleet get no further than the handshake.
func TestAnnounceFromAnotherFleet(t *testing.T) {
	n := startNode(t, newCA(t), "fra", func(c *ReceiverConfig) {
		c.Newcomers = func(context.Context, string, []Newcomer) []Incumbent { t.Error("heard"); return nil }
	})
	told := make(chan string, 8)
	cfg := newCA(t).issue(t, "ams")
	x := NewAnnouncer(AnnouncerConfig{Self: "ams", TLS: func(string) *tls.Config { return cfg },
		HandshakeFailed: func(to string, _ netip.Addr, _ error) { told <- to }}, n.shadow())
	defer x.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := x.Announce(ctx, []Newcomer{newcomer("a")}); err == nil {
		t.Error("a stranger is heard")
	}
	if to := <-told; to != "fra" {
		t.Errorf("told of %s", to)
	}
}

// Answers that make no sense end nobody's session.
func TestAnnounceBadAnswers(t *testing.T) {
	ca := newCA(t)
	var answer []Incumbent
	n := startNode(t, ca, "fra", func(c *ReceiverConfig) {
		c.Newcomers = func(context.Context, string, []Newcomer) []Incumbent { return answer }
	})
	x := announcerTo(t, ca, "ams", n)
	for _, answer = range [][]Incumbent{
		{{"b", 1, "old"}},
		{{"a", 1, "old"}, {"a", 1, "older"}},
		{{"a", 0, "old"}},
		{{"a", 1, ""}},
	} {
		if stay, err := x.Announce(t.Context(), []Newcomer{newcomer("a")}); err == nil {
			t.Errorf("%v is taken as %v", answer, stay)
		}
	}
}

func TestNewcomersHaveOneOrder(t *testing.T) {
	at := time.UnixMicro(1_000_000)
	l := []Newcomer{
		{Established: at, Slot: 1, ID: "b"},
		{Established: at.Add(999 * time.Nanosecond), Slot: 2, ID: "a"}, // less than travels
		{Established: at, Slot: 2, ID: "b"},
		{Established: at.Add(time.Microsecond), Slot: 1, ID: "a"},
	}
	for i, a := range l {
		for j, b := range l {
			if a.Before(b) != (i < j) {
				t.Errorf("%d before %d: %t", i, j, a.Before(b))
			}
		}
	}
}
