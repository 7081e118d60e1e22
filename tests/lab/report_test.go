package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
)

// goodReport is a demo as it should end, with recorded figures.
func goodReport() *Report {
	at := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	flat := func(n int) []int {
		v := make([]int, n)
		for i := range v {
			v[i] = 10
		}
		return v
	}
	move := func(name, title string) ReportScene {
		sc := Scene{
			Name: name, From: at, To: at.Add(5200 * time.Millisecond), Sent: 5200, SessionKept: true, InnerAddressKept: true, IKE: "none",
			Up: Direction{Sent: 2600, Received: 2600, MaxGapMS: 12.3}, Down: Direction{Sent: 2600, Received: 2600, MaxGapMS: 20.1},
			Events: []Mark{
				{at.Add(600 * time.Millisecond), "prepare"}, {at.Add(500 * time.Millisecond), "handover to fra <asked> for"},
				{at.Add(601 * time.Millisecond), "flush"}, {at.Add(602 * time.Millisecond), "take"}, {at.Add(603 * time.Millisecond), "flip"},
			},
		}
		return newReportScene(sc, title, true, flat(260), flat(260))
	}
	cut := func(name, title string, shadowed bool, seconds, outageMS float64) ReportScene {
		n := int(seconds * 50)
		up, down := flat(n), flat(n)
		for i := 50; i < 50+int(outageMS/20) && i < n; i++ {
			up[i], down[i] = 0, 0
		}
		lost := int(outageMS)
		sc := Scene{
			Name: name, From: at, To: at.Add(time.Duration(seconds * float64(time.Second))), Sent: n * 20, Lost: lost, OutageMS: outageMS,
			SessionKept: shadowed, InnerAddressKept: shadowed, IKE: "none",
			Up: Direction{Sent: n * 10, Lost: lost / 2}, Down: Direction{Sent: n * 10, Lost: lost / 2},
			Events: []Mark{{at.Add(time.Second), "power cut of ams"}},
		}
		if shadowed {
			sc.DetectionMS = 182.4
		} else {
			sc.ClientIKESAInits, sc.IKE = 1, "IKE_SA_INIT 1>, IKE_AUTH 1>, 6 retransmits"
		}
		return newReportScene(sc, title, shadowed, up, down)
	}
	r := &Report{Command: "shadowlab demo", Began: at, Seconds: 140, Mode: "native", CPUs: 2, Versions: Versions{"abc", "go1.26", "Linux 6.1", "5.9.8", "2.0.12"}}
	for i := range plannedMoves {
		r.Scenes = append(r.Scenes, move("planned", fmt.Sprintf("planned handover %d of %d: ams -> fra", i+1, plannedMoves)))
	}
	r.Scenes = append(r.Scenes, cut("power-cut", "power cut of ams", true, 3, 240))
	for _, n := range []string{"client-dpd", "client-child-rekey", "client-ike-rekey"} {
		r.Scenes = append(r.Scenes, newReportScene(Scene{Name: n, SessionKept: true, InnerAddressKept: true, IKE: "INFORMATIONAL 1>"}, n, true, nil, nil))
	}
	r.Scenes = append(r.Scenes, move("return", "return home: fra -> ams"), cut("power-cut-unshadowed", "power cut of ams without shadowing", false, 30, 26000))
	return r
}

func TestReportJudges(t *testing.T) {
	scene := func(r *Report, name string) *ReportScene { return r.first(name) }
	for _, tc := range []struct {
		name  string
		spoil func(*Report)
		unmet string // beginning of the guarantee's text; empty: all are met
	}{
		{"good", func(*Report) {}, ""},
		{"control may lose", func(r *Report) {
			r.Scenes = append(r.Scenes, ReportScene{Scene: Scene{Name: "control", Lost: 1, SessionKept: true, InnerAddressKept: true}, Title: "control", Shadowed: true})
		}, ""},
		{"planned loss", func(r *Report) { scene(r, "planned").Lost = 1 }, "planned handover"},
		{"too few packets", func(r *Report) { scene(r, "planned").Sent = 4999 }, "planned handover"},
		{"too few handovers", func(r *Report) { r.Scenes = r.Scenes[1:] }, "planned handover"},
		{"return loss", func(r *Report) { scene(r, "return").Lost = 2 }, "return home"},
		{"long outage", func(r *Report) { scene(r, "power-cut").OutageMS = 1000.1 }, "power cut"},
		{"endless outage", func(r *Report) { scene(r, "power-cut").OutageMS = -1 }, "power cut"},
		{"no outage measured", func(r *Report) { scene(r, "power-cut").OutageMS = 0 }, "power cut"},
		{"new session", func(r *Report) { scene(r, "power-cut").ClientIKESAInits = 1 }, "with shadowing the client"},
		{"address changed", func(r *Report) { scene(r, "return").InnerAddressKept = false }, "with shadowing session"},
		{"DPD unanswered", func(r *Report) { scene(r, "client-dpd").Name = "other" }, "after the power cut"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := goodReport()
			tc.spoil(r)
			r.judge()
			var unmet []string
			for _, g := range r.Guarantees {
				if !g.Met {
					unmet = append(unmet, g.Text)
				}
			}
			if tc.unmet == "" {
				if len(unmet) > 0 || !r.Met {
					t.Errorf("met %t, not met: %q", r.Met, unmet)
				}
				return
			}
			if r.Met || len(unmet) != 1 || !strings.HasPrefix(unmet[0], tc.unmet) {
				t.Errorf("met %t, not met: %q, want %q", r.Met, unmet, tc.unmet)
			}
		})
	}
	r := &Report{Failures: []string{"shadowed: no such thing"}}
	r.judge()
	if r.Met {
		t.Error("an empty report is met")
	}
}

func TestReportText(t *testing.T) {
	r := goodReport()
	r.first("power-cut").OutageMS = 1234
	r.judge()
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"scene ", "2,600/2,600", "power cut of ams  ", "1,234 ms", "182 ms", "26.0 s", "by the client", "NOT MET  power cut: first packet", "without shadowing 26.0 s", "140 s in all"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestReportJSON(t *testing.T) {
	b, err := json.Marshal(goodReport())
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Scenes []map[string]any }
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	for _, s := range got.Scenes {
		for _, k := range []string{"name", "sent", "lost", "outage_ms", "detection_ms", "client_ike_sa_inits", "session_kept", "inner_address_kept", "title", "shadowed"} {
			if _, ok := s[k]; !ok {
				t.Errorf("scene %v lacks %s", s["name"], k)
			}
		}
	}
}

// The page parses, needs nothing else, and shows every scene.
func TestReportHTML(t *testing.T) {
	for _, tc := range []struct {
		name        string
		r           *Report
		rows, plots int
	}{{"good", goodReport(), 11, 8}, {"empty", &Report{}, 0, 0}} {
		t.Run(tc.name, func(t *testing.T) {
			tc.r.judge()
			var b bytes.Buffer
			if err := tc.r.WriteHTML(&b); err != nil {
				t.Fatal(err)
			}
			for _, bad := range []string{"ZgotmplZ", "NaN", "Inf", "%!", "<asked>"} {
				if strings.Contains(b.String(), bad) {
					t.Errorf("%q in the page", bad)
				}
			}
			doc, err := html.Parse(&b)
			if err != nil {
				t.Fatal(err)
			}
			rows, plots := 0, 0
			for n := range doc.Descendants() {
				if n.Type != html.ElementNode {
					continue
				}
				switch n.Data {
				case "script", "link", "img", "iframe", "object":
					t.Errorf("the page has a %s", n.Data)
				case "td":
					if n.PrevSibling == nil {
						rows++
					}
				case "section":
					plots++
				case "path":
					checkPath(t, n)
				}
				for _, a := range n.Attr {
					if a.Key == "src" || a.Key == "href" || strings.Contains(a.Val, "://") || strings.Contains(a.Val, "url(") {
						t.Errorf("%s refers to %s", n.Data, a.Val)
					}
				}
			}
			if rows != tc.rows || plots != tc.plots {
				t.Errorf("%d rows, %d plots, want %d, %d", rows, plots, tc.rows, tc.plots)
			}
		})
	}
}

// checkPath reads a path of M, V, H and Z within the drawing.
func checkPath(t *testing.T, n *html.Node) {
	for _, a := range n.Attr {
		if a.Key != "d" {
			continue
		}
		d := strings.NewReplacer("M", " M ", "V", " V ", "H", " H ", "Z", " Z ").Replace(a.Val)
		for _, f := range strings.Fields(d) {
			var v float64
			if strings.ContainsAny(f, "MVHZ") {
				continue
			}
			if _, err := fmt.Sscan(f, &v); err != nil || v < 0 || v > plotWidth {
				t.Errorf("path has %q", f)
			}
		}
	}
}

func TestPlot(t *testing.T) {
	r := goodReport()
	p := newPlot(*r.first("planned"))
	if p.Shade != nil {
		t.Error("a handover has no outage")
	}
	if len(p.Marks) != 5 || p.Marks[0].When != "+0.000 s" || !strings.Contains(p.Marks[0].What, "asked") || p.Marks[4].When != "+0.103 s" {
		t.Errorf("marks %+v", p.Marks)
	}
	rows := map[float64]bool{}
	for _, m := range p.Marks[1:4] {
		rows[m.Y] = true
	}
	if len(rows) != markRows {
		t.Errorf("marks on top of each other: %+v", p.Marks)
	}
	cut := newPlot(*r.first("power-cut"))
	if cut.Shade == nil || cut.Shade.W < 65 || cut.Shade.W > 68 { // 240 ms of 3 s on 832
		t.Errorf("outage %+v", cut.Shade)
	}
	if newPlot(*r.first("client-dpd")) != nil {
		t.Error("a plot without packets")
	}
	if got := area([]int{0, 5, 5, 10}, 4, 10, 100); got != "M120 100V100H328V64H744V28H952V100Z" {
		t.Error(got)
	}
	if got := area([]int{90}, 1, 30, 100); got != "M120 100V28H952V100Z" {
		t.Error(got)
	}
	if b := newBars(r); len(b) != 2 || b[1].W != barsWidth || b[0].W > 6 {
		t.Errorf("bars %+v", b)
	}
}

func TestTicks(t *testing.T) {
	for _, tc := range []struct{ from, to time.Duration }{
		{-500 * time.Millisecond, 4700 * time.Millisecond}, {-time.Second, 29 * time.Second}, {0, time.Second}, {-time.Second, 45 * time.Second},
	} {
		got := ticks(tc.from, tc.to)
		if len(got) == 0 || got[0] < tc.from || got[len(got)-1] > tc.to || len(got) > 12 || len(got) < 4 {
			t.Errorf("ticks(%s, %s) = %v", tc.from, tc.to, got)
		}
	}
}

func TestArrivals(t *testing.T) {
	a := &account{sent: []int64{0, 10, 20, 30}, got: []receipt{{At: 5}, {At: 15}, {}, {At: 36}}}
	if got := fmt.Sprint(a.arrivals(5, 35, 10*time.Nanosecond)); got != "[1 1 0]" {
		t.Error(got)
	}
	if a.arrivals(5, 5, 10) != nil {
		t.Error("arrivals in no time")
	}
}

func TestConsole(t *testing.T) {
	var b bytes.Buffer
	c := &console{w: &b, live: true, began: time.Now()}
	c.progress("going on")
	c.progress(strings.Repeat("x", 200))
	c.say("done %d", 1)
	got := b.String()
	if strings.Count(got, toStart) != 2 || strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "s] done 1\n") {
		t.Errorf("%q", got)
	}
	for _, l := range strings.Split(got, toStart) {
		if len(strings.TrimSpace(l)) > liveWidth {
			t.Errorf("line too wide: %q", l)
		}
	}
	b.Reset()
	c = &console{w: &b, began: time.Now()}
	c.during(func() string { return "never" }, func() { c.progress("plain") })
	if got := b.String(); !strings.HasSuffix(got, "plain\n") || strings.Contains(got, "\x1b") {
		t.Errorf("%q", got)
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", 26000: "26,000"} {
		if got := thousands(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestDirectionPlus(t *testing.T) {
	a := Direction{Sent: 10, Received: 5, Lost: 5, MaxGapMS: 3, DelayAvgMS: 1, DelayMaxMS: 4, LostList: []LostPacket{{Seq: 1}}}
	got := a.plus(Direction{Sent: 5, Received: 5, MaxGapMS: 7, DelayAvgMS: 3, DelayMaxMS: 2})
	if got.Sent != 15 || got.Received != 10 || got.Lost != 5 || got.MaxGapMS != 7 || got.DelayAvgMS != 2 || got.DelayMaxMS != 4 || len(got.LostList) != 1 {
		t.Errorf("%+v", got)
	}
	if s := sooner(-1, 5); s != 5 {
		t.Error(s)
	}
	if s := sooner(7, -1); s != 7 {
		t.Error(s)
	}
	if s := sooner(7, 5); s != 5 {
		t.Error(s)
	}
}

func TestAnsweredDPD(t *testing.T) {
	ask := IKEMessage{FromClient: true, Exchange: Informational, ID: 7}
	reply := IKEMessage{Exchange: Informational, Response: true, ID: 7}
	other := IKEMessage{Exchange: Informational, ID: 7}
	for _, tc := range []struct {
		ms   []IKEMessage
		want bool
	}{{nil, false}, {[]IKEMessage{ask}, false}, {[]IKEMessage{ask, other}, false}, {[]IKEMessage{reply}, false}, {[]IKEMessage{ask, ask, reply}, true}} {
		if got := answeredDPD(&IKEAccount{Messages: tc.ms}); got != tc.want {
			t.Errorf("%v: %t", tc.ms, got)
		}
	}
}
