package preflight

import (
	"errors"
	"math"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/sa"
)

func strongSwan(f *Facts, out *findings) {
	if f.Plugins == nil {
		return
	}
	if f.Charon == "" {
		out.add(Fatal, "strongswan", "every slot runs one", "apt-get install charon-systemd", "charon-systemd is not installed")
	}
	for _, p := range []struct{ name, why string }{{"ha", "shadowcast is its peer"}, {"vici", "connections are loaded through it"}, {"kernel-netlink", "it installs the SAs"}} {
		if path, ok := f.Plugins[p.name]; ok && path == "" {
			out.add(Fatal, "strongswan-plugin", p.why, "apt-get install libcharon-extra-plugins libstrongswan-extra-plugins", "strongSwan's plugin %s is not installed", p.name)
		}
	}
	if v := f.Strongswan; v != "" && !strings.HasPrefix(v, "5.9.") && !strings.HasPrefix(v, "6.0.") {
		out.add(Fatal, "strongswan-version", "its ha plugin may speak another version of the protocol", "install strongSwan 5.9 or 6.0", "strongSwan %s, want 5.9 or 6.0", v)
	}
}

func connections(f *Facts, out *findings) {
	if f.Config == nil || f.Plugins == nil {
		return
	}
	for _, err := range f.Connections {
		out.add(Fatal, "connection", "a session of this connection could not be taken over as promised", "edit it in "+f.Config.SwanctlDir+" on every appliance", "%v", err)
	}
	if len(f.Connections) > 0 {
		return
	}
	for _, m := range f.EAP {
		if f.Plugins[m] == "" {
			out.add(Warning, "eap-plugin", "clients that authenticate by it are refused", "apt-get install libcharon-extauth-plugins libcharon-extra-plugins", "connections ask for %s, whose plugin is not installed", m)
		}
	}
	if f.Names == 0 {
		out.add(Warning, "no-connections", "no client can connect", "put connections into "+f.Config.SwanctlDir+"/conf.d, the same on every appliance", "no connection is configured")
	} else if f.DPD == 0 {
		out.add(Info, "dpd", "a client that vanishes keeps its inner address until its SA ends", "set dpd_delay = 60s in the connections", "no connection checks whether its client lives (dpd_delay)")
	}
}

// expirySoon is when a certificate that ends is worth a warning.
const expirySoon = 14 * 24 * time.Hour

func certificates(f *Facts, out *findings) {
	c := f.Config
	if c == nil || f.Now.IsZero() {
		return
	}
	const why = "appliances know each other by certificates of the fleet's CA"
	command := "shadowctl pki issue " + c.Node + " --address " + c.Self().Address.String() + " --dir pki"
	issue := command + " --force, where the CA is; copy both files to " + filepath.Dir(c.PKI.Cert)
	if f.FleetKey != nil {
		out.add(Fatal, "fleet-key", "probes and claims are authenticated with it", "copy fleet.key from where `shadowctl pki init` ran to "+c.FleetKeyFile, "%v", f.FleetKey)
	}
	if f.Identity != nil {
		files := strings.Join([]string{filepath.Base(c.PKI.CA), filepath.Base(c.PKI.Cert), filepath.Base(c.PKI.Key)}, ", ")
		if errors.Is(f.Identity, pki.ErrOpen) {
			out.add(Fatal, "certificate", why, "chmod 600 "+c.PKI.Key, "%v", f.Identity)
			return
		}
		out.add(Fatal, "certificate", why, command+", where the CA is (--force, if "+filepath.Base(c.PKI.Cert)+" is there and wrong); copy "+files+" to "+filepath.Dir(c.PKI.Cert), "%v", f.Identity)
		return
	}
	for _, x := range []struct {
		name  string
		until time.Time
		fix   string
	}{{"the certificate " + c.PKI.Cert, f.NotAfter, issue}, {"the CA " + c.PKI.CA, f.CANotAfter, "shadowctl pki rotate --dir pki, where the CA is; then, step by step, \"Replace the fleet's CA\" in docs/operations.md"}} {
		switch left := x.until.Sub(f.Now); {
		case x.until.IsZero():
		case left <= 0:
			out.add(Fatal, "certificate-expired", why, x.fix, "%s ended on %s", x.name, x.until.Format(time.DateOnly))
		case left < expirySoon:
			out.add(Warning, "certificate-ends", why, x.fix, "%s ends on %s", x.name, x.until.Format(time.DateOnly))
		}
	}
	if f.NotBefore.After(f.Now) {
		out.add(Fatal, "certificate-future", "others would refuse it too, or this clock is wrong", "timedatectl", "the certificate %s is valid from %s on, now is %s", c.PKI.Cert, f.NotBefore.Format(time.DateTime), f.Now.Format(time.DateTime))
	}
}

// spaceLow is the share of free inner addresses at which a pool is nearly full.
const spaceLow = 0.1

// labelSpace is how many ESP SPIs a slot has.
const labelSpace = 1 << 20

func space(f *Facts, out *findings) {
	for _, s := range slotsOf(f.Config) {
		n, ok := f.Sessions[s.Number]
		if !ok {
			continue
		}
		for _, p := range s.Pools {
			size := addresses(p)
			if free := size - float64(n); free < spaceLow*size {
				out.add(Warning, "pool-space", "a client that gets no inner address is refused", "give slot "+slotName(s.Number)+" a larger prefix in fleet.slots[].pools, or share clients among more slots", "pool %s of slot %s: %d sessions, %.0f addresses", p, slotName(s.Number), n, size)
			}
		}
		// Each child has one SPI here, two while it is rekeyed.
		if n > labelSpace/4 {
			out.add(Warning, "spi-space", "SPIs are drawn at random and collisions cost a retry", "share clients among more slots", "slot %s has %d sessions and %d SPIs", slotName(s.Number), n, labelSpace)
		}
	}
}

func slotsOf(c *config.Config) []config.Slot {
	if c == nil {
		return nil
	}
	return c.Fleet.Slots
}

// addresses is the number of addresses that charon hands out of p.
func addresses(p netip.Prefix) float64 {
	return math.Max(math.Ldexp(1, p.Addr().BitLen()-p.Bits())-2, 1)
}

func slotName(n sa.Slot) string { return uintText(uint64(n)) }
