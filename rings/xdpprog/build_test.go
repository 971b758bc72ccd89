package xdpprog

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The builders put a payload behind a header. An edit lies about a header.

type edit func(header []byte)

func set(at int, b ...byte) edit { return func(h []byte) { copy(h[at:], b) } }

func build(header, payload []byte, edits []edit) []byte {
	for _, e := range edits {
		e(header)
	}
	return append(header, payload...)
}

func eth(ethertype uint16, payload []byte, edits ...edit) []byte {
	h := binary.BigEndian.AppendUint16([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}, ethertype)
	return build(h, payload, edits)
}

func eth4(payload []byte) []byte { return eth(unix.ETH_P_IP, payload) }
func eth6(payload []byte) []byte { return eth(unix.ETH_P_IPV6, payload) }

func tag(id, ethertype uint16, payload []byte) []byte {
	return build(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, id), ethertype), payload, nil)
}

func ip4(proto byte, src, dst string, payload []byte, edits ...edit) []byte {
	return ip4options(nil, proto, src, dst, payload, edits...)
}

func ip4options(options []byte, proto byte, src, dst string, payload []byte, edits ...edit) []byte {
	n := 20 + len(options)
	h := []byte{0x40 | byte(n/4), 0, 0, 0, 0, 1, 0, 0, 64, proto, 0, 0}
	binary.BigEndian.PutUint16(h[2:], uint16(n+len(payload)))
	h = append(h, netip.MustParseAddr(src).AsSlice()...)
	h = append(h, netip.MustParseAddr(dst).AsSlice()...)
	return build(append(h, options...), payload, edits)
}

func ip6(next byte, src, dst string, payload []byte, edits ...edit) []byte {
	h := []byte{0x60, 0, 0, 0, 0, 0, next, 64}
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	h = append(h, netip.MustParseAddr(src).AsSlice()...)
	h = append(h, netip.MustParseAddr(dst).AsSlice()...)
	return build(h, payload, edits)
}

// ext is an IPv6 extension header of 8 bytes; a fragment header has nothing
// in the byte that is the others' length.
func ext(next byte, payload []byte, edits ...edit) []byte {
	return build([]byte{next, 0, 0, 0, 0, 0, 0, 0}, payload, edits)
}

// ports is the beginning of a TCP, UDP or SCTP header, filled up to 20 bytes.
func ports(from, to uint16) []byte {
	return append(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to), make([]byte, 16)...)
}

func icmp(kind byte, quoted []byte) []byte {
	return append([]byte{kind, 3, 0, 0, 0, 0, 0, 0}, quoted...)
}

func chain(n int, last byte, payload []byte) []byte {
	for range n {
		payload = ext(last, payload)
		last = unix.IPPROTO_DSTOPTS
	}
	return payload
}
