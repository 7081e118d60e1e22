package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/vishvananda/netns"
)

// Lab is a running internet. Its methods may be called from one goroutine, the
// scenario's.
type Lab struct {
	opt Options
	id  string // starts every name outside the lab's own directory
	dir string // sockets and configuration; in memory where /run is
	out string

	nodes      map[string]*Netns
	links      map[linkKey]*Link
	appliances []*Appliance
	clients    []*Client
	routers    []*router
	pki        *ikePKI
	fleet      *fleet
	entry      string // where packets for the VIP shall enter; see enterAt

	starter *starter
	wg      sync.WaitGroup // waiters of processes

	mu      sync.Mutex
	procs   []*Proc
	closers []func() error // run in reverse order by Close
}

// New builds the topology, starts the routers if asked to, and returns. What it
// made is gone again if it fails.
func New(ctx context.Context, o Options) (l *Lab, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, err
	}
	id, err := newID()
	if err != nil {
		return nil, err
	}
	l = &Lab{opt: o, id: id, nodes: map[string]*Netns{}, links: map[linkKey]*Link{}, starter: newStarter()}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if l.out, err = filepath.Abs(o.OutDir); err != nil {
		return l, fmt.Errorf("find output directory: %w", err)
	}
	if err := os.MkdirAll(l.out, 0o755); err != nil {
		return l, fmt.Errorf("make output directory: %w", err)
	}
	// Short: Unix socket paths end at 108 bytes.
	l.dir = filepath.Join("/run", l.id)
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return l, fmt.Errorf("make lab directory: %w", err)
	}
	if l.pki, err = newIKEPKI(); err != nil {
		return l, err
	}
	if err := l.build(); err != nil {
		return l, err
	}
	if o.Routers {
		if err := l.startRouters(ctx); err != nil {
			return l, err
		}
	}
	return l, nil
}

// Close ends every process in the lab's namespaces, slot namespaces included, and
// removes all that the lab made outside its output directory.
func (l *Lab) Close() error {
	var errs []error
	l.mu.Lock()
	closers := l.closers
	l.closers = nil
	l.mu.Unlock()
	for i := len(closers) - 1; i >= 0; i-- {
		errs = append(errs, closers[i]())
	}
	names, err := l.namespaces("")
	errs = append(errs, err, killIn(names))
	l.wg.Wait()
	l.starter.close()
	for _, a := range l.appliances {
		errs = append(errs, os.RemoveAll(a.bpfDir()))
	}
	// Concurrently: a namespace's end waits for a grace period of the kernel.
	var g errgroup.Group
	for _, n := range l.nodes {
		g.Go(n.close)
	}
	errs = append(errs, g.Wait())
	for _, n := range names {
		if l.nodes[strings.TrimPrefix(n, l.id+"-")] == nil {
			errs = append(errs, netns.DeleteNamed(n))
		}
	}
	errs = append(errs, os.RemoveAll(l.dir))
	return errors.Join(errs...)
}

// onClose registers f to be run by Close, last registered first.
func (l *Lab) onClose(f func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closers = append(l.closers, f)
}

// newID draws a name that no namespace on this machine starts with.
func newID() (string, error) {
	for range 100 {
		id := "l" + strings.ToLower(rand.Text()[:4])
		taken, err := filepath.Glob(filepath.Join(netnsDir, id+"*"))
		if err != nil {
			return "", fmt.Errorf("name lab: %w", err)
		}
		if len(taken) == 0 {
			return id, nil
		}
	}
	return "", errors.New("name lab: every name is taken")
}

// namespaces returns the names of this lab's namespaces that start with prefix
// after the lab's id.
func (l *Lab) namespaces(prefix string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(netnsDir, l.id+prefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	return names, nil
}

// OutDir is where logs and artefacts of this lab go.
func (l *Lab) OutDir() string { return l.out }

// Appliance returns the appliance called name.
func (l *Lab) Appliance(name string) *Appliance {
	for _, a := range l.appliances {
		if a.Name == name {
			return a
		}
	}
	return nil
}

// Appliances are all appliances in the order of Options.
func (l *Lab) Appliances() []*Appliance { return l.appliances }

// Client returns the i-th client, counted from 0.
func (l *Lab) Client(i int) *Client { return l.clients[i] }

// Clients are all clients in the order of Options.
func (l *Lab) Clients() []*Client { return l.clients }

// Node returns the namespace of a node: an appliance's or client's name, r1, r2,
// in, srv.
func (l *Lab) Node(name string) *Netns { return l.nodes[name] }
