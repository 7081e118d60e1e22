package swanctl

import "strings"

// Policies by which a connection lets one client have one session, as swanctl.conf(5)
// names them. With no and never charon compares nothing.
const (
	UniqueKeep    = "keep"    // the session that is there stays, a new one is refused
	UniqueReplace = "replace" // a new session ends the one that is there
)

// Unique returns the connections whose policy is UniqueKeep or UniqueReplace, by name; nil
// where there is none.
func (c *Config) Unique() map[string]string {
	var out map[string]string
	for _, s := range c.conns {
		v, ok := s.find("unique")
		if !ok {
			continue
		}
		// charon reads the word in any case.
		switch p := strings.ToLower(v.value); p {
		case UniqueKeep, UniqueReplace:
			if out == nil {
				out = map[string]string{}
			}
			out[s.name] = p
		}
	}
	return out
}
