package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func topCommand(a *app) *cobra.Command {
	var every time.Duration
	var frames int
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch slots, shadows, packets and handovers live",
		Long: `Watch this appliance live: slots with their packets per second, shadows, neighbours,
hardware health, and what happened last. Ctrl-C ends it.`,
		Example: "  shadowctl top\n  shadowctl top --frames 1 > now.txt",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return usagef("--interval %v: want at least 100ms", every)
			}
			if a.json() {
				return usagef("top is for people; 'shadowctl status -o json' is for programs")
			}
			return a.top(cmd.Context(), every, frames)
		},
	}
	cmd.Flags().DurationVar(&every, "interval", time.Second, "time between two looks")
	cmd.Flags().IntVar(&frames, "frames", 0, "end after so many looks; 0: go on")
	return cmd
}

// look is what one frame shows.
type look struct {
	at     time.Time
	status *v1.GetStatusResponse
	health *v1.GetHealthResponse
	events []*v1.Event
}

// lastEvents is how many of the newest events a frame shows.
const lastEvents = 8

func (a *app) top(ctx context.Context, every time.Duration, frames int) error {
	conn, err := a.dialConn()
	if err != nil {
		return err
	}
	defer conn.Close()
	t := time.NewTicker(every)
	defer t.Stop()
	var before *look
	for n := 1; ; n++ {
		now, err := a.look(ctx, v1.NewOperatorServiceClient(conn), v1.NewHealthServiceClient(conn))
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return a.explain(err)
		}
		var b bytes.Buffer
		if err := frame(&b, before, now); err != nil {
			return err
		}
		text := b.String()
		if frames != 1 { // overwrite in place: home, end of each line, rest of the screen (ECMA-48)
			text = "\x1b[H" + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
		}
		if _, err := io.WriteString(a.out, text); err != nil {
			return err
		}
		if n == frames {
			return nil
		}
		before = now
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (a *app) look(ctx context.Context, c v1.OperatorServiceClient, h v1.HealthServiceClient) (*look, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	l := &look{at: time.Now()}
	var err error
	if l.status, err = c.GetStatus(ctx, &v1.GetStatusRequest{}); err != nil {
		return nil, err
	}
	if l.health, err = h.GetHealth(ctx, &v1.GetHealthRequest{}); err != nil {
		return nil, err
	}
	stream, err := c.WatchEvents(ctx, &v1.WatchEventsRequest{})
	if err != nil {
		return nil, err
	}
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return l, nil
		}
		if err != nil {
			return nil, err
		}
		if l.events = append(l.events, m.Event); len(l.events) > lastEvents {
			l.events = l.events[1:]
		}
	}
}

// frame draws one look; before, which may be nil, gives the rates.
func frame(w io.Writer, before, now *look) error {
	p := now.status.Appliance
	state := "in service"
	if p.GetDraining() {
		state = "DRAINING"
	}
	risk := "hardware not watched"
	if h := now.health; h.GetEnabled() {
		risk = fmt.Sprintf("hardware %s, risk %.2f %% in 30 days", word("STANDING", h.State), 100*h.Risk_30D)
	}
	fmt.Fprintf(w, "%s  %s  %s  up %s  %d sessions in %d slots, %d with a ready shadow, twins of %d  %s\n\n", now.at.Format("15:04:05"), clean(p.GetName()), state, span(p.GetUptime()),
		p.GetSessions(), p.GetSlotsActive(), covered(now.status.Slots), p.GetSlotsShadowed(), risk)
	t := newTable("SLOT", "OWNER", "HERE", "STATE", "SESSIONS", "IN/S", "TUNNEL/S", "LAG", "SHADOWS")
	for _, s := range now.status.Slots {
		t.add(fmt.Sprint(s.Number), cmp.Or(s.Owner, "nobody"), word("ROLE", s.Role), word("SLOT_STATE", s.State), number(s.Sessions),
			rate(before, now, s, "packets_uplink_local", "packets_peer_local"), rate(before, now, s, "packets_tunnelled"), worstLag(s), shadowList(s.Shadows))
	}
	if err := t.print(w); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if len(now.status.Peers) > 0 {
		if err := printPeers(w, now.status.Peers, nil); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	for _, e := range now.events {
		fmt.Fprintln(w, eventLine(e))
	}
	return nil
}

// rate is the sum of counters of slot s per second since the look before.
func rate(before, now *look, s *v1.Slot, keys ...string) string {
	if before == nil {
		return ""
	}
	for _, b := range before.status.Slots {
		if b.Number != s.Number {
			continue
		}
		var was, is uint64
		for _, k := range keys {
			was, is = was+b.Counters[k], is+s.Counters[k]
		}
		if dt := now.at.Sub(before.at).Seconds(); dt > 0 && is > was {
			return fmt.Sprintf("%.0f", float64(is-was)/dt)
		}
	}
	return ""
}

func worstLag(s *v1.Slot) string {
	var worst time.Duration
	for _, sh := range s.Shadows {
		worst = max(worst, sh.Lag.AsDuration())
	}
	if worst == 0 {
		return ""
	}
	return short(worst)
}
