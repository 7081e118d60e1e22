package replica

import (
	"crypto/rand"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// countSink keeps only what a shadow must to answer; done at once.
type countSink struct {
	*memSink
	arrived func(Batch)
}

func (s countSink) Apply(b Batch, done func(error)) {
	err := s.apply(b)
	if s.arrived != nil {
		s.arrived(b)
	}
	done(err)
}

func benchDoc(tb testing.TB) []byte {
	doc := make([]byte, 1500)
	if _, err := rand.Read(doc); err != nil {
		tb.Fatal(err)
	}
	return doc
}

// BenchmarkThreeShadows measures sessions per second that arrive at three
// shadows, everything in one process: both ends' TLS and decoding included.
func BenchmarkThreeShadows(b *testing.B) {
	ca := newCA(b)
	var nodes []*node
	for _, name := range []string{"fra", "lhr", "nyc"} {
		nodes = append(nodes, startNode(b, ca, name, func(c *ReceiverConfig) { c.Sink = countSink{c.Sink.(*memSink), nil} }))
	}
	p := startPublisher(b, ca.issue(b, "ams"), "ams", func(c *PublisherConfig) { c.MaxLag = time.Hour })
	setShadows(b, p, nodes...)
	p.Complete()
	waitReady(b, p, "fra", "lhr", "nyc")
	doc := benchDoc(b)
	b.ReportAllocs()
	b.ResetTimer()
	began := time.Now()
	for i := range b.N {
		// Each session is another one, but few documents keep the memory small.
		if err := p.Put(sid(i), doc, Hash{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24)}); err != nil {
			b.Fatal(err)
		}
	}
	for _, n := range nodes {
		flush(b, p, n.name)
	}
	b.StopTimer()
	took := time.Since(began)
	for _, n := range nodes {
		if got := len(n.sink.content(1)); got != b.N {
			b.Fatalf("%s holds %d sessions, want %d", n.name, got, b.N)
		}
	}
	b.ReportMetric(float64(b.N)/took.Seconds(), "sessions/s")
	b.ReportMetric(float64(statusOf(b, p, "fra").Bytes)/float64(b.N), "octets/session/shadow")
}

// BenchmarkLag measures the time from Put to the Sink of a shadow at 1,000 new
// sessions a second.
func BenchmarkLag(b *testing.B) {
	ca := newCA(b)
	var mu sync.Mutex
	start := map[string]time.Time{}
	var lags []time.Duration
	n := startNode(b, ca, "fra", func(c *ReceiverConfig) {
		c.Sink = countSink{c.Sink.(*memSink), func(batch Batch) {
			mu.Lock()
			defer mu.Unlock()
			for _, c := range batch.Changes {
				lags = append(lags, time.Since(start[c.ID]))
			}
		}}
	})
	p := startPublisher(b, ca.issue(b, "ams"), "ams")
	setShadows(b, p, n)
	p.Complete()
	waitReady(b, p, "fra")
	doc := benchDoc(b)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	b.ResetTimer()
	for i := range b.N {
		<-tick.C
		mu.Lock()
		start[sid(i)] = time.Now()
		mu.Unlock()
		if err := p.Put(sid(i), doc, Hash{byte(i), byte(i >> 8)}); err != nil {
			b.Fatal(err)
		}
	}
	flush(b, p, "fra")
	b.StopTimer()
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(lags)
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50-ms", .5}, {"p99-ms", .99}} {
		b.ReportMetric(float64(lags[int(q.at*float64(len(lags)-1))].Microseconds())/1000, q.name)
	}
}

// BenchmarkMemory measures what the owner's side keeps per session beside the
// document, with three shadows.
func BenchmarkMemory(b *testing.B) {
	for range b.N {
		const n = 50000
		s := newState(1 << 16)
		var bits uint8
		for range 3 {
			bits |= s.addCursor(time.Now()).bit
		}
		ids := make([]string, n)
		for i := range ids {
			ids[i] = fmt.Sprintf("%032d", i)
		}
		doc := benchDoc(b)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i, id := range ids {
			s.put(id, doc, Hash{byte(i)}, bits, time.Now())
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "octets/session")
		runtime.KeepAlive(s)
		runtime.KeepAlive(ids)
	}
}

// BenchmarkPut is what the caller pays: three shadows, none of them connected.
func BenchmarkPut(b *testing.B) {
	ca := newCA(b)
	p := startPublisher(b, ca.issue(b, "ams"), "ams")
	n := startNode(b, ca, "fra")
	set := []Shadow{{"fra", n.addr}, {"lhr", n.addr}, {"nyc", n.addr}}
	if err := p.SetShadows(set); err != nil {
		b.Fatal(err)
	}
	doc := benchDoc(b)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if err := p.Put(sid(i%10000), doc, Hash{byte(i), byte(i >> 8), byte(i >> 16)}); err != nil {
			b.Fatal(err)
		}
	}
}
