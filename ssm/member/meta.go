package member

import (
	"encoding/json"
	"fmt"

	"github.com/hashicorp/memberlist"
)

// metaVersion is the version of the form of Meta.
const metaVersion = 1

// Meta is what an appliance says of itself.
type Meta struct {
	Form       int     `json:"v"`
	Version    string  `json:"d"` // of the daemon
	Site       string  `json:"s"`
	Rack       string  `json:"r,omitempty"`
	Power      string  `json:"p,omitempty"`
	Lat        float64 `json:"la"` // degrees north
	Lon        float64 `json:"lo"` // degrees east
	Processors int     `json:"c"`
}

// encode fails where the texts are too long together.
func (m Meta) encode() ([]byte, error) {
	m.Form = metaVersion
	b, err := json.Marshal(m)
	if err == nil && len(b) > memberlist.MetaMaxSize {
		err = fmt.Errorf("metadata have %d octets, want at most %d: shorten site and labels", len(b), memberlist.MetaMaxSize)
	}
	return b, err
}

// decode reads what another appliance says. Unknown keys are ignored, so that
// adjacent versions understand each other.
func decode(b []byte) (Meta, error) {
	var m Meta
	if len(b) > memberlist.MetaMaxSize {
		return m, fmt.Errorf("metadata have %d octets, want at most %d", len(b), memberlist.MetaMaxSize)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("read metadata: %w", err)
	}
	switch {
	case m.Form != metaVersion:
		return m, fmt.Errorf("metadata of version %d, want %d", m.Form, metaVersion)
	case m.Version == "" || m.Site == "":
		return m, fmt.Errorf("metadata name no version or no site")
	case !(m.Lat >= -90 && m.Lat <= 90) || !(m.Lon >= -180 && m.Lon <= 180):
		return m, fmt.Errorf("metadata say %g north, %g east", m.Lat, m.Lon)
	case m.Processors < 1:
		return m, fmt.Errorf("metadata say %d processors", m.Processors)
	}
	return m, nil
}
