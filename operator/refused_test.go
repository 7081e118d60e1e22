package operator

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestRefusedCalls(t *testing.T) {
	var r refusedCalls
	var told []string
	at := time.Unix(1000, 0)
	add := func(who string, after time.Duration) {
		r.add(refusedCall{who, "/m"}, at.Add(after), func(unsaid int) { told = append(told, fmt.Sprint(who, unsaid)) })
	}
	for i := range 100 {
		add("ann", time.Duration(i)*time.Millisecond)
	}
	add("bob", time.Second)
	add("ann", refusedAgain)
	add("ann", refusedAgain+time.Second)
	add("bob", 3*refusedAgain)
	if want := []string{"ann0", "bob0", "ann99", "bob0"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	for i := range 3 * refusedRows {
		add(fmt.Sprint(i), 4*refusedAgain)
	}
	if len(r.rows) > refusedRows {
		t.Errorf("%d rows, want at most %d", len(r.rows), refusedRows)
	}
}

// A reader that stands still holds up nobody, and what is sent comes in order.
func TestRelay(t *testing.T) {
	reads, sent := make(chan bool), 0
	report, said := relay(func(int) error {
		<-reads
		sent++
		return errors.New("nobody is there")
	})
	for i := range 10 * maxBehind {
		report(i)
	}
	close(reads)
	said()
	if sent < maxBehind || sent > maxBehind+1 {
		t.Errorf("%d were kept, want %d and perhaps the one being sent", sent, maxBehind)
	}
	var got []int
	report, said = relay(func(n int) error { got = append(got, n); return nil })
	for i := range 10 {
		report(i)
	}
	said()
	if want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}
