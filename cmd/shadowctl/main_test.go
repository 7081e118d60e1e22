package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/operator/operatortest"
	"github.com/shadowcast/shadowcast/pki"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"shadowctl": func() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("SOCK", filepath.Join(env.WorkDir, "d.sock"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon": startDaemon, "deadsocket": deadSocket, "mode": wantMode,
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Getuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	})
}

// startDaemon starts a fake appliance at $SOCK; it ends with the script. With a
// directory of certificates it also listens for people, at $REMOTE.
func startDaemon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: daemon [PKI]")
	}
	fake := fakeFleet()
	events := operator.NewEvents("ams", 16, slog.New(slog.DiscardHandler))
	server := operator.NewServer(ts.Getenv("SOCK"), fake.Backend(), events)
	if len(args) == 1 {
		dir := ts.MkAbs(args[0])
		ams, err := pki.Load(pki.Files{CA: filepath.Join(dir, pki.CACertFile), Cert: filepath.Join(dir, "ams.crt"), Key: filepath.Join(dir, "ams.key")}, "ams")
		ts.Check(err)
		server.ListenTLS(netip.MustParseAddrPort("127.0.0.1:0"), ams.PeopleTLS())
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	select {
	case <-server.Ready():
	case err := <-done:
		cancel()
		ts.Fatalf("daemon: %v", err)
	}
	ts.Defer(func() {
		cancel()
		ts.Check(<-done)
	})
	if addr := server.Remote(); addr != nil {
		ts.Setenv("REMOTE", addr.String())
	}
	events.Add(operator.Event{Kind: "slot.claimed", Slot: 1, Message: "claimed the slot", Reason: "home", Attributes: map[string]string{"ticket": "5"}})
	events.Add(operator.Event{Kind: "peer.lost", Level: slog.LevelWarn, Message: "lost a peer\x1b[2J", Reason: "3 probes missing"})
}

// deadSocket leaves a socket at $SOCK on which nobody listens.
func deadSocket(ts *testscript.TestScript, _ bool, _ []string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: ts.Getenv("SOCK"), Net: "unix"})
	ts.Check(err)
	l.SetUnlinkOnClose(false)
	ts.Check(l.Close())
}

// wantMode checks: mode FILE 0600 compares permissions.
func wantMode(ts *testscript.TestScript, _ bool, args []string) {
	st, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", st.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

func ms(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Millisecond) }

func fakeFleet() *operatortest.Fake {
	at := timestamppb.New(time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC))
	f := operatortest.New(&v1.Appliance{
		Name: "ams", Site: "amsterdam", Version: "v0.1.0", Boot: "7c1e", Uptime: ms(11520_000), Shadowing: true, FleetDigest: "0123abcd",
		SlotsActive: 1, SlotsShadowed: 1, Sessions: 2,
	}, []*v1.Slot{
		{
			Number: 1, Home: "ams", Owner: "ams", OwnerTicket: 5, Ticket: 5, Role: v1.Role_ROLE_OWNER, State: v1.SlotState_SLOT_STATE_ACTIVE, OwnedSince: at,
			Sessions: 2, Pools: []string{"10.1.0.0/16", "fd00:1::/64"},
			Shadows: []*v1.Shadow{
				{Name: "fra", Ticket: 6, Ready: true, Connected: true, DigestsEqual: true, Sessions: 2, ReplayAge: ms(412)},
				{Name: "lhr", Connected: true, Reason: "connections differ", LagMessages: 3, Lag: ms(1250), Sessions: 1},
			},
			Fence:    &v1.Fence{State: v1.FenceState_FENCE_STATE_DEADLINE, Remaining: ms(900)},
			Charon:   &v1.Charon{Pid: 4242, State: v1.CharonState_CHARON_STATE_RUNNING, Uptime: ms(61_000)},
			Steering: &v1.Steering{Uplink: v1.SteerAction_STEER_ACTION_LOCAL, Peer: v1.SteerAction_STEER_ACTION_LOCAL},
			Counters: map[string]uint64{"packets_in": 12, "ha_messages_dropped": 0},
		},
		{
			Number: 2, Home: "fra", Owner: "fra", OwnerTicket: 2, Role: v1.Role_ROLE_NONE, State: v1.SlotState_SLOT_STATE_ABSENT,
			Steering: &v1.Steering{Uplink: v1.SteerAction_STEER_ACTION_TUNNEL, Peer: v1.SteerAction_STEER_ACTION_DROP, Via: "fra"},
		},
	}, []operatortest.Session{
		{
			Summary: &v1.Session{
				Id: "s-1", Slot: 1, Connection: "roadwarrior", Identity: "carol@example.org", Client: "203.0.113.9:4500", InnerAddresses: []string{"10.1.0.1"},
				IkeSpiInitiator: "00000000000000aa", IkeSpiResponder: "00010000000000bb", Children: 1, UdpEncapsulated: true, Established: at, HeldBy: []string{"fra"},
				Proposal: "AES_GCM_16_256/PRF_HMAC_SHA2_256/ECP_256", Tier: "basic", Role: v1.Role_ROLE_OWNER,
			},
			Redacted: `{"session_id":"s-1","crypto_params":{"shared_secret":"[redacted]"}}`,
			Revealed: `{"session_id":"s-1","crypto_params":{"shared_secret":"aGVsbG8="}}`,
		},
		{Summary: &v1.Session{Id: "s-2", Slot: 1, Identity: "evil\x1b]0;\tx", Children: 1}, Redacted: `{}`, Revealed: `{}`},
	})
	f.Peer = []*v1.Peer{
		{
			Name: "fra", Site: "frankfurt", Address: "192.0.2.12", State: v1.PeerState_PEER_STATE_UP, Rtt: ms(7), Jitter: ms(1), Loss: 0.004, LastHeard: timestamppb.Now(),
			Claims: []*v1.Claim{{Slot: 2, Ticket: 2}}, ProtocolVersion: 1, Version: "v0.1.0", Replication: v1.ReplicationState_REPLICATION_STATE_STREAMING, FleetDigestEqual: true, Described: true,
			LossOut: 0.02, Membership: "alive", MembershipSince: timestamppb.Now(), Rack: "b2", Processors: 8,
		},
		{Name: "lhr", Site: "london", Address: "192.0.2.13", State: v1.PeerState_PEER_STATE_REFUSED, Loss: 1, Reason: "certificate of another fleet"},
	}
	f.Limits = []*v1.HealthLimit{{Device: "disk sda (Z1)", Serial: "Z1", Limit: "D1.gone", Detail: "the drive vanished", Since: at, Redundant: true}}
	f.Refuse = []*v1.Refusal{
		{Channel: "replication", Reason: "certificate of another fleet", Peer: "lhr", Source: "192.0.2.13", Count: 7, Detail: "refuse peer: not of this fleet", First: at, Last: timestamppb.Now()},
		{Channel: "probe", Reason: "unknown sender", Peer: "mallory", Source: "198.51.100.66", Count: 3, First: at, Last: timestamppb.Now()},
	}
	f.Speak = &v1.GetBGPResponse{
		Enabled: true, Asn: 64512, RouterId: "192.0.2.11", Level: v1.BGPLevel_BGP_LEVEL_NORMAL,
		Peers: []*v1.BGPPeer{{Name: "edge1", Address: "203.0.113.1", Asn: 64496, Role: "outside", State: "established", Since: at, Bfd: "up", Announced: 2}},
		Announcements: []*v1.Announcement{
			{Prefix: "198.51.100.1/32", Kind: "vip", Med: 100, Level: v1.BGPLevel_BGP_LEVEL_NORMAL, Peers: []string{"edge1"}},
			{Prefix: "10.1.0.0/16", Kind: "pool", Slot: 1, Med: 100, Level: v1.BGPLevel_BGP_LEVEL_NORMAL, Communities: []string{"64512:1:1"}},
		},
	}
	return f
}

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]string{
		"10m": "2026-01-31T11:50:00Z", "0s": "2026-01-31T12:00:00Z", "2026-01-30T00:00:00Z": "2026-01-30T00:00:00Z", "2026-01-30T01:00:00+01:00": "2026-01-30T00:00:00Z",
	} {
		got, err := parseSince(in, now)
		if err != nil || got.UTC().Format(time.RFC3339) != want {
			t.Errorf("parseSince(%q) = %v, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"-10m", "yesterday", "10", ""} {
		if _, err := parseSince(in, now); err == nil {
			t.Errorf("parseSince(%q) accepted", in)
		}
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 1500 * time.Nanosecond: "1.5µs", 7123456 * time.Nanosecond: "7.12ms", 1234567 * time.Microsecond: "1.23s",
		61 * time.Second: "1m1s", 3*time.Hour + 12*time.Minute + 9*time.Second: "3h12m", 50 * time.Hour: "2d2h",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%d) = %s, want %s", d, got, want)
		}
	}
}

// Every command has a short help, and those with arguments an example or a long one.
func TestHelpTexts(t *testing.T) {
	cmds := newRoot(&app{}).Commands()
	for len(cmds) > 0 {
		c := cmds[0]
		cmds = append(cmds[1:], c.Commands()...)
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short help %q", c.CommandPath(), c.Short)
		}
	}
}
