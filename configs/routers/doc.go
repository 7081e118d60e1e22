// Package routers renders the configuration of the routers next to an
// appliance, in the outside and the inside role: BIRD 2 and FRR, which the lab and
// the tests of package bgp run, and Junos, IOS XR and EOS, which nobody here ran:
// each of these says so in its first lines.
//
// It owns the templates (*.tmpl) and the annotated examples made from them
// (bird2.conf, bird2-inside.conf, and so on), and nothing that runs. Operators copy
// the examples. Data flows one way: RouterConfig -> template -> text.
package routers
