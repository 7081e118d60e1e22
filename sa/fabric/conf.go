package fabric

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/shadowcast/shadowcast/sa/charon"
)

// plugins are what certificates of package pki and IKEv2 take; nothing that hands
// out addresses, routes packets or needs a service. openssl, skipped where it is not
// installed, reads the ECDSA keys of other CAs.
const plugins = "random nonce aes sha1 sha2 hmac kdf drbg curve25519 pem pkcs1 pkcs8 x509 constraints pubkey gmp openssl " +
	"kernel-netlink socket-default vici"

// conf renders strongswan.conf of the instance in dir. Peers are not in it: they
// come through vici, so that a changed fleet does not restart charon.
//
// A request is given up after about 10 seconds, with at most 2 between two tries:
// a peer that comes back is not kept waiting. Only lo counts as interface: charon
// would follow every veth of every slot.
func conf(dir string) (string, error) {
	if strings.ContainsAny(dir, "\n\r\x00") {
		return "", fmt.Errorf("render strongswan.conf: directory %q contains a line break or a NUL", dir)
	}
	q := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace
	return fmt.Sprintf(`# fabric; written by shadowcastd, edits are lost
charon-systemd {
  load = %s
  install_routes = no
  install_virtual_ip = no
  process_route = no
  interfaces_use = lo
  retransmit_timeout = 0.5
  retransmit_base = 1.5
  retransmit_limit = 2
  retransmit_tries = 6
  filelog {
    f {
      path = "%s"
      default = 1
      time_format = %%H:%%M:%%S
      time_add_ms = yes
      ike_name = yes
      append = yes
      flush_line = yes
    }
  }
  plugins {
    kernel-netlink {
      roam_events = no
      xfrm_acq_expires = 12
    }
    vici {
      socket = "unix://%s"
    }
  }
}
`, plugins, q(filepath.Join(dir, "charon.log")), q(charon.ViciSocket(dir))), nil
}
