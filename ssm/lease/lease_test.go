package lease

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	good := Request{Op: OpAsk, Token: "x", Holder: "ams", TTL: time.Hour}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Request){
		"unknown operation": func(r *Request) { r.Op = "take" },
		"token":             func(r *Request) { r.Token = "" },
		"holder":            func(r *Request) { r.Holder = "" },
		"reason too long":   func(r *Request) { r.Reason = strings.Repeat("x", 257) },
		"want 1m0s to":      func(r *Request) { r.TTL = time.Second },
	} {
		r := good
		change(&r)
		if err := r.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", r, err, want)
		}
	}
}

// One at a time, whatever is lost, repeated, late, rebooted or contended.
func TestNeverTwoHolders(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 7))
		now := time.Unix(1000, 0)
		names := []string{"r1", "r2", "r3", "r4", "r5"}[:1+2*rng.IntN(3)]
		voters := map[string]*Voter{}
		for _, n := range names {
			voters[n] = NewVoter(Promise{})
		}
		type request struct {
			r     Request
			t     *Tally
			began time.Time
		}
		type holding struct {
			token string
			until time.Time
		}
		var open []*request
		var holds []holding
		live := func() int {
			n := 0
			for _, h := range holds {
				if now.Before(h.until) {
					n++
				}
			}
			return n
		}
		won := 0
		for step := range 2000 {
			now = now.Add(time.Duration(rng.IntN(2000)) * time.Millisecond)
			switch k := rng.IntN(20); {
			case k == 0:
				open = append(open, &request{Request{Op: OpAsk, Token: fmt.Sprint(step), Holder: fmt.Sprint("n", rng.IntN(4)), TTL: MinTTL}, NewTally(names), now})
			case k == 1 && len(holds) > 0: // the holder is done
				i := rng.IntN(len(holds))
				holds[i].until = now
				for _, v := range voters {
					if rng.IntN(3) > 0 {
						v.Ask(Request{Op: OpRelease, Token: holds[i].token}, now)
					}
				}
			case k == 2: // a registrar reboots and reads what it stored
				n := names[rng.IntN(len(names))]
				b, err := json.Marshal(voters[n].Promise())
				var p Promise
				if err != nil || json.Unmarshal(b, &p) != nil {
					t.Fatal(err)
				}
				voters[n] = NewVoter(p)
			case len(open) > 0: // a datagram arrives, perhaps not its answer
				q := open[rng.IntN(len(open))]
				n := names[rng.IntN(len(names))]
				a, _ := voters[n].Ask(q.r, now)
				if rng.IntN(4) > 0 {
					q.t.Add(n, a)
				}
				if q.t.Won() {
					// The holder counts from before it asked, so it ends first.
					holds = append(holds, holding{q.r.Token, q.began.Add(q.r.TTL)})
					won++
				}
				if q.t.Won() || q.t.Lost() || now.Sub(q.began) > MinTTL {
					for i, o := range open {
						if o == q {
							open = append(open[:i], open[i+1:]...)
							break
						}
					}
				}
			}
			if live() > 1 {
				t.Fatalf("seed %d step %d: two holders", seed, step)
			}
		}
		if won == 0 {
			t.Fatalf("seed %d: nobody ever held the lock", seed)
		}
	}
}

func TestExpiryAndRenewal(t *testing.T) {
	now := time.Unix(1000, 0)
	v := NewVoter(Promise{})
	ask := Request{Op: OpAsk, Token: "a", Holder: "ams", TTL: time.Hour, Reason: "upgrade"}
	if a, changed := v.Ask(ask, now); !a.Granted || !changed || a.Left != time.Hour {
		t.Fatalf("a free lock: %+v", a)
	}
	other := Request{Op: OpAsk, Token: "b", Holder: "fra", TTL: time.Hour}
	if a, changed := v.Ask(other, now.Add(30*time.Minute)); a.Granted || changed || a.Holder != "ams" || a.Left != 30*time.Minute || a.Reason != "upgrade" {
		t.Fatalf("a held lock: %+v", a)
	}
	if a, _ := v.Ask(ask, now.Add(30*time.Minute)); !a.Granted || a.Left != time.Hour {
		t.Fatalf("a renewal: %+v", a)
	}
	if a, changed := v.Ask(Request{Op: OpRelease, Token: "b"}, now.Add(31*time.Minute)); !a.Granted || changed || a.Holder != "ams" {
		t.Fatalf("a release by somebody else: %+v", a)
	}
	if a, _ := v.Ask(other, now.Add(90*time.Minute)); !a.Granted || a.Holder != "fra" {
		t.Fatalf("an expired lock: %+v", a)
	}
}

func TestTally(t *testing.T) {
	c := NewTally([]string{"r1", "r2", "r3"})
	c.Add("stranger", Answer{Granted: true})
	c.Add("r1", Answer{Granted: true, Holder: "ams", Left: time.Hour})
	c.Add("r1", Answer{Granted: true})
	if c.Won() || c.Lost() {
		t.Fatal("one of three decides nothing")
	}
	c.Add("r2", Answer{Holder: "fra"})
	if c.Won() || c.Lost() || c.Complete() {
		t.Fatal("one against one decides nothing")
	}
	c.Add("r3", Answer{Granted: true, Holder: "ams", Left: time.Minute})
	if name, _, left, held := c.Holder(); !c.Won() || !c.Complete() || !held || name != "ams" || left != time.Minute {
		t.Fatalf("two of three: won %t, held by %s for %s", c.Won(), name, left)
	}
	d := NewTally([]string{"r1", "r2", "r3"})
	d.Add("r1", Answer{})
	d.Add("r2", Answer{})
	if !d.Lost() {
		t.Fatal("two refusals of three leave no majority")
	}
}
