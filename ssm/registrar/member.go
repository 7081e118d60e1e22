package registrar

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
)

// Member is one registrar: an appliance and the number of the log on its disk.
// The zero value is no member.
type Member struct {
	Node   string
	Number string // 16 hexadecimal digits, drawn when the log was made
}

const numberLen = 16

// newMember draws a number.
func newMember(node string) Member {
	b := make([]byte, numberLen/2)
	rand.Read(b) // never fails
	return Member{node, hex.EncodeToString(b)}
}

// String is NODE/NUMBER, "" for no member. It is the identity and the address of
// the member in Raft.
func (m Member) String() string {
	if m == (Member{}) {
		return ""
	}
	return m.Node + "/" + m.Number
}

// ParseMember reads what String wrote.
func ParseMember(s string) (Member, error) {
	node, number, ok := strings.Cut(s, "/")
	_, err := hex.DecodeString(number)
	if !ok || node == "" || len(node) > maxName || len(number) != numberLen || err != nil {
		return Member{}, fmt.Errorf("%.100q is no member, want NODE/%d hexadecimal digits", s, numberLen)
	}
	return Member{node, number}, nil
}
