package swanctl

import (
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/shadowcast/shadowcast/sa"
)

// certDirs and keyDirs are the directories of swanctl.conf(5), with the type and
// flag by which vici takes their files.
var (
	certDirs = []struct{ dir, kind, flag string }{
		{"x509ca", "X509", "CA"}, {"x509", "X509", "NONE"}, {"x509aa", "X509", "AA"}, {"x509ocsp", "X509", "OCSP"},
		{"x509ac", "X509_AC", "NONE"}, {"x509crl", "X509_CRL", "NONE"},
	}
	keyDirs = []struct{ dir, kind string }{
		{"private", "any"}, {"rsa", "rsa"}, {"ecdsa", "ecdsa"}, {"pkcs8", "any"},
	}
)

const pubkeyDir = "pubkey" // read only where a connection names a file of it

// sharedKinds maps the prefixes of sections in `secrets` to vici's types.
var sharedKinds = []struct{ prefix, kind string }{{"ike", "IKE"}, {"eap", "EAP"}, {"ntlm", "NTLM"}, {"ppk", "PPK"}}

func (c *Config) readFiles() error {
	for _, d := range certDirs {
		err := eachFile(filepath.Join(c.dir, d.dir), func(path string, b []byte) error {
			blobs, err := certBlobs(b)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			for _, x := range blobs {
				c.certs = append(c.certs, credential{path: path, kind: d.kind, flag: d.flag, Data: x})
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, d := range keyDirs {
		err := eachFile(filepath.Join(c.dir, d.dir), func(path string, b []byte) error {
			der, err := keyBlob(b)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			c.keys = append(c.keys, credential{path: path, kind: d.kind, Data: der})
			return nil
		})
		if err != nil {
			return err
		}
	}
	err := eachFile(filepath.Join(c.dir, "pkcs12"), func(path string, _ []byte) error {
		return fmt.Errorf("%s: PKCS#12 containers are not supported, want its certificates in x509 and x509ca and its key in private", path)
	})
	if err != nil {
		return err
	}
	for _, s := range c.conns {
		for _, round := range s.subs {
			if err := c.namedFiles(round); err != nil {
				return err
			}
		}
	}
	for _, s := range c.authorities {
		if err := c.namedFile(s, "cacert", "x509ca"); err != nil {
			return err
		}
	}
	return nil
}

// fileKeys are the settings that name credential files, with their directory.
var fileKeys = map[string]string{"certs": "x509", "cacerts": "x509ca", "pubkeys": pubkeyDir}

func (c *Config) namedFiles(round *section) error {
	for key, dir := range fileKeys {
		if err := c.namedFile(round, key, dir); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) namedFile(s *section, key, dir string) error {
	k, ok := s.find(key)
	if !ok {
		return nil
	}
	for _, name := range splitList(k.value) {
		path := c.path(dir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", k.pos, key, err)
		}
		blobs, err := certBlobs(b)
		if err != nil {
			return fmt.Errorf("%s: %s: %s: %w", k.pos, key, path, err)
		}
		c.files[path] = blobs[0]
	}
	return nil
}

// path resolves the name of a credential file against its directory.
func (c *Config) path(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.dir, dir, name)
}

// eachFile calls f for the regular files of a directory, sorted by name; a
// missing directory is empty.
func eachFile(dir string, f func(path string, b []byte) error) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if st, err := os.Stat(path); err != nil {
			return err
		} else if !st.Mode().IsRegular() {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := f(path, b); err != nil {
			return err
		}
	}
	return nil
}

// certBlobs returns the certificates (or CRLs, or public keys) of a PEM file, or
// the content of a DER file.
func certBlobs(b []byte) ([][]byte, error) {
	var out [][]byte
	for rest := b; ; {
		blk, r := pem.Decode(rest)
		if blk == nil {
			break
		}
		rest = r
		if strings.Contains(blk.Type, "PRIVATE KEY") {
			return nil, errors.New("holds a private key, want only certificates in this directory")
		}
		out = append(out, blk.Bytes)
	}
	if len(out) == 0 {
		if !isDER(b) {
			return nil, errors.New("neither PEM nor DER")
		}
		out = [][]byte{b}
	}
	return out, nil
}

// keyBlob returns the private key of a PEM or DER file.
func keyBlob(b []byte) ([]byte, error) {
	var key []byte
	seen := false
	for rest := b; ; {
		blk, r := pem.Decode(rest)
		if blk == nil {
			break
		}
		seen, rest = true, r
		switch {
		case blk.Type == "ENCRYPTED PRIVATE KEY" || blk.Headers["DEK-Info"] != "":
			return nil, errors.New("key is protected by a passphrase, want it decrypted (openssl pkey -in FILE -out FILE) and readable by root only")
		case !strings.HasSuffix(blk.Type, "PRIVATE KEY"):
			continue // EC PARAMETERS
		case key != nil:
			return nil, errors.New("holds more than one private key, want one a file")
		}
		key = blk.Bytes
	}
	switch {
	case key != nil:
		return key, nil
	case seen || !isDER(b):
		return nil, errors.New("no private key in it, neither PEM nor DER")
	}
	return b, nil
}

func isDER(b []byte) bool {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(b, &v)
	return err == nil && len(rest) == 0 && v.Tag == asn1.TagSequence
}

func (c *Config) readSecrets(s *section) {
	for _, x := range s.subs {
		kind := ""
		for _, k := range sharedKinds {
			if strings.HasPrefix(x.name, k.prefix) {
				kind = k.kind
			}
		}
		path := "secrets." + x.name
		if kind == "" {
			switch {
			case hasAnyPrefix(x.name, "private", "rsa", "ecdsa", "pkcs8", "pkcs12"):
				c.refuse(x.pos, path, "passphrases of keys are not supported, want the key stored decrypted, readable by root only")
			case strings.HasPrefix(x.name, "token"):
				c.refuse(x.pos, path, "keys on tokens are not supported: twins on other appliances could not use them")
			case strings.HasPrefix(x.name, "xauth"):
				c.refuse(x.pos, path, "XAuth belongs to IKEv1, want eap")
			default:
				c.refuse(x.pos, path, "unknown kind of secret, want a name that starts with ike, eap, ntlm or ppk")
			}
			continue
		}
		sh, given := shared{name: x.name, kind: kind, pos: x.pos}, false
		for _, k := range x.keys {
			switch {
			case k.key == "secret":
				given = true
				data, err := secretValue(k.value)
				if err != nil {
					c.refuse(k.pos, path+".secret", "%v", err)
				}
				sh.Data = data
			case strings.HasPrefix(k.key, "id"):
				sh.owners = append(sh.owners, k.value)
			default:
				c.refuse(k.pos, path+"."+k.key, "unknown setting, want secret or id*")
			}
		}
		for _, y := range x.subs {
			c.refuse(y.pos, path+"."+y.name, "unknown section")
		}
		if !given {
			c.refuse(x.pos, path, "no secret in it")
			continue
		}
		c.shared = append(c.shared, sh)
	}
}

// secretValue decodes 0x... (hexadecimal), 0s... (base64) and plain secrets. Its
// errors never quote the value.
func secretValue(v string) (sa.Key, error) {
	out := []byte(v)
	var err error
	switch {
	case strings.HasPrefix(v, "0x"):
		if out, err = hex.DecodeString(strings.ReplaceAll(v[2:], ":", "")); err != nil {
			return nil, errors.New("secret starts with 0x but is not hexadecimal")
		}
	case strings.HasPrefix(v, "0s"):
		if out, err = base64.StdEncoding.DecodeString(v[2:]); err != nil {
			return nil, errors.New("secret starts with 0s but is not base64")
		}
	}
	if len(out) == 0 {
		return nil, errors.New("secret is empty")
	}
	return out, nil
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
