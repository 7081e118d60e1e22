package lab

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Report is what the demo came to: report.json, and report.html as a page.
type Report struct {
	Command    string        `json:"command"`
	Began      time.Time     `json:"began"`
	Seconds    float64       `json:"seconds"`
	Mode       string        `json:"mode"` // native or user-mode Linux
	CPUs       int           `json:"cpus"`
	Versions   Versions      `json:"versions"`
	BFD        string        `json:"bfd"` // of every router with every appliance
	Met        bool          `json:"met"` // every guarantee
	Guarantees []Guarantee   `json:"guarantees"`
	Failures   []string      `json:"failures,omitempty"` // what kept the demo from its end
	Notes      []string      `json:"notes,omitempty"`    // what the reader must know beside
	Scenes     []ReportScene `json:"scenes"`

	takeovers []string // notes of those that nobody brought about
}

// Versions is what took part.
type Versions struct {
	Shadowcast string `json:"shadowcast"`
	Go         string `json:"go"`
	Kernel     string `json:"kernel"`
	StrongSwan string `json:"strongswan"`
	BIRD       string `json:"bird"`
}

// Guarantee is something the demo promises, and what it found.
type Guarantee struct {
	Text  string `json:"text"`
	Met   bool   `json:"met"`
	Found string `json:"found"`
}

// ReportScene is a scene and what the page plots of it.
type ReportScene struct {
	Scene
	Title    string `json:"title"`
	Shadowed bool   `json:"shadowed"`
	// Packets received in each bucket from Scene.From on, by time of receipt.
	BucketMS     int   `json:"bucket_ms"`
	ReceivedUp   []int `json:"received_up,omitempty"`
	ReceivedDown []int `json:"received_down,omitempty"`
}

// lostListMax bounds the packets that a report lists one by one.
const lostListMax = 50

func newReportScene(s Scene, title string, shadowed bool, up, down []int) ReportScene {
	s.UpTimeline, s.DownTimeline = nil, nil // by time of sending
	for _, d := range []*Direction{&s.Up, &s.Down} {
		d.LostList = d.LostList[:min(len(d.LostList), lostListMax)]
	}
	s.Events = slices.Clone(s.Events)
	slices.SortStableFunc(s.Events, func(a, b Mark) int { return a.At.Compare(b.At) })
	return ReportScene{Scene: s, Title: title, Shadowed: shadowed, BucketMS: int(bucketWidth.Milliseconds()), ReceivedUp: up, ReceivedDown: down}
}

// HasFault reports whether the scene has an outage to speak of.
func (s ReportScene) HasFault() bool { return s.OutageMS != 0 }

// line is the scene in the demo's running text.
func (s ReportScene) line() string {
	o := fmt.Sprintf("sent %s, lost %s", thousands(s.Sent), thousands(s.Lost))
	if s.HasFault() {
		o += ", outage " + s.OutageText()
		if s.OutageUpMS != 0 {
			o += " up/down"
		}
		if s.DetectionMS > 0 {
			o += fmt.Sprintf(" (detection %.0f ms)", s.DetectionMS)
		}
	} else if s.Sent > 0 {
		o += fmt.Sprintf(", longest gap %.0f ms", s.GapMS())
	}
	return o + fmt.Sprintf("; IKE: %s; session %s", s.IKE, keptText(s.SessionKept))
}

// OutageText is the time from the fault to the first packet client -> server, where it
// is known, and to the first server -> client.
func (s ReportScene) OutageText() string {
	down := s.outageText(s.OutageMS)
	if s.OutageUpMS == 0 || s.OutageMS == 0 {
		return down
	}
	up := s.outageText(s.OutageUpMS)
	for _, unit := range []string{" ms", " s"} {
		if strings.HasSuffix(up, unit) && strings.HasSuffix(down, unit) {
			up = strings.TrimSuffix(up, unit)
			break
		}
	}
	return up + "/" + down
}

func (s ReportScene) outageText(ms float64) string {
	switch {
	case ms == 0:
		return "-"
	case ms < 0:
		return fmt.Sprintf("not over after %.0f s", s.To.Sub(s.faultAt()).Seconds())
	case ms >= 10000:
		return fmt.Sprintf("%.1f s", ms/1000)
	}
	return thousands(int(ms+0.5)) + " ms"
}

// faultAt is when the thing this scene is about began.
func (s ReportScene) faultAt() time.Time {
	if len(s.Events) == 0 {
		return s.From
	}
	return s.Events[0].At
}

// GapMS is the longest time without a packet in either direction.
func (s ReportScene) GapMS() float64 { return max(s.Up.MaxGapMS, s.Down.MaxGapMS) }

func keptText(kept bool) string {
	if kept {
		return "kept"
	}
	return "lost"
}

// Columns of the closing table, on the terminal and on the page.
var reportColumns = []string{"scene", "sent up/down", "lost up/down", "outage up/down", "detection", "longest gap", "session", "inner addr", "IKE exchanges the client saw"}

// reportLegend explains the table.
const reportLegend = "up: client to server, down: server to client; outage: power cut to the first packet that way, detection is part of it; IKE: > asked by the client, < by the gateway"

// Row is the scene in the closing table.
func (s ReportScene) Row() []string {
	sent, lost, gap, detection := "-", "-", "-", "-"
	if s.Sent > 0 {
		sent = thousands(s.Up.Sent) + "/" + thousands(s.Down.Sent)
		lost = thousands(s.Up.Lost) + "/" + thousands(s.Down.Lost)
		gap = thousands(int(s.GapMS()+0.5)) + " ms"
	}
	if s.DetectionMS > 0 {
		detection = fmt.Sprintf("%.0f ms", s.DetectionMS)
	} else if s.HasFault() && !s.Shadowed {
		detection = "by the client"
	}
	inner := "unchanged"
	if !s.InnerAddressKept {
		inner = "changed"
	}
	return []string{s.Title, sent, lost, s.OutageText(), detection, gap, keptText(s.SessionKept), inner, s.IKE}
}

// WriteText writes the table and the guarantees for a terminal.
func (r *Report) WriteText(w io.Writer) error {
	rows := [][]string{reportColumns}
	for _, s := range r.Scenes {
		rows = append(rows, s.Row())
	}
	width := make([]int, len(reportColumns))
	for _, row := range rows {
		for i, x := range row {
			width[i] = max(width[i], len(x))
		}
	}
	var b strings.Builder
	for n, row := range rows {
		var line strings.Builder
		for i, x := range row {
			fmt.Fprintf(&line, "%-*s  ", width[i], x)
		}
		text := strings.TrimRight(line.String(), " ")
		b.WriteString(text + "\n")
		if n == 0 {
			total := 2 * (len(width) - 1)
			for _, n := range width {
				total += n
			}
			b.WriteString(strings.Repeat("-", total) + "\n")
		}
	}
	b.WriteString(reportLegend + "\n\n")
	for _, g := range r.Guarantees {
		word := "met    "
		if !g.Met {
			word = "NOT MET"
		}
		fmt.Fprintf(&b, "%s  %s: %s\n", word, g.Text, g.Found)
	}
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "FAILED   %s\n", f)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "NOTE     %s\n", n)
	}
	fmt.Fprintf(&b, "%.0f s in all, %s\n", r.Seconds, r.Mode)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}
