package metrics

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// emit adds one sample; labels are in the order of the family's.
type emit func(value float64, labels ...string)

// Metric describes one metric that an appliance tells beside those of the Go
// runtime and the process.
type Metric struct {
	Name string
	// Type is "gauge", "counter" or "histogram".
	Type   string
	Labels []string
	Help   string
}

// family is one metric that is read off a snapshot.
type family struct {
	Metric
	desc *prometheus.Desc
	kind prometheus.ValueType
	rows func(*Snapshot, emit)
}

const namespace = "shadowcast_"

func gauge(name, help string, labels []string, rows func(*Snapshot, emit)) family {
	return newFamily("gauge", prometheus.GaugeValue, name, help, labels, rows)
}

func counter(name, help string, labels []string, rows func(*Snapshot, emit)) family {
	return newFamily("counter", prometheus.CounterValue, name, help, labels, rows)
}

func newFamily(typ string, kind prometheus.ValueType, name, help string, labels []string, rows func(*Snapshot, emit)) family {
	return family{Metric{namespace + name, typ, labels, help}, prometheus.NewDesc(namespace+name, help, labels, nil), kind, rows}
}

// Reference lists every metric by name.
func Reference() []Metric {
	c := newCollector(nil, nil)
	all := []Metric{c.up.Metric, c.took.Metric}
	for _, f := range c.families {
		all = append(all, f.Metric)
	}
	all = append(all, NewRecorder(nil, prometheus.NewRegistry()).reference...)
	slices.SortFunc(all, func(a, b Metric) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// families lists everything that a snapshot shows.
func families() []family {
	var all []family
	for _, part := range [][]family{applianceFamilies(), slotFamilies(), shadowFamilies(), packetFamilies(), peerFamilies(), bgpFamilies(), healthFamilies()} {
		all = append(all, part...)
	}
	return all
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func slotText[N ~uint16 | ~uint32](n N) string { return strconv.FormatUint(uint64(n), 10) }

// finite keeps a broken figure from spoiling sums over the fleet.
func finite(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	return v
}
