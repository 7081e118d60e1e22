package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sort"
	"strings"
	"time"
)

// ExchangeType is the exchange type of an IKE header (RFC 7296 section 3.1).
type ExchangeType uint8

// The exchanges of IKEv2.
const (
	IKESAInit     ExchangeType = 34
	IKEAuth       ExchangeType = 35
	CreateChildSA ExchangeType = 36
	Informational ExchangeType = 37
)

func (e ExchangeType) String() string {
	switch e {
	case IKESAInit:
		return "IKE_SA_INIT"
	case IKEAuth:
		return "IKE_AUTH"
	case CreateChildSA:
		return "CREATE_CHILD_SA"
	case Informational:
		return "INFORMATIONAL"
	}
	return fmt.Sprintf("exchange %d", uint8(e))
}

// IKEMessage is one IKE header seen at the client.
type IKEMessage struct {
	At          time.Time    `json:"at"`
	FromClient  bool         `json:"from_client"`
	Exchange    ExchangeType `json:"exchange"`
	Response    bool         `json:"response"`
	ByInitiator bool         `json:"by_initiator"` // sent by the original initiator of the IKE_SA
	ID          uint32       `json:"message_id"`
	SPIi        uint64       `json:"spi_i"`
	SPIr        uint64       `json:"spi_r"`
	Size        int          `json:"size"` // of the IKE message
	Retransmit  bool         `json:"retransmit,omitempty"`
}

func (m IKEMessage) String() string {
	dir, kind, again := "<-", "request", ""
	if m.FromClient {
		dir = "->"
	}
	if m.Response {
		kind = "response"
	}
	if m.Retransmit {
		again = " (retransmit)"
	}
	return fmt.Sprintf("%s %s %s %d %016x_%016x %d bytes%s", dir, m.Exchange, kind, m.ID, m.SPIi, m.SPIr, m.Size, again)
}

const ikeHeaderLen = 28

// parseIKE reads an IKE message out of an IP packet: UDP port 500, or 4500 behind
// the four zero octets that tell it from ESP (RFC 3948 section 2.2). Anything else,
// later fragments and IPv6 extension headers included, is not one.
func parseIKE(ip []byte) (m IKEMessage, src, dst netip.Addr, ok bool) {
	src, dst, udp := parseUDP(ip)
	if len(udp) < 8 {
		return m, src, dst, false
	}
	sport, dport := binary.BigEndian.Uint16(udp), binary.BigEndian.Uint16(udp[2:])
	body := udp[8:]
	switch {
	case sport == 500 || dport == 500:
	case sport == 4500 || dport == 4500:
		if len(body) < 4 || binary.BigEndian.Uint32(body) != 0 {
			return m, src, dst, false
		}
		body = body[4:]
	default:
		return m, src, dst, false
	}
	if len(body) < ikeHeaderLen || body[17]>>4 != 2 {
		return m, src, dst, false
	}
	m = IKEMessage{
		SPIi: binary.BigEndian.Uint64(body), SPIr: binary.BigEndian.Uint64(body[8:]),
		Exchange: ExchangeType(body[18]), ByInitiator: body[19]&0x08 != 0, Response: body[19]&0x20 != 0,
		ID: binary.BigEndian.Uint32(body[20:]), Size: int(binary.BigEndian.Uint32(body[24:])),
	}
	return m, src, dst, true
}

// parseUDP returns the UDP datagram of an IP packet, nil where it has none.
func parseUDP(ip []byte) (src, dst netip.Addr, udp []byte) {
	switch {
	case len(ip) >= 20 && ip[0]>>4 == 4 && ip[9] == 17 && binary.BigEndian.Uint16(ip[6:])&0x1fff == 0:
		if hl := int(ip[0]&0xf) * 4; hl >= 20 && len(ip) >= hl {
			return netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:])), ip[hl:]
		}
	case len(ip) >= 40 && ip[0]>>4 == 6 && ip[6] == 17:
		return netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:])), ip[40:]
	}
	return src, dst, nil
}

// IKEAccount is every IKE message a client sent or received, in order.
type IKEAccount struct {
	Messages []IKEMessage `json:"messages"`
	seen     map[ikeKey]bool
}

type ikeKey struct {
	spii, spir uint64
	ex         ExchangeType
	id         uint32
	flags      [3]bool
}

// add appends m, marking what repeats an earlier message. IKE_SA_INIT requests with
// a COOKIE or another group repeat their SPI and ID: these differ in size.
func (a *IKEAccount) add(m IKEMessage) {
	k := ikeKey{m.SPIi, m.SPIr, m.Exchange, m.ID, [3]bool{m.FromClient, m.Response, m.ByInitiator}}
	if m.Exchange == IKESAInit {
		k.spir = uint64(m.Size)
	}
	if a.seen == nil {
		a.seen = map[ikeKey]bool{}
	}
	m.Retransmit = a.seen[k]
	a.seen[k] = true
	a.Messages = append(a.Messages, m)
}

// Count is how many messages fit f.
func (a *IKEAccount) Count(f func(IKEMessage) bool) int {
	n := 0
	for _, m := range a.Messages {
		if f(m) {
			n++
		}
	}
	return n
}

// Since returns the account from t on.
func (a *IKEAccount) Since(t time.Time) *IKEAccount {
	i := sort.Search(len(a.Messages), func(i int) bool { return !a.Messages[i].At.Before(t) })
	return &IKEAccount{Messages: a.Messages[i:]}
}

// ClientInits is how many IKE_SA_INIT requests the client sent, retransmits
// included: a kept session has none after the fault.
func (a *IKEAccount) ClientInits() int {
	return a.Count(func(m IKEMessage) bool { return m.FromClient && m.Exchange == IKESAInit && !m.Response })
}

// String counts exchanges by type and by who asked: "IKE_SA_INIT 1>, CREATE_CHILD_SA
// 2> 1<, 3 retransmits".
func (a *IKEAccount) String() string {
	type key struct {
		ex     ExchangeType
		client bool
	}
	n := map[key]int{}
	again := 0
	for _, m := range a.Messages {
		switch {
		case m.Retransmit:
			again++
		case !m.Response:
			n[key{m.Exchange, m.FromClient}]++
		}
	}
	var s []string
	for _, ex := range []ExchangeType{IKESAInit, IKEAuth, CreateChildSA, Informational} {
		out, in := n[key{ex, true}], n[key{ex, false}]
		if out+in == 0 {
			continue
		}
		w := ex.String()
		if out > 0 {
			w += fmt.Sprintf(" %d>", out)
		}
		if in > 0 {
			w += fmt.Sprintf(" %d<", in)
		}
		s = append(s, w)
	}
	if again > 0 {
		s = append(s, fmt.Sprintf("%d retransmits", again))
	}
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}
