package node

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/shadowcast/shadowcast/ssm/replica"
	"github.com/shadowcast/shadowcast/ssm/session"
)

// goldenDoc is the golden session of package session, of slot 7, in version rev.
func goldenDoc(t *testing.T, rev uint64) *session.Document {
	t.Helper()
	raw, err := os.ReadFile("../session/testdata/session.packed")
	if err != nil {
		t.Fatal(err)
	}
	d, err := session.Unpack(bytes.Clone(raw))
	if err != nil {
		t.Fatal(err)
	}
	d.Rev = rev
	return d
}

// changeOf is what a shadow sends of a document.
func changeOf(t *testing.T, d *session.Document) replica.Change {
	t.Helper()
	b, err := d.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return replica.Change{Item: replica.Item{ID: d.SessionID, Hash: replica.HashOf(b)}, Doc: b}
}

// fakeShadows are shadows by name: what each does when it is asked.
type fakeShadows map[string]func(ctx context.Context, put func(replica.Change) error) error

// gather asks all of them within gatherWithin, and tells how long that took.
func (f fakeShadows) gather(t *testing.T) (g gathered, took time.Duration) {
	t.Helper()
	var from []replica.Shadow
	for n := range f {
		from = append(from, replica.Shadow{Name: n})
	}
	slices.SortFunc(from, func(a, b replica.Shadow) int { return strings.Compare(a.Name, b.Name) })
	ctx, cancel := context.WithTimeout(t.Context(), gatherWithin)
	defer cancel()
	var wg sync.WaitGroup
	before := time.Now()
	g = gather(ctx, 7, from, func(ctx context.Context, from replica.Shadow, put func(replica.Change) error) error {
		return f[from.Name](ctx, put)
	}, func(f func() error) { wg.Go(func() { _ = f() }) })
	took = time.Since(before)
	wg.Wait()
	return g, took
}

// tells sends changes after some time, and err at the end.
func tells(after time.Duration, err error, cs ...replica.Change) func(context.Context, func(replica.Change) error) error {
	return func(_ context.Context, put func(replica.Change) error) error {
		time.Sleep(after)
		for _, c := range cs {
			if err := put(c); err != nil {
				return err
			}
		}
		return err
	}
}

func dead(ctx context.Context, _ func(replica.Change) error) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestGather(t *testing.T) {
	old, now := goldenDoc(t, 4), goldenDoc(t, 9)
	strange := changeOf(t, now)
	strange.ID = "another"
	wrongSlot := goldenDoc(t, 9)
	wrongSlot.Slot = 8
	refused := status.Error(codes.PermissionDenied, "does not shadow slot 7 for ams yet")
	for name, x := range map[string]struct {
		shadows  fakeShadows
		rev      uint64 // 0: nothing
		bad      int
		answered string
		silent   string
		took     time.Duration
	}{
		"nobody to ask":      {fakeShadows{}, 0, 0, "", "", 0},
		"nobody answers":     {fakeShadows{"fra": dead, "lhr": dead}, 0, 0, "", "fra (no answer in time) lhr (no answer in time)", gatherWithin},
		"two versions":       {fakeShadows{"fra": tells(0, nil, changeOf(t, now)), "lhr": tells(100*time.Millisecond, nil, changeOf(t, old))}, 9, 0, "fra lhr", "", 100 * time.Millisecond},
		"the newer one late": {fakeShadows{"fra": tells(0, nil, changeOf(t, old)), "lhr": tells(time.Second, nil, changeOf(t, now))}, 9, 0, "fra lhr", "", time.Second},
		"too late": {fakeShadows{"fra": tells(0, nil, changeOf(t, old)), "lhr": tells(gatherWithin+time.Second, nil, changeOf(t, now))}, 4, 0, "fra",
			"lhr (no answer in time)", gatherWithin},
		"cut off in the middle": {fakeShadows{"fra": tells(0, errors.New("the list ended"), changeOf(t, now))}, 9, 0, "", "fra (the list ended)", 0},
		"malformed": {fakeShadows{"fra": tells(0, nil, replica.Change{Item: replica.Item{ID: "x"}, Doc: []byte{1, 2, 3}}, strange, changeOf(t, wrongSlot), changeOf(t, now))},
			9, 3, "fra", "", 0},
		"does not know of the claim for a while": {fakeShadows{"fra": func() func(context.Context, func(replica.Change) error) error {
			asked := 0
			return func(_ context.Context, put func(replica.Change) error) error {
				if asked++; asked <= 4 {
					return refused
				}
				return put(changeOf(t, now))
			}
		}()}, 9, 0, "fra", "", 4 * askAgain},
		"never hears of it": {fakeShadows{"fra": func(context.Context, func(replica.Change) error) error { return refused }}, 0, 0, "",
			"fra (" + refused.Error() + ")", gatherWithin},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, took := x.shadows.gather(t)
				var rev uint64
				for _, d := range g.docs {
					rev = max(rev, d.Rev)
				}
				if rev != x.rev || len(g.docs) > 1 || g.bad != x.bad || (g.problem != nil) != (x.bad > 0) {
					t.Errorf("%d documents, version %d, %d bad (%v)", len(g.docs), rev, g.bad, g.problem)
				}
				if got := strings.Join(g.answered, " "); got != x.answered {
					t.Errorf("answered %q, want %q", got, x.answered)
				}
				if got := strings.Join(g.silent, " "); got != x.silent {
					t.Errorf("silent %q, want %q", got, x.silent)
				}
				if took != x.took {
					t.Errorf("took %s, want %s", took, x.took)
				}
			})
		})
	}
}
