package config

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/ssm/geoip"
)

// CheckFiles looks at every file that c names: there, readable, not empty, and
// secret files closed to others; certificates that belong together, to this appliance
// and to now. The error is Problems.
func (c *Config) CheckFiles() error {
	col := &collector{}
	col.fileAt("pki.ca", c.PKI.CA, false, "shadowctl pki init")
	col.fileAt("pki.cert", c.PKI.Cert, false, "shadowctl pki issue "+c.Node)
	col.fileAt("pki.key", c.PKI.Key, true, "shadowctl pki issue "+c.Node)
	col.fileAt("fleet_key_file", c.FleetKeyFile, true, "shadowctl pki init")
	if len(col.problems) == 0 {
		col.identity(c)
	}
	for i, p := range c.BGP.Peers {
		if p.PasswordFile != "" {
			col.fileAt(at("bgp.peers", i)+".password_file", p.PasswordFile, true, "")
		}
	}
	if c.GeoIPFile != "" {
		if _, err := geoip.Open(c.GeoIPFile); err != nil {
			col.addf("geoip_file", "%v; want a MaxMind DB with places, such as GeoLite2-City.mmdb", err)
		}
	}
	if c.DNS.Enabled() {
		col.fileAt("dns.key_file", c.DNS.KeyFile, true, "tsig-keygen")
	}
	if st, err := os.Stat(c.SwanctlDir); err != nil {
		col.addf("swanctl_dir", "%s; want the directory of the swanctl connections", reason(err))
	} else if !st.IsDir() {
		col.addf("swanctl_dir", "%s is no directory", c.SwanctlDir)
	}
	return col.err()
}

// identity checks what the files of package pki hold.
func (c *collector) identity(cfg *Config) {
	issue := fmt.Sprintf("`shadowctl pki issue %s --address %s --force` makes a new one", cfg.Node, cfg.Self().Address)
	if _, err := pki.Load(pki.Files{CA: cfg.PKI.CA, Cert: cfg.PKI.Cert, Key: cfg.PKI.Key}, cfg.Node); err != nil {
		path := "pki.cert"
		switch text := err.Error(); {
		case strings.Contains(text, cfg.PKI.CA):
			path = "pki.ca"
		case strings.HasPrefix(text, "read "+cfg.PKI.Key):
			path = "pki.key"
		}
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
			c.addf(path, "%s was valid from %s to %s; %s", cfg.PKI.Cert, invalid.Cert.NotBefore.Format(time.DateOnly), invalid.Cert.NotAfter.Format(time.DateOnly), issue)
		} else {
			c.addf(path, "%v; %s", err, issue)
		}
	}
	if _, err := pki.LoadFleetKey(cfg.FleetKeyFile); err != nil {
		c.addf("fleet_key_file", "%v; `shadowctl pki init` writes it, the same for the whole fleet", err)
	}
}

// fileAt checks one file; maker is the command that writes it, if there is one.
func (c *collector) fileAt(path, file string, secret bool, maker string) {
	hint := ""
	if maker != "" {
		hint = fmt.Sprintf("; `%s` writes it", maker)
	}
	f, err := os.Open(file)
	if err != nil {
		c.addf(path, "%s%s", reason(err), hint)
		return
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		c.addf(path, "%s", reason(err))
	case !st.Mode().IsRegular():
		c.addf(path, "%s is no regular file", file)
	case st.Size() == 0:
		c.addf(path, "%s is empty%s", file, hint)
	case secret && st.Mode().Perm()&0o077 != 0:
		c.addf(path, "%s is open to others (mode %04o); `chmod 600 %s` closes it", file, st.Mode().Perm(), file)
	}
}

// reason renders an error of package os, path first.
func reason(err error) string {
	if pe, ok := err.(*os.PathError); ok {
		return fmt.Sprintf("%s: %v", pe.Path, pe.Err)
	}
	return err.Error()
}
