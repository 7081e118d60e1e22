package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/peer"
	"github.com/shadowcast/shadowcast/ssm/replica"
)

// refuser is as much of an appliance as refusing takes.
func refuser(t *testing.T) *Appliance {
	t.Helper()
	a := &Appliance{cfg: &config.Config{Node: "ams", Fleet: config.Fleet{Appliances: []config.Appliance{
		{Name: "ams", Address: netip.MustParseAddr("192.0.2.11")}, {Name: "fra", Address: netip.MustParseAddr("192.0.2.12")}}}},
		log: slog.New(slog.DiscardHandler), version: "v9"}
	a.events = &journal{log: operator.NewEvents("ams", 100, a.log)}
	a.refusals = newRefusals(a)
	var err error
	if a.about, err = newDescriptions(a); err != nil {
		t.Fatal(err)
	}
	return a
}

// Every way in counts under its reason, name and address, and the event log says
// so once.
func TestRefusalsOfEveryChannel(t *testing.T) {
	a := refuser(t)
	at := netip.MustParseAddrPort("198.51.100.7:4502")
	a.refusedDatagram("fra", at, peer.ReasonReplayed)
	a.refusedDatagram("fra", at, peer.ReasonUnconfirmed)
	a.refusedStream(replica.Refusal{Kind: replica.KindTicketOfOther, Peer: "fra", Source: at.Addr(), Err: errors.New("ticket 5 belongs to lhr")})
	a.refusedStream(replica.Refusal{Kind: replica.KindBusy, Peer: "fra", Source: at.Addr(), Err: errors.New("busy")})
	a.refusedHandshake(fromRegistrars, "", at.Addr(), fmt.Errorf("refuse peer: %w", pki.ErrOtherFleet))
	a.refusedMessage(ssm.ActRefuse{From: "fra", Slot: 3, Reason: ssm.RefuseHolder, Text: "ticket 9"})
	a.fromPeer(peer.Inbound{From: "fra", Kind: messageKind, Payload: []byte("{"), Source: at, At: time.Now()})
	a.fromPeer(peer.Inbound{From: "fra", Kind: 77, Source: at, At: time.Now()})
	a.fromPeer(peer.Inbound{From: "fra", Kind: aboutKind, Payload: []byte(`{"v":"1"}`), Source: at, At: time.Now()})
	rows, err := refusalList{a}.Refusals(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, r := range rows {
		got[strings.Join([]string{r.Channel, r.Reason, r.Peer, r.Source}, "|")] = true
		if r.Count != 1 || r.First == nil || r.Last == nil {
			t.Errorf("row %v", r)
		}
	}
	for _, want := range []string{
		"probe|replayed|fra|198.51.100.7", "replication|ticket of another|fra|198.51.100.7", "registrars|certificate of another fleet||198.51.100.7",
		"core|ticket of another|fra|192.0.2.12", "probe|malformed|fra|198.51.100.7", "probe|unknown kind|fra|198.51.100.7", "probe|description|fra|198.51.100.7",
	} {
		if !got[want] {
			t.Errorf("%s is not counted", want)
		}
		delete(got, want)
	}
	if len(got) != 0 {
		t.Errorf("counted besides: %v", got)
	}
	events, _, _ := a.events.log.After(0, 100)
	if len(events) != 7 {
		t.Errorf("%d events, want one for each of 7", len(events))
	}
}

func TestDescriptions(t *testing.T) {
	a := refuser(t)
	x := &v1.Peer{Name: "fra", State: v1.PeerState_PEER_STATE_UP}
	if a.about.fill(x); x.Described {
		t.Error("described before it said anything")
	}
	tell := func(d about) {
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		a.fromPeer(peer.Inbound{From: "fra", Kind: aboutKind, Payload: b})
	}
	tell(about{Version: "v8", Protocol: replica.ProtocolVersion + 1, MinProtocol: 1, Fleet: a.cfg.Fleet.Digest()})
	if a.about.fill(x); !x.Described || x.Version != "v8" || !x.FleetDigestEqual || x.ProtocolVersion != replica.ProtocolVersion || x.Reason != "" {
		t.Errorf("peer %v", x)
	}
	tell(about{Version: "v99", Protocol: 99, MinProtocol: 98, Fleet: "another"})
	if a.about.fill(x); x.FleetDigestEqual || x.ProtocolVersion != 0 || x.Reason == "" {
		t.Errorf("peer %v", x)
	}
}

func FuzzDescription(f *testing.F) {
	f.Add([]byte(`{"v":"v1","p":2,"mp":1,"f":"abc"}`))
	f.Add([]byte(`{"p":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var x about
		if json.Unmarshal(b, &x) == nil && x.check() == nil && (x.Version == "" || len(x.Version) > 128 || x.MinProtocol > x.Protocol) {
			t.Errorf("accepted %+v", x)
		}
	})
}
