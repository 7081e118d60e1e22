package replica

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/ssm/session"
)

// twinSink does what a shadow's daemon does with what arrives, except for the
// datagrams to charon: it reads the documents and works out what charon must be told.
type twinSink struct {
	*memSink
	arrived func(Batch)
	docs    map[string]*session.Document
	feeder  *session.Feeder
}

func newTwinSink(s Sink, arrived func(Batch)) *twinSink {
	return &twinSink{s.(*memSink), arrived, map[string]*session.Document{}, session.NewFeeder()}
}

func (s *twinSink) Apply(b Batch, done func(error)) {
	if s.arrived != nil {
		s.arrived(b)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slot(b.Slot)
	for _, c := range b.Changes {
		d, err := session.Unpack(c.Doc)
		if err == nil {
			d.SessionID = c.ID // every session of a benchmark has the same document
			_, err = s.feeder.Diff(d)
		}
		if err != nil {
			done(err)
			return
		}
		s.docs[c.ID] = d
		s.memSink.docs[b.Slot][c.ID] = Change{Item: c.Item}
		s.digest[b.Slot].Toggle(c.ID, c.Hash)
	}
	done(nil)
}

// benchDoc is the document of a session with one child, as it is created.
func benchDoc(tb testing.TB) []byte {
	doc, err := os.ReadFile("../session/testdata/created.packed")
	if err != nil {
		tb.Fatal(err)
	}
	return doc
}

func benchShadows(b *testing.B, arrived func(Batch)) (*Publisher, []*node) {
	ca := newCA(b)
	var nodes []*node
	for _, name := range []string{"fra", "lhr", "nyc"} {
		nodes = append(nodes, startNode(b, ca, name, func(c *ReceiverConfig) { c.Sink = newTwinSink(c.Sink, arrived) }))
	}
	p := startPublisher(b, ca.issue(b, "ams"), "ams", func(c *PublisherConfig) { c.MaxLag, c.DigestEvery = time.Hour, time.Second })
	setShadows(b, p, nodes...)
	p.Complete()
	waitReady(b, p, "fra", "lhr", "nyc")
	return p, nodes
}

// processorTime is what this process has used of all processors.
func processorTime(tb testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkThreeShadows measures sessions per second that arrive at three shadows
// over loopback: the owner rendering each document, both ends' TLS, three shadows
// reading it and comparing it to what charon was told, all in one process. A second
// of one processor is a core; the owner alone needs about a third of it.
func BenchmarkThreeShadows(b *testing.B) {
	p, nodes := benchShadows(b, nil)
	doc, err := session.Unpack(benchDoc(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	began, used := time.Now(), processorTime(b)
	for i := range b.N {
		raw, err := doc.Pack()
		if err != nil {
			b.Fatal(err)
		}
		HashOf(raw)
		if err := p.Put(sid(i), raw, Hash{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24)}); err != nil {
			b.Fatal(err)
		}
	}
	for _, n := range nodes {
		flush(b, p, n.name)
	}
	b.StopTimer()
	took, cores := time.Since(began), processorTime(b)-used
	for _, n := range nodes {
		if got := len(n.sink.content(1)); got != b.N {
			b.Fatalf("%s holds %d sessions, want %d", n.name, got, b.N)
		}
	}
	b.ReportMetric(float64(b.N)/took.Seconds(), "sessions/s")
	b.ReportMetric(float64(b.N)/cores.Seconds(), "sessions/s/core")
	b.ReportMetric(float64(statusOf(b, p, "fra").Bytes)/float64(b.N), "octets/session/shadow")
}

// BenchmarkIdle measures what replication to three shadows costs, owner and shadows
// together, for sessions that do nothing, and where one in a hundred changes every
// second. A round is two seconds.
func BenchmarkIdle(b *testing.B) {
	for _, x := range []struct {
		name              string
		sessions, changes int
	}{{"none", 0, 0}, {"10000", 10000, 0}, {"10000-changing-100", 10000, 100}} {
		b.Run(x.name, func(b *testing.B) {
			p, nodes := benchShadows(b, nil)
			doc := benchDoc(b)
			for i := range x.sessions {
				if err := p.Put(sid(i), doc, Hash{byte(i), byte(i >> 8)}); err != nil {
					b.Fatal(err)
				}
			}
			for _, n := range nodes {
				flush(b, p, n.name)
			}
			runtime.GC()
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			b.ResetTimer()
			used, k := processorTime(b), 0
			for range 20 * b.N {
				<-tick.C
				for range x.changes / 10 {
					k++
					if err := p.Put(sid(k%x.sessions), doc, Hash{byte(k), byte(k >> 8), byte(k >> 16), 1}); err != nil {
						b.Fatal(err)
					}
				}
				if k%10 == 0 {
					p.Replay(nil)
				}
			}
			b.ReportMetric((processorTime(b)-used).Seconds()*1000/float64(2*b.N), "cpu-ms/s")
		})
	}
}

// BenchmarkTwinMemory measures what a shadow's daemon keeps of a session: the
// document, what charon was told of it, and the inventory.
func BenchmarkTwinMemory(b *testing.B) {
	doc := benchDoc(b)
	for range b.N {
		const n = 20000
		s := newTwinSink(newSink(b), nil)
		before := heap()
		for i := range n {
			id := fmt.Sprintf("%016x_%016x", i, i)
			s.Apply(Batch{Slot: 1, Changes: []Change{{Item: Item{id, Hash{byte(i)}}, Doc: bytes.Clone(doc)}}}, func(err error) {
				if err != nil {
					b.Fatal(err)
				}
			})
		}
		b.ReportMetric(float64(heap()-before)/n, "octets/session")
		runtime.KeepAlive(s)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkLag measures the time from Put to the Sink of each of three shadows at 1,000 new
// sessions a second.
func BenchmarkLag(b *testing.B) {
	var mu sync.Mutex
	start := map[string]time.Time{}
	var lags []time.Duration
	p, nodes := benchShadows(b, func(batch Batch) {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range batch.Changes {
			lags = append(lags, time.Since(start[c.ID]))
		}
	})
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
	for _, n := range nodes {
		flush(b, p, n.name)
	}
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
