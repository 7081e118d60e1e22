package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/shadowcast/shadowcast/config"
)

const defaultConfig = "/etc/shadowcast/shadowcast.yaml"

func configCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check, show and start a configuration",
		Long:  "Check, show and start a configuration. FILE is " + defaultConfig + " unless given.",
	}
	var files bool
	check := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Find every mistake in a configuration",
		Long: `Find every mistake in a configuration: one line each, with the file, the line, the
path of the value, and what would be right. --files also looks at the
certificates, keys and directories that it names.`,
		Example: "  shadowctl config check shadowcast.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return a.checkConfig(fileArg(args), files) },
	}
	check.Flags().BoolVar(&files, "files", false, "look at the files that it names, too")
	cmd.AddCommand(check, &cobra.Command{
		Use:   "show [FILE]",
		Short: "Print a configuration with all defaults filled in",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := config.Load(fileArg(args))
			if err != nil {
				return err
			}
			return a.printConfig(c)
		},
	}, &cobra.Command{
		Use:     "example",
		Short:   "Print an annotated configuration to start from",
		Example: "  shadowctl config example > shadowcast.yaml",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.json() {
				c, err := config.Parse([]byte(config.Example()))
				if err != nil {
					return err
				}
				return a.printConfig(c)
			}
			_, err := fmt.Fprint(a.out, config.Example())
			return err
		},
	})
	return cmd
}

func fileArg(args []string) string {
	if len(args) == 0 {
		return defaultConfig
	}
	return args[0]
}

// printConfig prints c under the keys of the file.
func (a *app) printConfig(c *config.Config) error {
	text, err := c.Marshal()
	if err != nil {
		return err
	}
	if !a.json() {
		_, err = a.out.Write(text)
		return err
	}
	var values map[string]any
	if err := yaml.Unmarshal(text, &values); err != nil {
		return fmt.Errorf("read YAML: %w", err)
	}
	return a.printValue(values)
}

// checked is the JSON answer of config check.
type checked struct {
	File        string    `json:"file"`
	OK          bool      `json:"ok"`
	Node        string    `json:"node,omitempty"`
	FleetDigest string    `json:"fleet_digest,omitempty"`
	Problems    []problem `json:"problems"`
}

type problem struct {
	Path string `json:"path"`
	Line int    `json:"line"`
	Text string `json:"text"`
}

func (a *app) checkConfig(file string, files bool) error {
	c, err := config.Load(file)
	if err == nil && files {
		err = c.CheckFiles()
	}
	problems, ok := problemsOf(err)
	if err != nil && !ok {
		return err
	}
	if a.json() {
		r := checked{File: file, OK: err == nil, Problems: []problem{}}
		for _, p := range problems {
			r.Problems = append(r.Problems, problem(p))
		}
		if c != nil {
			r.Node, r.FleetDigest = c.Node, c.Fleet.Digest()
		}
		if perr := a.printValue(r); perr != nil {
			return perr
		}
	} else {
		for _, p := range problems {
			fmt.Fprintln(a.talk, p.In(file))
		}
	}
	if err != nil {
		if !a.json() {
			fmt.Fprintf(a.talk, "shadowctl: %s: %s\n", file, plural(len(problems), "mistake"))
		}
		return toldError{}
	}
	if a.json() {
		return nil
	}
	_, err = fmt.Fprintf(a.out, "%s: correct: appliance %s of %d, %s, fleet %.16s\n",
		file, c.Node, len(c.Fleet.Appliances), plural(len(c.Fleet.Slots), "slot"), c.Fleet.Digest())
	return err
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
