package metrics

import (
	"math"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// emit adds one sample; labels are in the order of the family's.
type emit func(value float64, labels ...string)

// family is one metric that is read off a snapshot.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	rows func(*Snapshot, emit)
}

const namespace = "shadowcast_"

func gauge(name, help string, labels []string, rows func(*Snapshot, emit)) family {
	return family{prometheus.NewDesc(namespace+name, help, labels, nil), prometheus.GaugeValue, rows}
}

func counter(name, help string, labels []string, rows func(*Snapshot, emit)) family {
	return family{prometheus.NewDesc(namespace+name, help, labels, nil), prometheus.CounterValue, rows}
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
