package xfrm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrNotFound: no such SA in the namespace.
var ErrNotFound = errors.New("no such SA")

// connBuffer holds the answers to one batch of requests many times over.
const connBuffer = 8 << 20

// dumpTries bounds how often a dump that the kernel flags as inconsistent is
// repeated.
const dumpTries = 5

// Conn talks to the XFRM subsystem of one network namespace, which it keeps
// alive until Close. Its methods may be called from any goroutine.
type Conn struct {
	mu    sync.Mutex
	s     *sock
	seq   uint32
	stats *os.File // nil where the kernel counts no XFRM errors
}

// Open returns a Conn for the network namespace at netnsPath, or for the
// caller's own if the path is empty.
func Open(netnsPath string) (*Conn, error) {
	c := &Conn{}
	err := openIn(netnsPath, func() (err error) {
		if c.s, err = newSock(connBuffer); err != nil {
			return err
		}
		// The open file stays bound to this namespace.
		c.stats, err = os.Open("/proc/thread-self/net/xfrm_stat")
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return err
	})
	if err != nil {
		if c.s != nil {
			c.s.close()
		}
		return nil, fmt.Errorf("open XFRM connection: %w", err)
	}
	return c, nil
}

// Close releases the namespace.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stats != nil {
		c.stats.Close()
	}
	return c.s.close()
}

// Dump returns every SA of the namespace, larval ones (which have SPI and no
// keys yet) included.
func (c *Conn) Dump() ([]State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range dumpTries {
		states, whole, err := c.dump()
		if err != nil {
			return nil, fmt.Errorf("dump SAs: %w", err)
		}
		if whole {
			return states, nil
		}
	}
	return nil, fmt.Errorf("dump SAs: %d dumps in a row were interrupted by changes", dumpTries)
}

func (c *Conn) dump() (states []State, whole bool, err error) {
	defer c.s.wipe()
	seq, err := c.request(msgGetSA, flagRequest|flagDump, make([]byte, saIDLen))
	if err != nil {
		return nil, false, err
	}
	whole = true
	err = c.replies(func(m message) (bool, error) {
		if m.seq != seq {
			return false, nil
		}
		if m.flags&flagDumpIntr != 0 {
			whole = false
		}
		switch m.typ {
		case nlmDone, nlmError:
			return true, errnoError(m.errno())
		case msgNewSA:
			s, err := parseSA(m.body)
			if err != nil {
				return false, err
			}
			states = append(states, s)
		}
		return false, nil
	})
	return states, whole, err
}

// Get returns one SA, ErrNotFound if there is none. An SA with a mark is found
// by Dump only.
func (c *Conn) Get(id ID) (State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := c.getMany([]ID{id})
	if err != nil {
		return State{}, fmt.Errorf("get SA %s: %w", id, err)
	}
	s, ok := m[id]
	if !ok {
		return State{}, fmt.Errorf("get SA %s: %w", id, ErrNotFound)
	}
	return s, nil
}

// getMany asks for SAs in batches; the missing ones are missing in the result.
func (c *Conn) getMany(ids []ID) (map[ID]State, error) {
	defer c.s.wipe()
	out := make(map[ID]State, len(ids))
	err := c.batches(ids, func(ids []ID) error {
		var b []byte
		first := c.seq + 1
		for _, id := range ids {
			c.seq++
			b = appendMessage(b, msgGetSA, flagRequest, c.seq, encodeID(id))
		}
		return c.exchange(b, first, len(ids), func(i int, m message) error {
			if m.typ == msgNewSA {
				s, err := parseSA(m.body)
				if err != nil {
					return err
				}
				out[ids[i]] = s
				return nil
			}
			if e := m.errno(); e != int(unix.ESRCH) {
				return errnoError(e)
			}
			return nil
		})
	})
	return out, err
}

// batchLen is the number of requests in one sendmsg.
const batchLen = 128

func (c *Conn) batches(ids []ID, f func([]ID) error) error {
	for len(ids) > 0 {
		n := min(batchLen, len(ids))
		if err := f(ids[:n]); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// exchange sends n requests numbered from first and calls f with each answer;
// it returns when the last request is answered, so that one has to be one that
// is answered in any case. Errors of f are kept until then, so that no answer
// is left behind in the socket.
func (c *Conn) exchange(b []byte, first uint32, n int, f func(i int, m message) error) error {
	if err := c.s.setDeadline(replyTimeout); err != nil {
		return err
	}
	if err := c.s.send(b); err != nil {
		return err
	}
	var failed error
	err := c.replies(func(m message) (bool, error) {
		i := m.seq - first
		if i >= uint32(n) {
			return false, nil
		}
		if err := f(int(i), m); err != nil && failed == nil {
			failed = err
		}
		return i == uint32(n-1), nil
	})
	return errors.Join(failed, err)
}

// request sends one message and returns its number.
func (c *Conn) request(typ, flags uint16, body []byte) (uint32, error) {
	c.seq++
	if err := c.s.setDeadline(replyTimeout); err != nil {
		return 0, err
	}
	return c.seq, c.s.send(appendMessage(nil, typ, flags, c.seq, body))
}

// replies calls f with each message received until it says done or fails.
func (c *Conn) replies(f func(message) (done bool, err error)) error {
	for {
		b, err := c.s.receive()
		if err != nil {
			return err
		}
		for len(b) > 0 {
			var m message
			if m, b, err = nextMessage(b); err != nil {
				return err
			}
			if done, err := f(m); done || err != nil {
				return err
			}
		}
	}
}

// command sends one request and waits for its acknowledgement.
func (c *Conn) command(typ uint16, body []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	seq, err := c.request(typ, flagRequest|flagAck, body)
	if err != nil {
		return err
	}
	return c.replies(func(m message) (bool, error) {
		if m.seq != seq || m.typ != nlmError {
			return false, nil
		}
		return true, errnoError(m.errno())
	})
}

// FlushSA deletes every SA of the namespace. None is no error.
func (c *Conn) FlushSA() error {
	if err := c.command(msgFlushSA, []byte{0, 0, 0, 0}); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("flush SAs: %w", err)
	}
	return nil
}

// FlushPolicy deletes every main policy of the namespace. None is no error.
// Policies bound to a socket (charon's own bypass) stay.
func (c *Conn) FlushPolicy() error {
	if err := c.command(msgFlushPolicy, nil); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("flush policies: %w", err)
	}
	return nil
}

// Delete deletes one SA, ErrNotFound if there is none.
func (c *Conn) Delete(id ID) error {
	err := c.command(msgDelSA, encodeID(id))
	if errors.Is(err, unix.ESRCH) {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("delete SA %s: %w", id, err)
	}
	return nil
}

// Stats returns the XFRM error counters of the namespace by their names in
// /proc/net/xfrm_stat, zero ones included.
func (c *Conn) Stats() (map[string]uint64, error) {
	if c.stats == nil {
		return nil, errors.New("read XFRM counters: kernel lacks CONFIG_XFRM_STATISTICS")
	}
	b, err := io.ReadAll(io.NewSectionReader(c.stats, 0, 1<<16))
	if err != nil {
		return nil, fmt.Errorf("read XFRM counters: %w", err)
	}
	return parseStats(b)
}

func errnoError(e int) error {
	if e == 0 {
		return nil
	}
	return unix.Errno(e)
}
