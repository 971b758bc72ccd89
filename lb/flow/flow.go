// Package flow names a packet's connection: addresses, the key under which a
// connection table files it, and which worker owns it.
//
// Everything here is a value or immutable after it was made, so it belongs to
// whoever holds it and may be read by any goroutine.
package flow

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Addr is an address in 16 bytes, IPv4 mapped as in RFC 4291 2.5.5.2
// (::ffff:a.b.c.d), in network order.
type Addr [16]byte

// From4 returns the mapped form of an IPv4 address.
func From4(b [4]byte) Addr {
	return Addr{10: 0xff, 11: 0xff, 12: b[0], 13: b[1], 14: b[2], 15: b[3]}
}

// FromNetip returns a in 16 bytes, without its zone; the zero netip.Addr gives
// the zero Addr.
func FromNetip(a netip.Addr) Addr { return a.As16() }

// Netip returns a as a netip.Addr, a mapped IPv4 address as plain IPv4.
func (a Addr) Netip() netip.Addr { return netip.AddrFrom16(a).Unmap() }

// Is4 reports whether a is a mapped IPv4 address.
func (a *Addr) Is4() bool {
	return binary.BigEndian.Uint64(a[:8]) == 0 && binary.BigEndian.Uint32(a[8:12]) == 0xffff
}

// As4 returns the last four bytes of a: the IPv4 address if Is4.
func (a *Addr) As4() [4]byte { return [4]byte(a[12:]) }

// IsZero reports whether a is all zero: no address, or IPv6's unspecified one.
func (a *Addr) IsZero() bool { return *a == Addr{} }

// String returns a in its usual notation, "10.0.0.1" or "2001:db8::1".
func (a Addr) String() string { return a.Netip().String() }

// Side says which of a connection's two faces a key shows.
type Side uint8

// The client's side is what travels between client and director; the server's
// side what travels between director and a NAT server.
const (
	ClientSide Side = iota
	ServerSide
)

// Key is one side of a connection as its packets show it, in 40 bytes,
// comparable. Client is always the client's endpoint; Local is VIP:vport
// (ClientSide) or, of a NAT connection, RIP:rport (ServerSide). Ports are in
// host order (K-CONN-3, K-CONN-4).
type Key struct {
	Client, Local         Addr
	ClientPort, LocalPort uint16
	Proto                 uint8
	Side                  Side
	_                     [2]byte
}

// Seed is the secret of a keyed hash: without it nobody can choose keys that
// collide.
type Seed [2]uint64

// Odd constants with about as many ones as zeros: with them a seed of zero
// mixes as well as any, though it is no secret.
const (
	oddA = 0x9e3779b97f4a7c15
	oddB = 0xd1b54a32d192ed03
	oddC = 0x8cb92ba72f3d8dd7
	oddD = 0xaef17502108ef2d9
)

// Key4 is a Key between IPv4 addresses in 16 bytes, put together from a
// header's words as they lie in memory.
type Key4 struct {
	Addrs uint64 // Client, in the high half Local: each the little-endian word of its four bytes
	Rest  uint64 // from the lowest bit on: 16 of ClientPort, 16 of LocalPort, 8 of Proto, 8 of Side
}

// Key returns k in full.
func (k Key4) Key() (key Key) {
	const mapped = 0xffff0000
	binary.LittleEndian.PutUint64(key.Client[8:], k.Addrs<<32|mapped)
	binary.LittleEndian.PutUint64(key.Local[8:], k.Addrs>>32<<32|mapped)
	key.ClientPort, key.LocalPort, key.Proto, key.Side = uint16(k.Rest), uint16(k.Rest>>16), uint8(k.Rest>>32), Side(k.Rest>>40)
	return key
}

// Hash returns 64 bits that depend on every bit of k and s: two words, folded
// by 64×64→128 bit multiplications with the seed in both factors.
func (k Key4) Hash(s *Seed) uint64 {
	a, b := s[0]^oddA, s[1]^oddB
	return fold(fold(k.Addrs^a, k.Rest^b)^oddC, a^oddD)
}

// Hash returns 64 bits that depend on every bit of k and s, between IPv4
// addresses those of its Key4. Each address of IPv6, and then the two with the
// rest, is folded as there; the addresses do not wait for each other.
func (k *Key) Hash(s *Seed) uint64 {
	rest := uint64(k.ClientPort) | uint64(k.LocalPort)<<16 | uint64(k.Proto)<<32 | uint64(k.Side)<<40
	if k.Client.Is4() && k.Local.Is4() {
		return Key4{word(&k.Client, 8)>>32 | word(&k.Local, 8)>>32<<32, rest}.Hash(s)
	}
	a, b := s[0]^oddA, s[1]^oddB
	client := fold(word(&k.Client, 0)^a, word(&k.Client, 8)^b)
	local := fold(word(&k.Local, 0)^b^oddC, word(&k.Local, 8)^a^oddD)
	return fold(fold(client^rest, a^oddC)^local, b^oddD)
}

// word returns the eight bytes of a from at on.
func word(a *Addr, at int) uint64 { return binary.LittleEndian.Uint64(a[at:]) }

// fold returns the two halves of a×b, one laid over the other.
func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
