package fabric

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// story plays looks at a table and writes down what comes out.
type story struct {
	t   *testing.T
	tab *table
	now time.Time
}

func newStory(t *testing.T, self int) *story {
	c := testFleet(t, "ams", "fra", "lhr")[self]
	s := &story{t, newTable(&c), time.Unix(1e9, 0)}
	s.tab.begin(s.now)
	return s
}

// look advances the clock and compares acts and notices with want.
func (s *story) look(after time.Duration, want string, sas ...charon.IKESA) {
	s.t.Helper()
	s.now = s.now.Add(after)
	var out []string
	for _, a := range s.tab.look(s.now, sas) {
		switch {
		case a.initiate != "":
			out = append(out, "initiate "+a.initiate)
		case a.endIKE != 0:
			out = append(out, fmt.Sprint("end IKE ", a.endIKE))
		default:
			out = append(out, fmt.Sprint("end child ", a.endChild))
		}
	}
	for _, n := range s.tab.take() {
		out = append(out, n.Text)
	}
	if got := strings.Join(out, "; "); got != want {
		s.t.Errorf("at %s: %q, want %q", s.now.Sub(time.Unix(1e9, 0)), got, want)
	}
}

// kid is a CHILD_SA installed age ago.
func kid(id uint32, age time.Duration) charon.ChildSA {
	return charon.ChildSA{UniqueID: id, State: "INSTALLED", In: sa.SPI(id), Out: sa.SPI(id + 1000), Installed: age}
}

func ike(name string, id uint32, kids ...charon.ChildSA) charon.IKESA {
	return charon.IKESA{Name: name, UniqueID: id, State: "ESTABLISHED", Children: kids}
}

func connecting(name string, id uint32) charon.IKESA {
	return charon.IKESA{Name: name, UniqueID: id, State: "CONNECTING", Initiator: true}
}

func TestTableStart(t *testing.T) {
	s := newStory(t, 1)                                                       // fra: ams is lower, lhr higher
	s.look(0, "initiate lhr")                                                 // ams may come by itself
	s.look(100*time.Millisecond, "")                                          // too early to repeat
	s.look(200*time.Millisecond, "initiate ams; initiate lhr", ike("fra", 9)) // yielded long enough; a stranger's SA counts for nothing
	s.look(time.Second, "the tunnel to ams is protected", ike("ams", 1, kid(1, 0)), connecting("lhr", 2))
	s.look(time.Minute, "the tunnel to lhr drops everything", ike("ams", 1, kid(1, time.Minute)), connecting("lhr", 3))
	s.look(time.Second, "the tunnel to lhr is protected; all peer tunnels are protected", ike("ams", 1, kid(1, time.Minute)), ike("lhr", 4, kid(7, 0)))
	st := s.tab.status()
	if !st[0].Up || !st[1].Up || st[1].In != 7 || st[1].Out != 1007 || !st[1].Since.Equal(s.now) || st[0].Peer != "ams" {
		t.Errorf("status %+v", st)
	}
	if d := s.tab.wait(s.now); d != idle {
		t.Errorf("waits %s, want %s", d, idle)
	}
}

func TestTableDown(t *testing.T) {
	s := newStory(t, 0)
	fra, lhr := ike("fra", 1, kid(1, 0)), ike("lhr", 2, kid(2, 0))
	s.look(0, "the tunnel to fra is protected; the tunnel to lhr is protected; all peer tunnels are protected", fra, lhr)
	s.look(time.Second, "initiate fra; the tunnel to fra drops everything", lhr)
	if d := s.tab.wait(s.now); d <= 0 || d > firstRetry {
		t.Errorf("waits %s with a tunnel down", d)
	}
	for range 20 { // bounded backoff: always one try within maxRetry
		s.look(maxRetry, "initiate fra", lhr)
	}
	// An IKE_SA without child is no tunnel.
	s.look(maxRetry, "initiate fra", ike("fra", 3), lhr)
	s.look(time.Second, "the tunnel to fra is protected; all peer tunnels are protected", ike("fra", 3, kid(9, 0)), lhr)
	// charon died: its successor has nothing, and that is no news.
	s.tab.begin(s.now)
	s.look(0, "initiate fra; initiate lhr")
	s.look(time.Second, "the tunnel to fra is protected; the tunnel to lhr is protected; all peer tunnels are protected", ike("fra", 1, kid(1, 0)), ike("lhr", 2, kid(2, 0)))
}

func TestTableTwo(t *testing.T) {
	low, high := newStory(t, 0), newStory(t, 1)
	low.tab.peers, high.tab.peers = low.tab.peers[:1], high.tab.peers[:1]
	for _, x := range []struct {
		s    *story
		peer string
		want string
	}{{low, "fra", "end IKE 1"}, {high, "ams", ""}} {
		sas := []charon.IKESA{ike(x.peer, 1, kid(1, 3*time.Second)), ike(x.peer, 2, kid(2, time.Second))}
		x.s.look(0, "the tunnel to "+x.peer+" is protected; all peer tunnels are protected", sas...)
		if got := x.s.tab.status()[0].In; got != 2 {
			t.Errorf("newest SPI %s, want 2", got)
		}
		x.s.look(time.Second, "", sas...)
		x.s.look(doubled, x.want, sas...)
	}
	// One IKE_SA, two children; a rekey under way is left alone.
	a, b := kid(5, time.Minute), kid(6, time.Second)
	rekeying := kid(5, time.Minute)
	rekeying.State = "REKEYING"
	low.look(time.Second, "", ike("fra", 2, a, b))
	low.look(doubled, "", ike("fra", 2, rekeying, b))
	low.look(time.Second, "end child 5", ike("fra", 2, a, b))
	low.look(time.Second, "", ike("fra", 2, b))
	// Equal ages: the higher number is the newer one.
	same := []charon.ChildSA{kid(6, 0), kid(8, 0)}
	slices.Reverse(same)
	low.look(time.Second, "", ike("fra", 2, same...))
	low.look(doubled, "end child 6", ike("fra", 2, same...))
}
