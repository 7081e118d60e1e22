package charon_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/charon/internal/charontest"
)

// redirectRig is a gateway with two VIPs and a client connected to the first one.
func redirectRig(t *testing.T, further ...string) (ctx context.Context, gw *charontest.Gateway, client *charon.Vici, s charon.IKESA) {
	charontest.NeedCharon(t)
	ctx = charontest.Context(t)
	gw = charontest.StartGateway(t, ctx)
	gw.NS.Addr("lo", charontest.VIP2+"/32")
	ns, client := charontest.StartClientWith(t, ctx, gw, charontest.ClientConns, further...)
	ns.Route(charontest.VIP2+"/32", charontest.GWIP)
	gw.Load(ctx, twoVIPs)
	if err := gw.Link.Activate(ctx); err != nil {
		t.Fatal(err)
	}
	_ = client.Initiate(ctx, "home", "net", 15*time.Second) // fails at the child where the kernel has no ESP
	s = gw.SA(ctx, charontest.Settled)
	if s.Local.Addr().String() != charontest.VIP {
		t.Fatalf("the session is at %s, want %s", s.Local, charontest.VIP)
	}
	return ctx, gw, client, s
}

var twoVIPs = strings.Replace(charontest.GatewayConns, "local_addrs = "+charontest.VIP, "local_addrs = "+charontest.VIP+", "+charontest.VIP2, 1)

// requests counts the requests that charon sent, as its HA plugin tells them.
func requests(gw *charontest.Gateway) (n int) {
	for _, m := range gw.Messages() {
		if m.Type == charon.MIDInitiator {
			n++
		}
	}
	return n
}

// tell redirects the session to the second VIP.
func tell(t *testing.T, ctx context.Context, v *charon.Vici, s charon.IKESA) {
	t.Helper()
	if n, err := v.Redirect(ctx, charon.Target{ID: s.UniqueID}, charontest.VIP2); err != nil || n != 1 {
		t.Fatalf("redirect: %d matches, %v", n, err)
	}
}

// gone waits until the session at the first VIP has ended and one at the second exists.
func gone(t *testing.T, ctx context.Context, gw *charontest.Gateway, s charon.IKESA) {
	t.Helper()
	began := time.Now()
	now := gw.SA(ctx, func(x charon.IKESA) bool {
		return x.UniqueID != s.UniqueID && x.State == "ESTABLISHED" && x.Local.Addr().String() == charontest.VIP2
	})
	t.Logf("%s is %s at %s %v after it was told", s.ID, now.ID, now.Local.Addr(), time.Since(began).Round(time.Millisecond))
}

// A strongSwan client follows at once, with a new IKE_SA, also after it rekeyed its own.
func TestRedirectFollowed(t *testing.T) {
	for name, rekey := range map[string]bool{"new": false, "rekeyed": true} {
		t.Run(name, func(t *testing.T) {
			ctx, gw, client, s := redirectRig(t)
			if rekey {
				if n, err := client.RekeyIKE(ctx, charon.Target{Name: "home"}); err != nil || n != 1 {
					t.Fatalf("rekey: %d, %v", n, err)
				}
				old := s
				s = gw.SA(ctx, func(x charon.IKESA) bool { return x.ID != old.ID && x.State == "ESTABLISHED" })
			}
			tell(t, ctx, gw.VICI, s)
			gone(t, ctx, gw, s)
		})
	}
}

// A client that does not announce REDIRECT_SUPPORTED is sent nothing.
func TestRedirectUnsupported(t *testing.T) {
	ctx, gw, _, s := redirectRig(t, "follow_redirects = no")
	stays(t, ctx, gw, s)
}

// The HA link carries what the client announced: the new owner of a session tells
// those that follow, and only those.
func TestRedirectTakenOver(t *testing.T) {
	for name, further := range map[string][]string{"supported": nil, "unsupported": {"follow_redirects = no"}} {
		t.Run(name, func(t *testing.T) {
			ctx, gw, _, s := redirectRig(t, further...)
			twin := charontest.StartGateway(t, ctx)
			twin.NS.Addr("lo", charontest.VIP2+"/32")
			twin.Load(ctx, twoVIPs)
			if err := twin.Link.Passivate(ctx); err != nil {
				t.Fatal(err)
			}
			var fed []charon.Message
			for _, m := range gw.Wait(ctx, "the inner address", charontest.Has(charon.IKEUpdate, charon.RemoteVIP)) {
				if !m.Type.Control() {
					fed = append(fed, m)
				}
			}
			if err := twin.Link.Send(ctx, fed...); err != nil {
				t.Fatal(err)
			}
			twin.SA(ctx, charontest.Settled)
			if err := twin.Link.Activate(ctx); err != nil {
				t.Fatal(err)
			}
			s2 := twin.SA(ctx, func(x charon.IKESA) bool { return x.State == "ESTABLISHED" })
			if s2.ID != s.ID {
				t.Fatalf("the twin holds %s, want %s", s2.ID, s.ID)
			}
			if further != nil {
				stays(t, ctx, twin, s2)
				return
			}
			tell(t, ctx, twin.VICI, s2)
			// Its request, which no client hears here: the twin has no way to it.
			twin.Wait(ctx, "a request", func([]charon.Message) bool { return requests(twin) > 0 })
		})
	}
}

// stays redirects a session and checks that nothing of it goes out.
func stays(t *testing.T, ctx context.Context, gw *charontest.Gateway, s charon.IKESA) {
	t.Helper()
	before := requests(gw)
	tell(t, ctx, gw.VICI, s)
	deadline := time.Now().Add(2 * time.Second)
	for time.Now().Before(deadline) {
		if n := requests(gw) - before; n != 0 {
			t.Fatalf("charon sent %d requests to a client that cannot be told", n)
		}
		time.Sleep(50 * time.Millisecond) // the time in which nothing may happen
	}
	now := gw.SA(ctx, func(charon.IKESA) bool { return true })
	if now.ID != s.ID || now.State != "ESTABLISHED" || now.Local.Addr() != netip.MustParseAddr(charontest.VIP) {
		t.Errorf("the session is %+v, want %s as it was", now, s.ID)
	}
}
