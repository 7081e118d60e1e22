package node

import (
	"context"
	"time"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/dnsupdate"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm"
)

// namesEvery is how often the names are compared with who owns what. Names are looked
// up by clients that connect; nothing waits for them.
const namesEvery = time.Second

// newNames returns nil where no names are configured.
func newNames(a *Appliance) (*dnsupdate.Updater, error) {
	d := a.cfg.DNS
	if !d.Enabled() {
		return nil, nil
	}
	key, err := dnsupdate.ReadKey(d.KeyFile)
	if err != nil {
		return nil, err
	}
	return dnsupdate.New(dnsupdate.Config{Server: d.Server.String(), Zone: d.Zone, Key: key, TTL: d.TTL, OnEvent: func(e dnsupdate.Event) {
		a.events.Add(nameEntry(e))
	}}, a.log)
}

// nameEntry is what the event log says of a name.
func nameEntry(e dnsupdate.Event) Entry {
	out := Entry{Kind: "dns", Text: "the name " + e.Name + " points here", Reason: e.Reason}
	switch e.Kind {
	case dnsupdate.Failed:
		out.Warn, out.Text = true, "the name "+e.Name+" is not updated"
	case dnsupdate.Superseded:
		out.Text = "the name " + e.Name + " is another appliance's"
	}
	return out
}

// keepNames tells the updater what this appliance answers for.
func (a *Appliance) keepNames(ctx context.Context) error {
	every := time.NewTicker(namesEvery)
	defer every.Stop()
	for {
		if v, err := a.view(ctx); err == nil {
			a.names.Want(namesOf(a.cfg, v))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
	}
}

// namesOf returns the names of the sites whose clients this appliance serves: it owns
// the first home slot of the site's appliance.
func namesOf(cfg *config.Config, v ssm.View) map[string]dnsupdate.Record {
	out := map[string]dnsupdate.Record{}
	for _, n := range cfg.DNS.Names {
		first := firstHome(cfg, n.Appliance)
		for _, s := range v.Slots {
			if s.Slot == first && s.Role == ssm.RoleOwner && s.Owner == v.Self {
				out[n.Name] = dnsupdate.Record{Addresses: cfg.AddressesOf(cfg.Node), Owner: cfg.Node, Ticket: uint64(s.Ticket)}
			}
		}
	}
	return out
}

// firstHome is the lowest slot that is at home on the appliance.
func firstHome(cfg *config.Config, appliance string) (first sa.Slot) {
	for _, s := range cfg.Fleet.Slots {
		if s.Home == appliance && (first == 0 || s.Number < first) {
			first = s.Number
		}
	}
	return first
}
