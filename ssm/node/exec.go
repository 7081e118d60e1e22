package node

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/slot"
	"github.com/shadowcast/shadowcast/ssm"
)

// execute carries out the core's actions in order. It runs in the core loop:
// what moves packets happens here and now, everything that may take longer
// goes to a queue.
func (a *Appliance) execute(actions []ssm.Action) {
	for _, act := range actions {
		switch x := act.(type) {
		case ssm.ActSend:
			a.send(x)
		case ssm.ActFence:
			a.fence(x)
		case ssm.ActSteer:
			a.steering.slot(x)
		case ssm.ActNewClients:
			a.steering.newClients(x.Slots)
		case ssm.ActHold:
			a.problem(x.Slot, "hold outbound packets", a.host.Hold(x.Slot))
		case ssm.ActRelease:
			a.problem(x.Slot, "release held packets", a.host.Release(x.Slot))
		case ssm.ActAnnounce:
			a.routes.want(x)
		case ssm.ActIssue:
			a.registrars.issue(x)
		case ssm.ActRemember:
			a.scribe.do(func() {
				a.problem(x.Slot, "remember the role", a.memory.store(x.Slot, remembered{Role: x.Role, Ticket: x.Ticket, Lives: x.Lives, Set: x.Set, Version: x.Version}))
			})
		case ssm.ActWake:
			// The timer may fire after the loop has ended; post does not wait then.
			time.AfterFunc(x.In, func() { a.post(ssm.EvTick{}) })
		case ssm.ActReport:
			a.record(x)
		case ssm.ActRefuse:
			a.refusedMessage(x)
		default:
			a.toSlot(act)
		}
	}
}

// toSlot queues an action for the slot's runtime.
func (a *Appliance) toSlot(act ssm.Action) {
	switch x := act.(type) {
	case ssm.ActOwn:
		a.at(x.Slot, func(r *slotRuntime) { r.own(x) })
	case ssm.ActFeed:
		a.at(x.Slot, func(r *slotRuntime) { r.feedShadows(x.Shadows) })
	case ssm.ActCover:
		a.at(x.Slot, func(r *slotRuntime) { r.coverFirst(x.First) })
	case ssm.ActPlace:
		a.places.place(x.Slot)
	case ssm.ActLeave:
		a.places.leave(x.Slot)
	case ssm.ActBirth:
		a.at(x.Slot, func(r *slotRuntime) { r.birth.Base = sa.BaseFor(r.ticket, x.Lowest) })
	case ssm.ActBuild:
		a.at(x.Slot, (*slotRuntime).rebuild)
	case ssm.ActActivate:
		a.at(x.Slot, func(r *slotRuntime) {
			if r.activate() {
				a.events.Add(Entry{Slot: x.Slot, Kind: "active", Text: "charon of the slot is active"})
			}
		})
	case ssm.ActShadow:
		// The replication server must know at once whom to believe.
		a.authority.set(x.Slot, string(x.Owner), x.Ticket)
		a.places.place(x.Slot)
		a.at(x.Slot, func(r *slotRuntime) { r.shadow(x) })
	case ssm.ActFollow:
		a.authority.set(x.Slot, string(x.Owner), x.Ticket)
		a.at(x.Slot, func(r *slotRuntime) { r.follow(x.Same) })
	case ssm.ActStandDown:
		a.at(x.Slot, (*slotRuntime).standDown)
	case ssm.ActPassivate:
		a.at(x.Slot, (*slotRuntime).standDown)
	case ssm.ActPreset:
		a.at(x.Slot, func(r *slotRuntime) { r.preset(x.Ticket) })
	case ssm.ActRefeed:
		a.at(x.Slot, (*slotRuntime).refeed)
	case ssm.ActRedirect:
		a.at(x.Slot, func(r *slotRuntime) { r.redirect(x) })
	case ssm.ActQuiesce:
		a.at(x.Slot, func(r *slotRuntime) { r.quiesce(x.Move) })
	case ssm.ActFlush:
		a.at(x.Slot, func(r *slotRuntime) { r.flush(x.Move, string(x.To)) })
	case ssm.ActDrain:
		a.at(x.Slot, func(r *slotRuntime) { r.drain(x.Move, x.Min) })
	}
}

func (a *Appliance) at(s sa.Slot, f func(*slotRuntime)) {
	if r := a.places.at(s); r != nil {
		r.do(func() { f(r) })
	}
}

func (a *Appliance) send(x ssm.ActSend) {
	b, err := json.Marshal(x.Msg)
	if err == nil {
		err = a.peers.Send(string(x.To), messageKind, b)
	}
	if err != nil {
		// Probes repeat; a peer without a route is the normal case of a cut link.
		a.log.Debug("send", "peer", x.To, "kind", x.Msg.Kind, "err", err)
	}
}

func (a *Appliance) fence(x ssm.ActFence) {
	if a.places.at(x.Slot) == nil {
		return // not a member: there is no fence to close
	}
	if !x.Open {
		a.problem(x.Slot, "close the fence", a.host.CloseFence(x.Slot))
		return
	}
	until := slot.NoDeadline
	if x.Until > 0 {
		until = slot.After(x.Until)
	}
	if !x.Refresh {
		a.problem(x.Slot, "open the fence", a.host.OpenFence(x.Slot, until))
		return
	}
	switch err := a.host.RefreshFence(x.Slot, until); {
	case errors.Is(err, slot.ErrFenceClosed):
		a.step(ssm.EvFenceShut{Slot: x.Slot})
	default:
		a.problem(x.Slot, "refresh the fence", err)
	}
}

// problem reports an effect that failed; the core goes on, because a half
// broken appliance must still hand its slots over.
func (a *Appliance) problem(s sa.Slot, what string, err error) {
	if err != nil {
		a.events.Add(Entry{Slot: s, Kind: "error", Warn: true, Text: what + " failed", Reason: err.Error()})
	}
}

// record turns a decision into an event with the time it was taken.
func (a *Appliance) record(x ssm.ActReport) {
	e := Entry{Slot: x.Slot, Kind: x.Kind, Warn: x.Warn, Text: x.Text, Reason: x.Reason, Move: x.Move, Phase: x.Phase, Drain: x.Drain}
	if x.Detection > 0 {
		e.Detection = x.Detection.Round(100 * time.Microsecond)
	}
	a.events.Add(e)
	if x.Move != 0 || x.Drain != 0 {
		a.moves.note(x)
	}
}
