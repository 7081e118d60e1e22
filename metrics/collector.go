package metrics

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// scrapeTime bounds how long a scrape waits for the appliance. Prometheus gives up
// after 10 s by default.
const scrapeTime = 5 * time.Second

// collector renders snapshots.
type collector struct {
	source   Source
	log      *slog.Logger
	families []family
	up, took family
}

// NewCollector makes a collector of everything that src shows.
func NewCollector(src Source, log *slog.Logger) prometheus.Collector { return newCollector(src, log) }

func newCollector(src Source, log *slog.Logger) *collector {
	return &collector{source: src, log: log, families: families(),
		up:   gauge("snapshot_up", "1 where the daemon told this scrape everything; otherwise some or most other metrics are missing.", nil, nil),
		took: gauge("snapshot_duration_seconds", "How long the daemon took to answer this scrape.", nil, nil)}
}

// Describe tells every metric that may come.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.up.desc
	ch <- c.took.desc
	for _, f := range c.families {
		ch <- f.desc
	}
}

// Collect takes one snapshot and renders it.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	began := time.Now()
	s, err := c.source.Snapshot(ctx)
	ch <- prometheus.MustNewConstMetric(c.took.desc, prometheus.GaugeValue, time.Since(began).Seconds())
	ch <- prometheus.MustNewConstMetric(c.up.desc, prometheus.GaugeValue, truth(err == nil && s.Missing == nil))
	if err != nil {
		c.log.Warn("take a snapshot for metrics", "err", err)
		return
	}
	if s.Missing != nil {
		c.log.Warn("take a snapshot for metrics: a part is missing", "err", s.Missing)
	}
	for _, f := range c.families {
		f.rows(s, func(v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(f.desc, f.kind, v, labels...)
		})
	}
}
