package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/pki"
)

// remote is a daemon elsewhere and who asks it; without a server it is the local one.
type remote struct {
	server    string // host:port
	appliance string // the name that its certificate must have; "" for the host of server
	files     pki.Files
}

func (r *remote) flags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&r.server, "server", "", "ask the daemon at `host:port` (its operator.listen) instead of the local one")
	f.StringVar(&r.appliance, "appliance", "", "`name` that the certificate of --server must have (default: the host of --server)")
	f.StringVar(&r.files.Cert, "cert", "", "your certificate, `file` of `shadowctl pki issue --role` (with --server)")
	f.StringVar(&r.files.Key, "key", "", "its key `file` (default: that of --cert, .key instead of .crt)")
	f.StringVar(&r.files.CA, "ca", "", "the fleet's CA `file` (default: ca.crt beside --cert)")
}

// check completes what the command line leaves out.
func (r *remote) check() error {
	if r.server == "" {
		if r.appliance != "" || r.files != (pki.Files{}) {
			return usagef("--appliance, --cert, --key and --ca say how to ask --server, which is not given")
		}
		return nil
	}
	host, _, err := net.SplitHostPort(r.server)
	if err != nil || host == "" {
		return usagef("--server %q: want a host and a port, such as ams:4505", r.server)
	}
	if r.files.Cert == "" {
		return usagef("--server needs --cert: a certificate of the fleet says who you are (shadowctl pki issue NAME --role viewer)")
	}
	if _, err := os.Stat(r.files.Cert); err != nil {
		return fmt.Errorf("--cert: %w", err)
	}
	if r.appliance == "" {
		r.appliance = host
	}
	dir, base := filepath.Split(r.files.Cert)
	if r.files.Key == "" {
		r.files.Key = filepath.Join(dir, base[:len(base)-len(filepath.Ext(base))]+".key")
	}
	if r.files.CA == "" {
		r.files.CA = filepath.Join(dir, pki.CACertFile)
	}
	return nil
}

func (r *remote) dial() (*grpc.ClientConn, error) {
	c, err := pki.PersonTLS(r.files, r.appliance)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", r.server, err)
	}
	return operator.DialTLS(r.server, c)
}
