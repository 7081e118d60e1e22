package fabric

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// Config describes one appliance's part of the fabric.
type Config struct {
	Self   string     // name of this appliance, the DNS name in its certificate
	Local  netip.Addr // its IPv4 address, on lo
	Peers  []Peer     // the other appliances; none: no charon runs
	RunDir string     // absolute; the charon's directory is RunDir/fabric
	// Netns is the path of the host namespace, "" for the caller's.
	Netns string
	// CA, Cert and Key are the PEM files of package pki. They are read whenever
	// connections are loaded.
	CA, Cert, Key string
	// Notify hears of changes, from one goroutine; it must not block. Optional.
	Notify func(Notice)
}

// Peer is another appliance.
type Peer struct {
	Name string
	Addr netip.Addr
}

// Notice is a change worth an event.
type Notice struct {
	Peer   string // "" where it is about all of them
	Warn   bool
	Text   string
	Reason string
}

// PeerStatus says how the tunnel to a peer is protected.
type PeerStatus struct {
	Peer  string
	Addr  netip.Addr
	Up    bool      // an SA is installed; without one, nothing passes
	Since time.Time // of Up, or of its absence
	// In and Out are the SPIs of the newest SA, 0 where there is none.
	In, Out sa.SPI
}

// nameForm is what package pki issues. It is also safe in vici and in file names.
var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

func (c *Config) check() error {
	if !filepath.IsAbs(c.RunDir) {
		return fmt.Errorf("run directory %q is not absolute", c.RunDir)
	}
	for _, f := range []string{c.CA, c.Cert, c.Key} {
		if f == "" {
			return errors.New("certificate authority, certificate or key is not given")
		}
	}
	names, addrs := map[string]bool{}, map[netip.Addr]bool{}
	for _, p := range append([]Peer{{c.Self, c.Local}}, c.Peers...) {
		switch {
		case !nameForm.MatchString(p.Name):
			return fmt.Errorf("appliance %q: want at most 32 lower-case letters, digits and inner hyphens", p.Name)
		case names[p.Name]:
			return fmt.Errorf("appliance %s is given twice", p.Name)
		case !p.Addr.Is4() || p.Addr.IsUnspecified() || p.Addr.IsMulticast():
			return fmt.Errorf("appliance %s: address %s, want a unicast IPv4 address", p.Name, p.Addr)
		case addrs[p.Addr]:
			return fmt.Errorf("appliance %s: address %s belongs to another appliance", p.Name, p.Addr)
		}
		names[p.Name], addrs[p.Addr] = true, true
	}
	return nil
}

// reqid names the SAs of a peer in the kernel, in every life of charon. It is far
// from the small numbers that other users of IPsec take.
func (p Peer) reqid() uint32 {
	a := p.Addr.As4()
	return binary.BigEndian.Uint32(a[:])
}
