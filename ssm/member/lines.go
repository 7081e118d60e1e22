package member

import (
	"net/netip"
	"strings"
)

// lines takes what memberlist logs. Packets and streams that it refuses are told
// nowhere else; the texts are those of the release in go.mod, which the tests of
// this package pin.
type lines struct{ g *Gossip }

func (l lines) Write(b []byte) (int, error) {
	text := strings.TrimSpace(string(b))
	if reason, source, ok := refusedLine(text); ok {
		l.g.cfg.Refused(reason, "", source, text)
	} else {
		l.g.cfg.Logger.Debug("gossip", "text", text)
	}
	return len(b), nil
}

// marks are parts of memberlist's texts, in lower case, and what they mean.
var marks = []struct{ text, reason string }{
	{"unacceptable label", RefuseFleet},
	{"no installed keys could decrypt", RefuseKey},
	{"remote state is not encrypted", RefuseKey},
	{"unsupported encryption version", RefuseKey},
	{"payload is too small to decrypt", RefuseKey},
	{"label header", RefuseMessage},
	{"cannot decode label", RefuseMessage},
	{"failed to decode", RefuseMessage},
	{"truncated messages", RefuseMessage},
	{"not supported", RefuseMessage},
	{"exceeds limit", RefuseMessage},
	{"larger than limit", RefuseMessage},
	{"invalid msgtype", RefuseMessage},
	{"missing message type byte", RefuseMessage},
}

// refusedLine reads a line of memberlist's log: whether something that came in
// was refused, why, and from where.
func refusedLine(text string) (reason string, source netip.Addr, ok bool) {
	if !strings.HasPrefix(text, "[ERR]") && !strings.HasPrefix(text, "[WARN]") {
		return "", source, false
	}
	_, from, ok := strings.Cut(text, "from=")
	if !ok {
		return "", source, false
	}
	lower := strings.ToLower(text)
	for _, m := range marks {
		if strings.Contains(lower, m.text) {
			from, _, _ = strings.Cut(from, " ")
			if at, err := netip.ParseAddrPort(from); err == nil {
				source = at.Addr().Unmap()
			}
			return m.reason, source, true
		}
	}
	return "", source, false
}
