package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/shadowcast/shadowcast/pki"
)

const defaultPKI = "/etc/shadowcast/pki"

// day is the unit of --days.
const day = 24 * time.Hour

func pkiCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pki",
		Short: "Make the fleet's CA and the appliances' certificates",
		Long: `Make the fleet's CA and the appliances' certificates.

Run init and issue in one safe place. Then give each appliance ca.crt, fleet.key,
its own <name>.crt and <name>.key, and nobody ca.key. Nothing is overwritten
without --force.`,
	}
	cmd.AddCommand(pkiInitCommand(a), pkiIssueCommand(a), pkiRotateCommand(a), pkiRetireCommand(a))
	return cmd
}

func pkiInitCommand(a *app) *cobra.Command {
	var dir string
	var days int
	var o pki.Options
	cmd := &cobra.Command{
		Use:     "init",
		Short:   "Make the fleet's CA and its symmetric key",
		Long:    "Make the fleet's CA (ca.crt, ca.key) and its symmetric key (fleet.key), once for a fleet.",
		Example: "  shadowctl pki init --dir ./pki",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var err error
			if o.Validity, err = validity(days); err != nil {
				return err
			}
			made, err := pki.Init(dir, o)
			return a.told(made, err)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultPKI, "`directory` to write to")
	cmd.Flags().StringVar(&o.Fleet, "fleet", "", "`identifier` of the fleet, such as acme-prod (default: random)")
	cmd.Flags().IntVar(&days, "days", int(pki.DefaultCAValidity/day), "validity of the CA")
	cmd.Flags().BoolVar(&o.Force, "force", false, "overwrite: every certificate of the old CA becomes worthless")
	return cmd
}

func pkiIssueCommand(a *app) *cobra.Command {
	var dir string
	var days int
	var addresses []string
	var role string
	var o pki.Options
	cmd := &cobra.Command{
		Use:   "issue NAME",
		Short: "Make the certificate and key of an appliance, or of a person",
		Long: `Make the certificate and key of the appliance NAME, the name that it has in
fleet.appliances; or, with --role, of the person NAME, who asks appliances from
elsewhere (operator.listen, shadowctl --server):

  viewer    looks; sees no keys
  operator  moves slots, drains, holds the upgrade lock, clears hardware limits
  admin     changes the registrars

A person needs ca.crt, NAME.crt and NAME.key.`,
		Example: "  shadowctl pki issue ams --address 192.0.2.11 --dir ./pki\n  shadowctl pki issue ann --role viewer --days 90 --dir ./pki",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var err error
			if o.Validity, err = validity(days); err != nil {
				return err
			}
			var addrs []netip.Addr
			for _, s := range addresses {
				addr, err := netip.ParseAddr(s)
				if err != nil {
					return usagef("--address %q: want an IP address", s)
				}
				addrs = append(addrs, addr)
			}
			if role == "" {
				made, err := pki.Issue(dir, args[0], addrs, o)
				return a.issued("the appliance "+args[0], made, err)
			}
			r, err := pki.ParseRole(role)
			if err != nil {
				return usagef("--%v", err)
			}
			if len(addrs) > 0 {
				return usagef("--address is for appliances, --role for people: want one of them")
			}
			made, err := pki.IssuePerson(dir, pki.Person{Name: args[0], Role: r}, o)
			return a.issued("the person "+args[0]+", "+r.String(), made, err)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultPKI, "`directory` of the CA, and to write to")
	cmd.Flags().StringSliceVar(&addresses, "address", nil, "`address` of the appliance (peers check the name only); may be repeated; with --force and none given, those of the certificate that is replaced")
	cmd.Flags().StringVar(&role, "role", "", "make a person's certificate: viewer, operator or admin")
	cmd.Flags().IntVar(&days, "days", int(pki.DefaultCertValidity/day), "validity of the certificate, at most that of the CA")
	cmd.Flags().BoolVar(&o.Force, "force", false, "overwrite the certificate and key")
	return cmd
}

func pkiRotateCommand(a *app) *cobra.Command {
	var dir string
	var days int
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Make a new CA beside the one in use",
		Long: `Make a new CA beside the one in use, for the same fleet.

ca.crt then holds both: give it to every appliance and reload each. Then issue
all certificates again and reload, and end with 'shadowctl pki retire'. The
fleet key stays. Sessions do not notice.`,
		Example: "  shadowctl pki rotate --dir ./pki",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v, err := validity(days)
			if err != nil {
				return err
			}
			made, err := pki.Rotate(dir, pki.Options{Validity: v})
			return a.told(made, err)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultPKI, "`directory` of the CA")
	cmd.Flags().IntVar(&days, "days", int(pki.DefaultCAValidity/day), "validity of the new CA")
	return cmd
}

func pkiRetireCommand(a *app) *cobra.Command {
	var dir string
	var force bool
	cmd := &cobra.Command{
		Use:   "retire",
		Short: "Take the CAs before the newest out of ca.crt",
		Long: `Take the CAs before the newest out of ca.crt, at the end of a rotation.

Give the file to every appliance and reload each: certificates of the old CA
are refused from then on. While one of those is in the directory it refuses;
whether the new ones are installed everywhere, only you know.`,
		Example: "  shadowctl pki retire --dir ./pki",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			made, err := pki.Retire(dir, pki.Options{Force: force})
			return a.told(made, err)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "retire CAs whose certificates are still in the directory, too")
	cmd.Flags().StringVar(&dir, "dir", defaultPKI, "`directory` of the CA")
	return cmd
}

func validity(days int) (time.Duration, error) {
	if days < 1 || days > 100*366 {
		return 0, usagef("--days %d: want 1 to %d", days, 100*366)
	}
	return time.Duration(days) * day, nil
}

// issued reports a certificate, and whose it is.
func (a *app) issued(whose string, made pki.Made, err error) error {
	if err == nil && !a.json() {
		fmt.Fprintf(a.talk, "certificate of %s\n", whose)
	}
	return a.told(made, err)
}

// told reports what was made.
func (a *app) told(made pki.Made, err error) error {
	if errors.Is(err, pki.ErrInUse) {
		return fmt.Errorf("%w; --force retires it all the same", err)
	}
	if errors.Is(err, pki.ErrExists) {
		return fmt.Errorf("%w; --force overwrites", err)
	}
	if err != nil {
		return err
	}
	if a.json() {
		return a.printValue(struct {
			Fleet    string    `json:"fleet"`
			Files    []string  `json:"files"`
			NotAfter time.Time `json:"not_after"`
		}{made.Fleet, made.Files, made.NotAfter.UTC().Truncate(time.Second)})
	}
	fmt.Fprintf(a.talk, "fleet %s, valid until %s\n", made.Fleet, made.NotAfter.UTC().Format(time.DateOnly))
	for _, f := range made.Files {
		if _, err := fmt.Fprintln(a.out, f); err != nil {
			return err
		}
	}
	return nil
}
