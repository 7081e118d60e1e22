package charon

import (
	"context"
	"errors"
	"fmt"

	"github.com/strongswan/govici/vici"
)

// EventKind is a kind of vici event.
type EventKind string

// The kinds that Events delivers.
const (
	EventIKEUpDown   EventKind = "ike-updown"
	EventIKEUpdate   EventKind = "ike-update"
	EventIKERekey    EventKind = "ike-rekey"
	EventChildUpDown EventKind = "child-updown"
	EventChildRekey  EventKind = "child-rekey"
)

var eventKinds = []EventKind{EventIKEUpDown, EventIKEUpdate, EventIKERekey, EventChildUpDown, EventChildRekey}

// Event is something that happened to an IKE_SA. A takeover emits none.
type Event struct {
	Kind EventKind
	Up   bool  // updown kinds
	IKE  IKESA // the IKE_SA; of an IKE rekey the old one. Only child-updown fills Children
	New  IKESA // ike-rekey: the new IKE_SA; ike-update: Local and Remote are the new endpoints

	OldChild, NewChild ChildSA // child-rekey
}

// ErrEventsLost is returned by Events where its consumer fell behind; callers
// reconcile with ListSAs and subscribe again.
var ErrEventsLost = errors.New("vici events lost, consumer too slow")

// eventBuffer is how many events may wait for the consumer: a mass rekey or an
// outage of thousands of sessions comes in one burst.
const eventBuffer = 16384

// Events subscribes and passes events to handle, in order, until ctx ends or the
// connection breaks (charon ended). subscribed, if not nil, is called once charon
// has confirmed the subscription: what happens afterwards is not missed.
func (v *Vici) Events(ctx context.Context, subscribed func(), handle func(Event)) error {
	c, err := dialVici(ctx, v.path)
	if err != nil {
		return fmt.Errorf("subscribe to vici events: %w", err)
	}
	defer c.close()
	defer context.AfterFunc(ctx, c.interrupt)()
	ch := make(chan vici.Event, eventBuffer)
	c.session.NotifyEvents(ch)
	names := make([]string, len(eventKinds))
	for i, k := range eventKinds {
		names[i] = string(k)
	}
	if err := c.session.Subscribe(names...); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("subscribe to vici events: %w", err)
	}
	if subscribed != nil {
		subscribed()
	}
	for e := range ch { // the session closes it when the connection breaks
		if len(ch) >= eventBuffer-1 {
			return ErrEventsLost // the session drops silently when the channel is full
		}
		ev, err := parseEvent(EventKind(e.Name), e.Message)
		if err != nil {
			return fmt.Errorf("read vici event %s: %w", e.Name, err)
		}
		handle(ev)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.New("read vici events: connection closed by charon")
}

func parseEvent(k EventKind, m *vici.Message) (Event, error) {
	e := Event{Kind: k, Up: str(m, "up") == "yes"}
	name, ike := "", (*vici.Message)(nil)
	for _, key := range m.Keys() {
		if s := section(m, key); s != nil {
			name, ike = key, s
			break
		}
	}
	if ike == nil {
		return Event{}, errors.New("no IKE_SA in it")
	}
	var err error
	if k == EventIKERekey {
		if e.IKE, err = parseIKE(name, section2(ike, "old")); err == nil {
			e.New, err = parseIKE(name, section2(ike, "new"))
		}
		return e, err
	}
	if e.IKE, err = parseIKE(name, ike); err != nil {
		return Event{}, err
	}
	switch k {
	case EventIKEUpdate:
		r := reader{m: m}
		e.New = e.IKE
		e.New.Local, e.New.Remote = r.endpoint("local"), r.endpoint("remote")
		return e, r.err
	case EventChildRekey:
		kids := section2(ike, "child-sas")
		for _, key := range kids.Keys() {
			kid := section(kids, key)
			if section(kid, "old") == nil {
				continue
			}
			if e.OldChild, err = parseChild(section(kid, "old")); err != nil {
				return Event{}, err
			}
			e.NewChild, err = parseChild(section2(kid, "new"))
			return e, err
		}
		return Event{}, errors.New("no rekeyed CHILD_SA in it")
	}
	return e, nil
}

// section2 is section, with an empty message for a missing one.
func section2(m *vici.Message, key string) *vici.Message {
	if s := section(m, key); s != nil {
		return s
	}
	return vici.NewMessage()
}
