package config

import (
	"fmt"
	"os"
)

// CheckFiles looks at every file that c names: there, readable, not empty, and
// secret files closed to others. The error is Problems.
func (c *Config) CheckFiles() error {
	col := &collector{}
	col.fileAt("pki.ca", c.PKI.CA, false, "shadowctl pki init")
	col.fileAt("pki.cert", c.PKI.Cert, false, "shadowctl pki issue "+c.Node)
	col.fileAt("pki.key", c.PKI.Key, true, "shadowctl pki issue "+c.Node)
	col.fileAt("fleet_key_file", c.FleetKeyFile, true, "shadowctl pki init")
	for i, p := range c.BGP.Peers {
		if p.PasswordFile != "" {
			col.fileAt(at("bgp.peers", i)+".password_file", p.PasswordFile, true, "")
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
