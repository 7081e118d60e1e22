package session

import (
	"net/netip"
	"slices"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// index makes byIKE, bySPI and tracks say what s holds, committed and pending.
func (l *Ledger) index(s *session) {
	ikes := map[sa.IKEID]bool{}
	spis := map[sa.SPI]bool{}
	for _, g := range s.doc.IKE {
		ikes[g.ID] = true
		// An IKE_SA must not appear after its successor: a twin would take
		// the successor to replace it.
		if g.RekeyOf != nil && (l.byIKE[*g.RekeyOf] == nil || l.byIKE[*g.RekeyOf] == s) {
			ikes[*g.RekeyOf] = true
		}
	}
	for _, c := range s.doc.Children {
		spis[c.In] = true
	}
	for _, e := range s.pending {
		ikes[e.IKE] = true
		for _, f := range e.Effects {
			ref, _ := f.Attrs.ref(charon.IKEID)
			in, _ := f.Attrs.spi(charon.InSPI)
			switch f.Type {
			case charon.IKEAdd:
				ikes[ref.ID] = true
			case charon.ChildAdd:
				spis[in] = true
			}
		}
	}
	for id := range ikes {
		l.byIKE[id] = s
		if s.tracks[id] == nil {
			s.tracks[id] = l.early.take(id)
		}
	}
	l.retire(s, ikes)
	for in := range spis {
		l.bySPI[in] = s
	}
	for in := range s.spis {
		if !spis[in] && l.bySPI[in] == s {
			delete(l.bySPI, in)
		}
	}
	s.spis = spis
}

// maxRetired bounds how many superseded IKE_SAs of a session stay known: charon
// and the client go on talking on one for a moment, until it is deleted.
const maxRetired = 4

func (l *Ledger) retire(s *session, held map[sa.IKEID]bool) {
	s.retired = slices.DeleteFunc(s.retired, func(id sa.IKEID) bool { return held[id] })
	for id := range s.tracks {
		if !held[id] && !slices.Contains(s.retired, id) {
			s.retired = append(s.retired, id)
		}
	}
	for len(s.retired) > maxRetired {
		id := s.retired[0]
		s.retired = s.retired[1:]
		delete(s.tracks, id)
		if l.byIKE[id] == s {
			delete(l.byIKE, id)
		}
	}
}

// forget removes s from every index.
func (l *Ledger) forget(s *session) {
	for id := range s.tracks {
		if l.byIKE[id] == s {
			delete(l.byIKE, id)
		}
	}
	for in := range s.spis {
		if l.bySPI[in] == s {
			delete(l.bySPI, in)
		}
	}
	id := s.doc.SessionID
	for _, a := range s.vips {
		l.releaseAddr(a, id)
	}
	delete(l.sessions, id)
	delete(l.busy, id)
}

// holdAddrs keeps account of inner addresses and reports one held twice.
func (l *Ledger) holdAddrs(s *session, o *Output) {
	now := s.doc.Live().Update.inner()
	id := s.doc.SessionID
	for _, a := range s.vips {
		if !slices.Contains(now, a) {
			l.releaseAddr(a, id)
		}
	}
	for _, a := range now {
		if slices.Contains(s.vips, a) {
			continue
		}
		for _, other := range l.vips[a] {
			l.stats.Conflicts++
			o.Conflicts = append(o.Conflicts, Conflict{Addr: a, Session: id, Other: other})
		}
		l.vips[a] = append(l.vips[a], id)
	}
	s.vips = now
}

func (l *Ledger) releaseAddr(a netip.Addr, id string) {
	left := slices.DeleteFunc(l.vips[a], func(x string) bool { return x == id })
	if len(left) == 0 {
		delete(l.vips, a)
		return
	}
	l.vips[a] = left
}
