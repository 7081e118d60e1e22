package operator_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func TestHealthService(t *testing.T) {
	f := fleet(0)
	f.Limits = []*v1.HealthLimit{{Device: "disk sda (Z1)", Serial: "Z1", Limit: "D1.gone", Detail: "the drive vanished"}, {Serial: "Z2", Limit: "D1.failed"}, {Serial: "Z3", Limit: "D1.failed"}}
	d := start(t, f, 64)
	c, ctx := v1.NewHealthServiceClient(d.conn), t.Context()
	get := func(signals bool) *v1.GetHealthResponse {
		t.Helper()
		r, err := c.GetHealth(ctx, &v1.GetHealthRequest{Signals: signals})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := get(false); r.State != v1.Standing_STANDING_DEGRADED || len(r.Limits) != 3 || len(r.Signals) != 0 || !strings.Contains(r.Why, "the drive vanished") {
		t.Errorf("with three limits: %v", r)
	}
	if r := get(true); len(r.Signals) != 1 {
		t.Errorf("the signals that were asked for: %v", r.Signals)
	}
	clear := func(serial string) (uint32, error) {
		r, err := c.ClearHealth(ctx, &v1.ClearHealthRequest{Serial: serial})
		return r.GetCleared(), err
	}
	_, err := clear(strings.Repeat("x", 1000))
	wantStatus(t, "a long serial", err, codes.InvalidArgument, "SERIAL_INVALID", "at most")
	_, err = clear("Z9")
	wantStatus(t, "an unknown serial", err, codes.NotFound, "LIMIT_UNKNOWN", `"Z9"`)
	if n, err := clear("Z2"); n != 1 || err != nil {
		t.Errorf("one part: %d, %v", n, err)
	}
	if n, err := clear(""); n != 2 || err != nil {
		t.Errorf("all: %d, %v", n, err)
	}
	if r := get(false); r.State != v1.Standing_STANDING_NORMAL || len(r.Limits) != 0 {
		t.Errorf("after that: %v", r)
	}
	// Each call that changes something is an audit event, refused ones too.
	events, _, _ := d.events.After(0, 64)
	var told []string
	for _, e := range events {
		if e.Kind == "audit" {
			told = append(told, e.Attributes["serial"]+" "+e.Severity.String())
		}
	}
	if want := 3; len(told) != want {
		t.Errorf("audit events %q, want %d: of the unknown part, of Z2, and of all", told, want)
	}
	f.Err = errors.New("no")
	if _, err := c.GetHealth(ctx, &v1.GetHealthRequest{}); err == nil {
		t.Error("the source's error is lost")
	}
}
