package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/preflight"
)

func bundleCommand(a *app) *cobra.Command {
	var file, out string
	cmd := &cobra.Command{
		Use:   "support-bundle",
		Short: "Collect what a supporter needs, without keys",
		Long: `Collect what somebody who helps needs into one .tar.gz: status, routers, health,
shadow sets, events, the configuration, findings of preflight, the daemon's journal
and the kernel's counters.

It holds no key material, no session documents and no certificates. In the list of
sessions identities, addresses of clients and their inner addresses are replaced by
words that are equal where they were equal. The journal, the events and the
configuration are taken as they are, and may name clients: look at them before you
send them. What could not be collected is listed in manifest.txt.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				host, _ := os.Hostname()
				out = fmt.Sprintf("shadowcast-%s-%s.tar.gz", filepath.Base(host), time.Now().UTC().Format("20060102-150405"))
			}
			return a.bundle(cmd.Context(), file, out)
		},
	}
	cmd.Flags().StringVar(&file, "config", defaultConfig, "configuration `file`")
	cmd.Flags().StringVar(&out, "out", "", "`file` to write (default: shadowcast-HOST-TIME.tar.gz)")
	return cmd
}

// part is one file of a bundle.
type part struct {
	name string
	get  func(context.Context) ([]byte, error)
}

func (a *app) bundle(ctx context.Context, file, out string) (err error) {
	f, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make the bundle: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(out)
		}
	}()
	z := gzip.NewWriter(f)
	t := tar.NewWriter(z)
	add := func(name string, b []byte) error {
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(b)), ModTime: time.Now()}); err != nil {
			return fmt.Errorf("write the bundle: %w", err)
		}
		_, err := t.Write(b)
		return err
	}
	manifest := fmt.Sprintf("shadowctl %s, %s\n", version(), time.Now().UTC().Format(time.RFC3339))
	for _, p := range a.parts(file) {
		b, err := p.get(ctx)
		if err != nil {
			why, _, _ := strings.Cut(err.Error(), "\n")
			fmt.Fprintf(a.talk, "%s: missing: %s\n", p.name, why)
			manifest += fmt.Sprintf("%s: missing: %v\n", p.name, err)
			continue
		}
		fmt.Fprintf(a.talk, "%s: %d bytes\n", p.name, len(b))
		manifest += fmt.Sprintf("%s: %d bytes\n", p.name, len(b))
		if err := add(p.name, b); err != nil {
			return err
		}
	}
	if err := errors.Join(add("manifest.txt", []byte(manifest)), t.Close(), z.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.out, out)
	return err
}

// parts lists what a bundle holds. Nothing here may read keys: no session document,
// no SAD of the kernel, no certificate, no file below the PKI's directory.
func (a *app) parts(file string) []part {
	operator := func(q func(context.Context, v1.OperatorServiceClient) (proto.Message, error)) func(context.Context) ([]byte, error) {
		return func(ctx context.Context) ([]byte, error) {
			m, err := ask(ctx, a, q)
			if err != nil {
				return nil, err
			}
			return jsonBytes(m)
		}
	}
	parts := []part{
		{"status.json", operator(func(ctx context.Context, c v1.OperatorServiceClient) (proto.Message, error) {
			return c.GetStatus(ctx, &v1.GetStatusRequest{})
		})},
		{"bgp.json", operator(func(ctx context.Context, c v1.OperatorServiceClient) (proto.Message, error) {
			return c.GetBGP(ctx, &v1.GetBGPRequest{})
		})},
		{"sessions.json", operator(redactedSessions)},
		{"events.jsonl", func(ctx context.Context) ([]byte, error) { return ask(ctx, a, allEvents) }},
		{"health.json", func(ctx context.Context) ([]byte, error) {
			m, err := askConn(ctx, a, v1.NewHealthServiceClient, func(ctx context.Context, c v1.HealthServiceClient) (*v1.GetHealthResponse, error) {
				return c.GetHealth(ctx, &v1.GetHealthRequest{Signals: true})
			})
			if err != nil {
				return nil, err
			}
			return jsonBytes(m)
		}},
		{"shadow-sets.json", func(ctx context.Context) ([]byte, error) {
			m, err := askConn(ctx, a, v1.NewShadowSetServiceClient, func(ctx context.Context, c v1.ShadowSetServiceClient) (*v1.GetShadowSetsResponse, error) {
				return c.GetShadowSets(ctx, &v1.GetShadowSetsRequest{})
			})
			if err != nil {
				return nil, err
			}
			return jsonBytes(m)
		}},
		{"shadowcast.yaml", func(context.Context) ([]byte, error) { return os.ReadFile(file) }},
		{"preflight.json", func(ctx context.Context) ([]byte, error) {
			c, err := config.Load(file)
			if err != nil {
				return nil, err
			}
			return json.MarshalIndent(preflight.Check(preflight.Gather(ctx, c, preflight.Network{})), "", "  ")
		}},
		{"journal.txt", func(ctx context.Context) ([]byte, error) {
			return exec.CommandContext(ctx, "journalctl", "--no-pager", "-u", "shadowcastd", "-n", "20000").Output()
		}},
	}
	for _, f := range []string{"version", "meminfo", "loadavg", "pressure/cpu", "net/xfrm_stat", "net/softnet_stat", "net/snmp", "net/dev"} {
		parts = append(parts, part{"proc/" + f, func(context.Context) ([]byte, error) { return os.ReadFile("/proc/" + f) }})
	}
	return parts
}

// redactedSessions lists all sessions without saying whose they are.
func redactedSessions(ctx context.Context, c v1.OperatorServiceClient) (proto.Message, error) {
	salt := make([]byte, 16)
	rand.Read(salt)
	hide := func(s string) string {
		if s == "" {
			return ""
		}
		h := sha256.Sum256(append(salt[:len(salt):len(salt)], s...))
		return "hidden-" + hex.EncodeToString(h[:5])
	}
	out := &v1.ListSessionsResponse{}
	for token := ""; ; {
		r, err := c.ListSessions(ctx, &v1.ListSessionsRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			return nil, err
		}
		for _, s := range r.Sessions {
			s.Identity, s.Client = hide(s.Identity), hide(s.Client)
			for i := range s.InnerAddresses {
				s.InnerAddresses[i] = hide(s.InnerAddresses[i])
			}
			out.Sessions = append(out.Sessions, s)
		}
		if token = r.NextPageToken; token == "" {
			return out, nil
		}
	}
}

// allEvents is the event log, one document a line.
func allEvents(ctx context.Context, c v1.OperatorServiceClient) ([]byte, error) {
	stream, err := c.WatchEvents(ctx, &v1.WatchEventsRequest{})
	if err != nil {
		return nil, err
	}
	var out []byte
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		b, err := jsonBytes(m.Event)
		if err != nil {
			return nil, err
		}
		out = append(append(out, b...), '\n')
	}
}
