package node

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/peer"
	"github.com/shadowcast/shadowcast/ssm/refusal"
	"github.com/shadowcast/shadowcast/ssm/replica"
)

// Where refusals come in.
const (
	fromProbes      = "probe"
	fromReplication = "replication"
	fromRegistrars  = "registrars"
	fromGossip      = "gossip"
	fromCore        = "core"
)

// refusedFor is for how long a refusal explains why a peer is not up.
const refusedFor = 30 * time.Second

// newRefusals returns the table of what was refused; the event log tells of it
// at a bounded rate.
func newRefusals(a *Appliance) *refusal.Table {
	return refusal.New(func(r refusal.Row) {
		from := "an unknown sender"
		switch {
		case r.Peer != "" && r.Source.IsValid():
			from = fmt.Sprintf("%s at %s", r.Peer, r.Source)
		case r.Peer != "":
			from = r.Peer
		case r.Source.IsValid():
			from = r.Source.String()
		}
		e := Entry{Kind: "refused", Warn: true, Text: fmt.Sprintf("%s of %s refused: %s", r.Channel, from, r.Reason), Reason: r.Detail}
		if r.Count > 1 {
			e.Text += fmt.Sprintf(" (%d times so far)", r.Count)
		}
		a.events.Add(e)
	})
}

// refusedDatagram counts what ssm/peer refused. A datagram of an incarnation that
// has not yet answered is refused at every first contact: that is no news.
func (a *Appliance) refusedDatagram(claimed string, source netip.AddrPort, r peer.Reason) {
	if r != peer.ReasonUnconfirmed {
		a.refusals.Add(refusal.Key{Channel: fromProbes, Reason: r.String(), Peer: claimed, Source: source.Addr()}, "", time.Now())
	}
}

func (a *Appliance) refusedStream(x replica.Refusal) {
	switch x.Kind {
	case replica.KindBusy, replica.KindStopping:
		return // says nothing about the owner: it tries again and is taken
	}
	a.refusals.Add(refusal.Key{Channel: fromReplication, Reason: x.Kind, Peer: x.Peer, Source: x.Source}, x.Err.Error(), time.Now())
}

// refusedHandshake counts a TLS handshake that failed; peer is whom we called, ""
// if it called us.
func (a *Appliance) refusedHandshake(channel, peer string, source netip.Addr, err error) {
	if reason := pki.Refusal(err); reason != "" {
		a.refusals.Add(refusal.Key{Channel: channel, Reason: reason, Peer: peer, Source: source}, err.Error(), time.Now())
	}
}

func (a *Appliance) refusedMessage(x ssm.ActRefuse) {
	a.refusals.Add(refusal.Key{Channel: fromCore, Reason: x.Reason, Peer: string(x.From), Source: a.appliance(string(x.From)).Address}, x.Text, time.Now())
}

// refusalList implements operator.RefusalSource.
type refusalList struct{ a *Appliance }

// Refusals implements operator.RefusalSource.
func (b refusalList) Refusals(context.Context) ([]*v1.Refusal, error) {
	var out []*v1.Refusal
	for _, r := range b.a.refusals.Rows() {
		x := &v1.Refusal{Channel: r.Channel, Reason: r.Reason, Peer: r.Peer, Count: r.Count, Detail: r.Detail,
			First: timestamppb.New(r.First), Last: timestamppb.New(r.Last)}
		if r.Source.IsValid() {
			x.Source = r.Source.String()
		}
		out = append(out, x)
	}
	return out, nil
}
