package node

import (
	"github.com/shadowcast/shadowcast/sa/fabric"
)

// newFabric protects the tunnels to the other appliances. A fleet of one has none.
func newFabric(a *Appliance) (*fabric.Fabric, error) {
	me := a.self()
	c := fabric.Config{Self: me.Name, Local: me.Address, RunDir: a.cfg.RunDir, CA: a.cfg.PKI.CA, Cert: a.cfg.PKI.Cert, Key: a.cfg.PKI.Key,
		Notify: func(n fabric.Notice) {
			a.events.Add(Entry{Kind: "fabric", Warn: n.Warn, Text: n.Text, Reason: n.Reason})
		}}
	for _, p := range a.cfg.Others() {
		c.Peers = append(c.Peers, fabric.Peer{Name: p.Name, Addr: p.Address})
	}
	return fabric.New(c)
}
