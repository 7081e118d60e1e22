// Package routers renders the configuration of the routers next to an
// appliance: BIRD 2 and FRR, in the outside and the inside role.
//
// It owns the templates (*.tmpl) and the annotated examples made from them
// (bird2.conf, bird2-inside.conf, frr.conf, frr-inside.conf), and nothing that
// runs. The lab and the tests of package bgp run what it renders; operators copy
// the examples. Data flows one way: RouterConfig -> template -> text.
package routers
