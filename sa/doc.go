// Package sa holds the arithmetic of security associations that every other
// package agrees on: which slot an SPI belongs to, which block of sequence
// numbers a ticket may send in, and a type for key material that never prints
// itself.
//
// It owns no state, opens no socket and never touches the kernel; the
// sub-packages do (sa/xfrm, sa/charon, sa/slot, sa/steer). Data flows one way:
// they call sa, sa calls nothing.
package sa
