package session

import (
	"net/netip"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// Update digests that the addresses of an IKE_SA changed, from vici's
// ike-update: the ha plugin does not tell (rule 6). An invalid local address
// means that it stayed the same. The Feeder re-adds the children.
func (l *Ledger) Update(id sa.IKEID, local, remote netip.AddrPort, now time.Time) (Output, error) {
	var o Output
	s := l.byIKE[id]
	if s == nil {
		return o, l.refuse(&RefusedError{IKE: id, Reason: ErrUnknownSA})
	}
	var addrs Attrs
	for _, x := range []struct {
		t  charon.AttrType
		ap netip.AddrPort
	}{{charon.LocalAddr, local}, {charon.RemoteAddr, remote}} {
		if x.t == charon.LocalAddr && !x.ap.IsValid() {
			continue
		}
		a, err := charon.NewAddr(x.t, x.ap)
		if err != nil {
			return o, l.refuse(&RefusedError{IKE: id, Reason: ErrMalformed, Detail: err.Error()})
		}
		addrs = append(addrs, a)
	}
	live := s.doc.Live()
	if up := live.Update.merge(addrs); !up.equal(live.Update) {
		live.Update = up
		s.dirty = true
	}
	// A generation that is pending has the old addresses still.
	for _, e := range s.pending {
		for _, f := range e.Effects {
			if x, ok := f.Attrs.find(charon.IKEID); ok && f.Type == charon.IKEAdd {
				l.effect(s, e, Effect{Type: charon.IKEUpdate, Attrs: append(Attrs{x}, addrs...), At: stamp(now)}, &o)
			}
		}
	}
	l.publish(s, &o)
	return o, nil
}

// Sample records the last inbound sequence number seen on a child, seq_hi
// included. It publishes nothing: samples travel by themselves, and with the
// next change of the session. It reports whether the child is known.
func (l *Ledger) Sample(in sa.SPI, seq uint64) bool {
	c := l.committedChild(in)
	if c == nil {
		return false
	}
	c.InSeq = max(c.InSeq, seq)
	return true
}

// Deadlines records when the owner's charon will rekey a child and when it
// must be gone: activation in a twin restarts charon's own timers (rule 8).
func (l *Ledger) Deadlines(in sa.SPI, rekeyAt, lifeAt time.Time) (Output, error) {
	var o Output
	c := l.committedChild(in)
	if c == nil {
		return o, l.refuse(&RefusedError{SPI: in, Reason: ErrUnknownSA})
	}
	if r, x := stamp(rekeyAt), stamp(lifeAt); r != c.RekeyAt || x != c.LifeAt {
		c.RekeyAt, c.LifeAt = r, x
		l.bySPI[in].dirty = true
	}
	l.publish(l.bySPI[in], &o)
	return o, nil
}

// IKEDeadlines records when the owner's charon will rekey and reauthenticate an
// IKE_SA, as Deadlines does for a child.
func (l *Ledger) IKEDeadlines(id sa.IKEID, rekeyAt, reauthAt time.Time) (Output, error) {
	var o Output
	s := l.byIKE[id]
	if s == nil {
		return o, l.refuse(&RefusedError{IKE: id, Reason: ErrUnknownSA})
	}
	g := s.doc.generation(id)
	if g == nil {
		return o, nil // of an exchange that is not complete yet
	}
	if r, x := stamp(rekeyAt), stamp(reauthAt); r != g.RekeyAt || x != g.ReauthAt {
		g.RekeyAt, g.ReauthAt = r, x
		s.dirty = true
	}
	l.publish(s, &o)
	return o, nil
}

func (l *Ledger) committedChild(in sa.SPI) *Child {
	s := l.bySPI[in]
	if s == nil {
		return nil
	}
	return s.doc.child(in)
}
