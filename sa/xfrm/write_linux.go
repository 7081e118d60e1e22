package xfrm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// maxReported bounds the failures spelt out in one error.
const maxReported = 8

// Write moves replay state forwards, never backwards, and reads back what it
// wrote. SAs that fail are named in the error; the others are written all the
// same. Work is proportional to the SAs named, not to those installed.
func (c *Conn) Write(ws []ReplayWrite) (WriteResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var res WriteResult
	ids := uniqueIDs(ws)
	before, err := c.getMany(ids)
	if err != nil {
		return res, fmt.Errorf("read replay state: %w", err)
	}
	res.Missing = len(ids) - len(before)

	// Writes to one SA fold into one, each seeing what the earlier ones ask.
	var fails failures
	want := make(map[ID]State, len(before))
	bad := make(map[ID]bool)
	for _, w := range ws {
		s, ok := want[w.ID]
		if !ok {
			if s, ok = before[w.ID]; !ok {
				continue
			}
		}
		s, changed, err := apply(s, w)
		switch {
		case err != nil:
			fails.add(err)
			bad[w.ID] = true
		case changed:
			want[w.ID] = s
		}
	}
	var todo []ID
	for _, id := range ids {
		if _, ok := want[id]; ok && !bad[id] {
			todo = append(todo, id)
		} else if _, ok := before[id]; ok && !bad[id] {
			res.Skipped++
		}
	}
	if len(todo) == 0 {
		return res, fails.err()
	}

	refused, err := c.writeMany(todo, want)
	if err != nil {
		return res, fmt.Errorf("write replay state: %w", err)
	}
	after, err := c.getMany(todo)
	if err != nil {
		return res, fmt.Errorf("read replay state back: %w", err)
	}
	for _, id := range todo {
		got, ok := after[id]
		if !ok {
			res.Missing++
			continue
		}
		if got.Packets != before[id].Packets {
			res.Live = append(res.Live, id)
		}
		if err := refused[id]; err != nil {
			fails.add(fmt.Errorf("write replay state of %s: %w", id, err))
		} else if err := verify(want[id], got); err != nil {
			fails.add(err)
		} else {
			res.Written++
		}
	}
	return res, fails.err()
}

// writeMany sends a NEWAE for each id; only the last of a batch asks for an
// acknowledgement. It returns what the kernel refused.
func (c *Conn) writeMany(ids []ID, want map[ID]State) (map[ID]error, error) {
	refused := make(map[ID]error)
	err := c.batches(ids, func(ids []ID) error {
		var b []byte
		first := c.seq + 1
		for i, id := range ids {
			flags := uint16(flagRequest | flagReplace)
			if i == len(ids)-1 {
				flags |= flagAck
			}
			c.seq++
			s := want[id]
			b = appendMessage(b, msgNewAE, flags, c.seq, encodeNewAE(&s))
		}
		return c.exchange(b, first, len(ids), func(i int, m message) error {
			if e := m.errno(); m.typ == nlmError && e != 0 && e != int(unix.ESRCH) {
				refused[ids[i]] = unix.Errno(e)
			}
			return nil
		})
	})
	return refused, err
}

func uniqueIDs(ws []ReplayWrite) []ID {
	seen := make(map[ID]bool, len(ws))
	ids := make([]ID, 0, len(ws))
	for _, w := range ws {
		if !seen[w.ID] {
			seen[w.ID] = true
			ids = append(ids, w.ID)
		}
	}
	return ids
}

// failures collects errors, spelling out the first few.
type failures struct {
	errs []error
	more int
}

func (f *failures) add(err error) {
	if len(f.errs) < maxReported {
		f.errs = append(f.errs, err)
		return
	}
	f.more++
}

func (f *failures) err() error {
	if f.more > 0 {
		return errors.Join(append(f.errs, fmt.Errorf("and %d more SAs", f.more))...)
	}
	return errors.Join(f.errs...)
}
