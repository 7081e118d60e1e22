package charon

import "encoding/binary"

// littleEndian is the byte order of this machine; /proc prints addresses in it.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1
