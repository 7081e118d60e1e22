package session

import (
	"bytes"
	"runtime"
	"testing"
)

// plainDoc is the document of a session as it is created: one IKE_SA, one child.
func plainDoc(tb testing.TB) *Document {
	w := newOwner(tb)
	r, _ := w.connect(1)
	return w.doc(r)
}

// BenchmarkRender and BenchmarkRead compare the packed form to JSON.
func BenchmarkRender(b *testing.B) {
	d := plainDoc(b)
	for _, f := range []struct {
		name string
		make func() ([]byte, error)
	}{{"packed", d.Pack}, {"json", d.EncodeSecret}} {
		b.Run(f.name, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				raw, err := f.make()
				if err != nil {
					b.Fatal(err)
				}
				n = len(raw)
			}
			b.ReportMetric(float64(n), "octets/session")
		})
	}
}

func BenchmarkRead(b *testing.B) {
	d := plainDoc(b)
	for _, f := range []struct {
		name string
		raw  []byte
	}{{"packed", must(d.Pack())}, {"json", must(d.EncodeSecret())}} {
		b.Run(f.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Unpack(f.raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkHeld measures the memory of a decoded document and of what the feeder
// remembers of it.
func BenchmarkHeld(b *testing.B) {
	raw := must(plainDoc(b).Pack())
	for range b.N {
		const n = 20000
		docs := make([]*Document, n)
		f := NewFeeder()
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		for i := range docs {
			docs[i] = must(Unpack(bytes.Clone(raw)))
		}
		held := heap()
		b.ReportMetric(float64(held-before)/n, "octets/document")
		for _, d := range docs {
			d.SessionID = string(append([]byte(d.SessionID), byte(len(f.fed)), byte(len(f.fed)>>8)))
			f.Adopted(d)
		}
		b.ReportMetric(float64(heap()-held)/n, "octets/fed")
		runtime.KeepAlive(f)
		runtime.KeepAlive(docs)
	}
}
