package lab

import (
	"fmt"
	"time"
)

// Scene is one phase of a scenario as reports show it. Packet figures cover those
// sent during the phase; client_ike_sa_inits counts what the client sent in it.
type Scene struct {
	Name             string    `json:"name"`
	From             time.Time `json:"from"`
	To               time.Time `json:"to"`
	Sent             int       `json:"sent"`
	Lost             int       `json:"lost"`
	OutageMS         float64   `json:"outage_ms"`    // fault to the first packet server -> client; 0 without a fault; -1: never
	OutageUpMS       float64   `json:"outage_up_ms"` // likewise client -> server
	DetectionMS      float64   `json:"detection_ms"` // part of the outage; 0 where unknown
	ClientIKESAInits int       `json:"client_ike_sa_inits"`
	SessionKept      bool      `json:"session_kept"`
	InnerAddressKept bool      `json:"inner_address_kept"`
	IKE              string    `json:"ike"`
	Up               Direction `json:"up"`
	Down             Direction `json:"down"`
	LateMS           float64   `json:"late_ms"`
	Refused          string    `json:"refused,omitempty"` // sends that a sender's own kernel refused, since the stream began
	Events           []Mark    `json:"events,omitempty"`
	UpTimeline       []Bucket  `json:"up_timeline,omitempty"`
	DownTimeline     []Bucket  `json:"down_timeline,omitempty"`
}

// Mark is a moment worth a line in the plot.
type Mark struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

// Short is the scene in the one-line result.
func (s Scene) Short() string {
	o := fmt.Sprintf("[%s: lost %d/%d", s.Name, s.Lost, s.Sent)
	if s.OutageMS != 0 {
		o += fmt.Sprintf(", outage %s", msText(s.OutageMS))
		if s.OutageUpMS != 0 {
			o += fmt.Sprintf(" (up %s)", msText(s.OutageUpMS))
		}
	}
	if s.ClientIKESAInits > 0 {
		o += fmt.Sprintf(", %d IKE_SA_INIT", s.ClientIKESAInits)
	}
	return o + "]"
}

// Long is the scene in the log.
func (s Scene) Long() string {
	return fmt.Sprintf("scene %s: up: %s; down: %s; outage up %s down %s; IKE: %s; session kept %t, inner address kept %t; late %.1f ms%s",
		s.Name, s.Up, s.Down, msText(s.OutageUpMS), msText(s.OutageMS), s.IKE, s.SessionKept, s.InnerAddressKept, s.LateMS, s.Refused)
}

func msText(v float64) string {
	if v < 0 {
		return "without end"
	}
	return fmt.Sprintf("%.1f ms", v)
}
