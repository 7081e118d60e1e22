package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// demoReport is what the README's table takes from the demo's report.json.
type demoReport struct {
	Command  string    `json:"command"`
	Began    time.Time `json:"began"`
	Mode     string    `json:"mode"`
	CPUs     int       `json:"cpus"`
	BFD      string    `json:"bfd"`
	Versions struct {
		Kernel     string `json:"kernel"`
		StrongSwan string `json:"strongswan"`
	} `json:"versions"`
	Scenes []struct {
		Name       string  `json:"name"`
		Title      string  `json:"title"`
		Sent       int     `json:"sent"`
		Lost       int     `json:"lost"`
		OutageMS   float64 `json:"outage_ms"`
		OutageUpMS float64 `json:"outage_up_ms"`
		Up, Down   struct {
			MaxGapMS float64 `json:"max_gap_ms"`
		}
		DetectionMS      float64 `json:"detection_ms"`
		Inits            int     `json:"client_ike_sa_inits"`
		SessionKept      bool    `json:"session_kept"`
		InnerAddressKept bool    `json:"inner_address_kept"`
	} `json:"scenes"`
}

// figures writes the demo's report as the table of the README.
func figures(path string, w io.Writer) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the demo's report: %w", err)
	}
	var d demoReport
	if err := json.Unmarshal(b, &d); err != nil {
		return fmt.Errorf("read the demo's report %s: %w", path, err)
	}
	fmt.Fprintf(w, "`%s` on %s: %s, %d CPU, %s, strongSwan %s, BFD %s. Packets count both ways.\n\n",
		d.Command, d.Began.UTC().Format(time.DateOnly), d.Mode, d.CPUs, d.Versions.Kernel, d.Versions.StrongSwan, d.BFD)
	fmt.Fprintln(w, "| scene | sent | lost | outage to the client | of it detection | outage to the server | longest gap | IKE_SA_INITs | session kept | inner address kept |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|")
	for _, s := range d.Scenes {
		fmt.Fprintf(w, "| %s | %d | %d | %s | %s | %s | %s | %d | %s | %s |\n", s.Title, s.Sent, s.Lost, ms(s.OutageMS), ms(s.DetectionMS),
			ms(s.OutageUpMS), ms(max(s.Up.MaxGapMS, s.Down.MaxGapMS)),
			s.Inits, yesNo(s.SessionKept), yesNo(s.InnerAddressKept))
	}
	return nil
}

// ms renders milliseconds; 0 is none, a negative outage did not end.
func ms(v float64) string {
	switch {
	case v < 0:
		return "did not end"
	case v == 0:
		return ""
	}
	return strconv.FormatFloat(v, 'f', 0, 64) + " ms"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
