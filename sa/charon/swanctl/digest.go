package swanctl

import (
	"cmp"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"

	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/strongswan/govici/vici"
)

// digestRounds is the price of one guess at the secrets in a digest.
const digestRounds = 1 << 15

// Digest returns 64 hexadecimal digits that are equal exactly where connections
// (with injected defaults), credentials and HA protocol version are. Comments,
// layout, file names and the order of connections do not matter. See the package
// comment for what it reveals.
func (c *Config) Digest(v charon.Version) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d, ok := c.digests[uint8(v)]; ok {
		return d, nil
	}
	open, err := c.openDigest(v)
	if err != nil {
		return "", fmt.Errorf("digest configuration: %w", err)
	}
	closed := sha256.New()
	secrets := slices.Clone(c.shared)
	slices.SortFunc(secrets, func(a, b shared) int { return cmp.Compare(a.name, b.name) })
	for _, s := range secrets {
		put(closed, []byte(s.name), []byte(s.kind), s.Data)
		owners := slices.Sorted(slices.Values(s.owners))
		for _, o := range owners {
			put(closed, []byte(o))
		}
	}
	for _, k := range sortedCredentials(c.keys) {
		put(closed, []byte(k.kind), k.Data)
	}
	sum, err := pbkdf2.Key(sha256.New, string(closed.Sum(nil)), open, digestRounds, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("digest configuration: %w", err)
	}
	d := hex.EncodeToString(sum)
	c.digests[uint8(v)] = d
	return d, nil
}

// openDigest hashes everything that is no secret.
func (c *Config) openDigest(v charon.Version) ([]byte, error) {
	h := sha256.New()
	put(h, []byte("shadowcast swanctl digest 1"), []byte{byte(v)})
	byName := func(a, b *section) int { return cmp.Compare(a.name, b.name) }
	for _, group := range []struct {
		list  []*section
		build func(*section) (*vici.Message, error)
	}{{c.conns, c.connection}, {c.authorities, c.authority}} {
		put(h, binary.BigEndian.AppendUint32(nil, uint32(len(group.list))))
		for _, s := range slices.SortedFunc(slices.Values(group.list), byName) {
			m, err := group.build(s)
			if err != nil {
				return nil, err
			}
			putMessage(h, m)
		}
	}
	for _, x := range sortedCredentials(c.certs) {
		put(h, []byte(x.kind), []byte(x.flag), x.Data)
	}
	return h.Sum(nil), nil
}

func sortedCredentials(l []credential) []credential {
	return slices.SortedFunc(slices.Values(l), func(a, b credential) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.flag, b.flag), cmp.Compare(string(a.Data), string(b.Data)))
	})
}

// put hashes values with their lengths, so that no two sequences look alike.
func put(h hash.Hash, values ...[]byte) {
	for _, v := range values {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(v))))
		h.Write(v)
	}
}

// putMessage hashes a message; the order of plain settings does not matter, that
// of sections (authentication rounds, children) does.
func putMessage(h hash.Hash, m *vici.Message) {
	keys := m.Keys()
	var sections []string
	slices.Sort(keys)
	for _, k := range keys {
		switch v := m.Get(k).(type) {
		case string:
			put(h, []byte("="), []byte(k), []byte(v))
		case []string:
			put(h, []byte("["), []byte(k))
			for _, x := range v {
				put(h, []byte(x))
			}
			put(h, []byte("]"))
		}
	}
	for _, k := range m.Keys() {
		if _, ok := m.Get(k).(*vici.Message); ok {
			sections = append(sections, k)
		}
	}
	for _, k := range sections {
		put(h, []byte("{"), []byte(k))
		putMessage(h, m.Get(k).(*vici.Message))
		put(h, []byte("}"))
	}
}
