package operator

import (
	"time"

	"github.com/shadowcast/shadowcast/pki"
)

// Methods are the full names of everything that s answers, with the role that each
// takes; 0 where none is listed.
func (s *Server) Methods() map[string]pki.Role {
	out := map[string]pki.Role{}
	for name, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			full := "/" + name + "/" + m.Name
			out[full] = roles[full]
		}
	}
	return out
}

// Roles is the table of roles.
var Roles = roles

// ListenAgain sets how soon a failed listener is tried again.
func (s *Server) ListenAgain(d time.Duration) { s.again = d }
