// Package charon runs and talks to strongSwan's IKE daemon, one instance per
// slot, unmodified.
//
// It owns: the codec of the `ha` plugin's datagrams (Message), the daemon's end
// of that link (Link), the rendering of strongswan.conf (Conf), the life of the
// process (Instance) and a small vici client (Vici). Sub-package swanctl reads
// and checks the operator's swanctl.conf and loads it through Vici.
//
// It never decides: which datagrams reach which twin, and when, is the business
// of the caller (DESIGN rules 1-3, 7, 12); it never touches kernel SAs (sa/xfrm)
// nor links and addresses (sa/slot). Callers are the appliance shell and the lab.
//
// Data flow: charon -> Link.Run -> caller -> Link.Send -> charon of the twin;
// vici commands and events go beside it over the instance's own socket.
//
// # HA datagrams
//
// UDP from 127.0.0.1:4510 (charon) to 127.0.0.2:4510 (Link) and back, inside the
// slot's network namespace. Integers are big-endian.
//
//	offset  size  field
//	0       1     protocol version: 3 (strongSwan 5.9), 4 (6.0.1, as heard from it),
//	              5 (later ones, from their source only; attributes as in version 4)
//	1       1     message type (MsgType)
//	2       ...   attributes up to the end of the datagram:
//	              1 byte attribute number of that protocol version, then the value
//
// Values (the same in all versions):
//
//	IKE_ID, REKEY_ID            0 IKE version u8 | 1 initiator SPI [8] | 9 responder SPI [8] | 17 initiator flag u8
//	LOCAL_ID, REMOTE_ID, EAP_ID 0 type u8 | 1 length u8 | 2 data
//	*_ADDR, *_VIP               0 port u16 | 2 family u8 (2 or 10) | 3 address [4] or [16]
//	CONFIG_NAME                 octets up to and including a NUL
//	LOCAL_TS, REMOTE_TS         0 type u8 (7 or 8) | 1 protocol u8 | 2 from port u16 | 4 to port u16 | 6 dynamic u8 | 7 from address | to address
//	nonces, secrets, *_DH, IV,
//	ADD_KES                     0 length u16 | 2 data
//	INITIATOR, MODE, IPCOMP,
//	IKE_VERSION                 u8
//	PRF, OLD_PRF, ENCR, ENCR_LEN,
//	INTEG, DH, *_CPI, SEGMENT,
//	ESN, AUTH_METHOD            u16
//	CONDITIONS, EXTENSIONS, MID u32
//	IN_SPI, OUT_SPI             u32, byte-swapped: SPI cf6bd1d5 travels as d5 d1 6b cf
//
// Attribute numbers are listed in attr.go. ADD_KES of versions 4 and 5 is read as a
// length-prefixed octet string; that one encoding has not been seen on a wire.
package charon
