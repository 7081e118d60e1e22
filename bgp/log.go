package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// diagnosis keeps, per router, the last thing that went wrong with its session.
// Failures of an outgoing handshake reach nobody but GoBGP's log, so that is
// where they are taken from; nothing is decided by them.
type diagnosis struct {
	mu   sync.Mutex
	last map[netip.Addr]string
	told map[netip.Addr]map[string]time.Time
}

// tellAgain is how long the same reason is not told again: a router that cannot be
// reached is tried every few seconds.
const tellAgain = 10 * time.Minute

func newDiagnosis() *diagnosis {
	return &diagnosis{last: map[netip.Addr]string{}, told: map[netip.Addr]map[string]time.Time{}}
}

// set notes text for a, "" that all is well, and reports whether to tell of it.
func (d *diagnosis) set(a netip.Addr, text string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if text == "" {
		delete(d.last, a)
		delete(d.told, a)
		return false
	}
	d.last[a] = text
	if d.told[a] == nil {
		d.told[a] = map[string]time.Time{}
	}
	if at, ok := d.told[a][text]; ok && now.Sub(at) < tellAgain {
		return false
	}
	d.told[a][text] = now
	return true
}

func (d *diagnosis) get(a netip.Addr) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last[a]
}

// logHandler translates GoBGP's records to ours: fixed keys, router names for
// addresses, its Info at our Debug because the speaker logs state changes itself.
type logHandler struct {
	next  slog.Handler
	names map[netip.Addr]string
	// refused is told why a session does not come up.
	refused func(netip.Addr, string)
	drops   *tcpDrops
	peer    netip.Addr // from the attributes of the logger, if any
}

// Enabled is true for every level: Debug records carry the dial errors.
func (h *logHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	peer := h.peer
	attrs := make([]slog.Attr, 0, r.NumAttrs())
	raw := make(map[string]slog.Value, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		raw[a.Key] = a.Value
		b, who := h.translate(a)
		if who.IsValid() {
			peer = who
		}
		if b.Key != "" {
			attrs = append(attrs, b)
		}
		return true
	})
	if text := diagnose(r.Message, raw); text != "" && peer.IsValid() {
		if r.Message == "failed to connect" && strings.HasSuffix(text, "timeout") {
			text += h.drops.hint(peer)
		}
		h.refused(peer, text)
	}
	level := r.Level
	if level == slog.LevelInfo || level == slog.LevelError && r.Message == "unexpected message sent" {
		level = slog.LevelDebug
	}
	if !h.next.Enabled(ctx, level) {
		return nil
	}
	out := slog.NewRecord(r.Time, level, "gobgp: "+strings.ToLower(r.Message), r.PC)
	out.AddAttrs(attrs...)
	return h.next.Handle(ctx, out)
}

// ceaseBFDDown is the subcode of RFC 9384, for which GoBGP has no name.
const ceaseBFDDown = 10

// diagnose reads the records that explain why a session does not come up.
func diagnose(msg string, a map[string]slog.Value) string {
	switch msg {
	case "failed to connect":
		return "connect: " + withoutPorts(a["Error"].String())
	case "sent notification", "received notification":
		code, sub := a["Code"], a["Subcode"]
		if code.Kind() != slog.KindInt64 || sub.Kind() != slog.KindInt64 {
			return ""
		}
		who := "we refused the router"
		if msg == "received notification" {
			who = "the router refused us"
		}
		n := gobgp.NewNotificationErrorCode(uint8(code.Int64()), uint8(sub.Int64()))
		text := fmt.Sprintf("%s: %s", who, n)
		if code.Int64() == gobgp.BGP_ERROR_CEASE && sub.Int64() == ceaseBFDDown {
			text = who + ": its BFD session with us is down"
		}
		if n == gobgp.NewNotificationErrorCode(gobgp.BGP_ERROR_OPEN_MESSAGE_ERROR, gobgp.BGP_ERROR_SUB_BAD_PEER_AS) {
			text += ": its AS number is not the configured one"
		}
		if c := a["Communicated-Reason"].String(); c != "" && c != "<nil>" {
			text += fmt.Sprintf(" (%q)", c)
		}
		return text
	}
	return ""
}

// withoutPorts takes the changing source port out of a dial error, so that the same
// failure is the same text.
func withoutPorts(s string) string { return sourcePort.ReplaceAllString(s, "$1->") }

var sourcePort = regexp.MustCompile(`(dial tcp [0-9a-fA-F.:\[\]]+):[0-9]+->`)

// translate maps one of GoBGP's attributes; the address is that of a router the
// record is about.
func (h *logHandler) translate(a slog.Attr) (slog.Attr, netip.Addr) {
	switch a.Key {
	case "Topic":
		return slog.Attr{}, netip.Addr{}
	case "Key", "Peer":
		addr, err := netip.ParseAddr(a.Value.String())
		if err != nil {
			return slog.String("peer", a.Value.String()), netip.Addr{}
		}
		name := h.names[addr]
		if name == "" {
			name = addr.String()
		}
		return slog.String("peer", name), addr
	case "Error", "Err":
		return slog.Attr{Key: "err", Value: a.Value}, netip.Addr{}
	}
	key := strings.NewReplacer(" ", "_", "-", "_").Replace(strings.ToLower(a.Key))
	return slog.Attr{Key: key, Value: a.Value}, netip.Addr{}
}

func (h *logHandler) WithAttrs(as []slog.Attr) slog.Handler {
	n := *h
	out := make([]slog.Attr, 0, len(as))
	for _, a := range as {
		b, who := h.translate(a)
		if who.IsValid() {
			n.peer = who
		}
		if b.Key != "" {
			out = append(out, b)
		}
	}
	n.next = h.next.WithAttrs(out)
	return &n
}

// WithGroup keeps the attributes flat: GoBGP opens no groups.
func (h *logHandler) WithGroup(string) slog.Handler { return h }
