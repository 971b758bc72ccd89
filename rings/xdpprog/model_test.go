package xdpprog

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// model is the plain twin of steer.bpf.c: what becomes of a frame on a queue
// with a socket on an interface that no rule names, straight from a Want.
func model(w *Want, frame []byte) Reason {
	if frame[0]&1 == 1 {
		return Group
	}
	if [6]byte(frame[6:]) == returned {
		return Returned
	}
	ethertype, b := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	for range 2 {
		if ethertype == unix.ETH_P_8021Q || ethertype == unix.ETH_P_8021AD {
			if len(b) < 4 {
				return Malformed
			}
			ethertype, b = binary.BigEndian.Uint16(b[2:]), b[4:]
		}
	}
	var p modelPacket
	var ok bool
	switch ethertype {
	case unix.ETH_P_IP:
		p, ok = modelIP4(b, true)
	case unix.ETH_P_IPV6:
		if p, ok = modelIP6(b, true); ok {
			ok = p.skipExtensions()
		}
	default:
		return Other
	}
	if !ok {
		return Malformed
	}
	return p.decide(w)
}

// modelPacket is a packet of which body is what follows the headers read.
type modelPacket struct {
	src, dst Addr
	proto    int // -1: not known
	portless bool
	v6       bool
	body     []byte
}

func modelIP4(b []byte, whole bool) (p modelPacket, ok bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return p, false
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if whole {
		if total > len(b) {
			return p, false
		}
		b = b[:total]
	}
	if header < 20 || header > len(b) {
		return p, false
	}
	p.src, p.dst = netip.AddrFrom4([4]byte(b[12:])).As16(), netip.AddrFrom4([4]byte(b[16:])).As16()
	p.proto, p.portless, p.body = int(b[9]), binary.BigEndian.Uint16(b[6:])&0x3fff != 0, b[header:]
	return p, true
}

func modelIP6(b []byte, whole bool) (p modelPacket, ok bool) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return p, false
	}
	p = modelPacket{src: Addr(b[8:]), dst: Addr(b[24:]), proto: int(b[6]), v6: true, body: b[40:]}
	if netip.AddrFrom16(p.src).Is4In6() || netip.AddrFrom16(p.dst).Is4In6() {
		return p, false
	}
	if n := int(binary.BigEndian.Uint16(b[4:])); whole {
		if n > len(p.body) {
			return p, false
		}
		p.body = p.body[:n]
	}
	return p, true
}

func modelExtension(proto int) bool {
	return proto == unix.IPPROTO_HOPOPTS || proto == unix.IPPROTO_ROUTING || proto == unix.IPPROTO_DSTOPTS
}

func (p *modelPacket) skipExtensions() bool {
	for n := 0; modelExtension(p.proto) || p.proto == unix.IPPROTO_FRAGMENT; n++ {
		if n == 8 || len(p.body) < 8 {
			return false
		}
		next := int(p.body[0])
		if p.proto == unix.IPPROTO_FRAGMENT {
			p.proto, p.portless = next, true
			if modelExtension(next) {
				p.proto = -1
			}
			return true
		}
		length := int(p.body[1])*8 + 8
		if length > len(p.body) {
			return false
		}
		p.proto, p.body = next, p.body[length:]
	}
	return true
}

func (p *modelPacket) served() bool { return p.proto == -1 || served(uint8(p.proto)) }

func (p *modelPacket) decide(w *Want) Reason {
	toVIP, fromNAT := w.isVIP(p.dst), w.isNAT(p.src)
	switch {
	case p.proto == unix.IPPROTO_AH || p.proto == unix.IPPROTO_ESP:
		for _, a := range w.IPsec {
			if a == p.dst && toVIP || a == p.src && fromNAT {
				return IPsec
			}
		}
		return Other
	case p.proto == unix.IPPROTO_ICMP && !p.v6 || p.proto == unix.IPPROTO_ICMPV6 && p.v6:
		return p.decideICMP(w, toVIP, fromNAT)
	case !p.served():
		return Other
	case p.portless:
		if toVIP || fromNAT || w.marks(p.src, p.dst, p.proto, -1) {
			return Fragment
		}
		return Other
	case len(p.body) < 4:
		return Malformed
	}
	from, to := int(binary.BigEndian.Uint16(p.body)), int(binary.BigEndian.Uint16(p.body[2:]))
	for _, s := range w.Services {
		if s.Addr == p.dst && int(s.Proto) == p.proto && (int(s.Port) == to || s.Port == 0) {
			return ToService
		}
	}
	for _, r := range w.Reals {
		if r.Addr == p.src && int(r.Proto) == p.proto && (int(r.Port) == from || r.Port == 0) {
			return p.unlessLearnt(NATReply, from, to)
		}
	}
	for _, s := range w.Services {
		if s.Addr == p.src && int(s.Proto) == p.proto && (int(s.Port) == from || s.Port == 0) {
			return p.unlessLearnt(Direct, from, to)
		}
	}
	if w.marks(p.src, p.dst, p.proto, to) {
		return Marked
	}
	return Other
}

// unlessLearnt is r, but for the flows that load has the program learn.
func (p *modelPacket) unlessLearnt(r Reason, from, to int) Reason {
	if slices.Contains(hosts, Flow{uint8(p.proto), p.src, p.dst, uint16(from), uint16(to)}) {
		return Learnt
	}
	return r
}

func (p *modelPacket) decideICMP(w *Want, toVIP, fromNAT bool) Reason {
	answered := slices.Contains(w.Echo, p.dst)
	if p.portless && (toVIP || fromNAT) {
		return Fragment
	}
	if p.portless {
		return Other
	}
	if len(p.body) < 8 {
		return Malformed
	}
	kind := p.body[0]
	if answered && (kind == 8 && !p.v6 || kind == 128 && p.v6) {
		return Echo
	}
	if p.v6 && kind >= 128 || !p.v6 && kind != 3 && kind != 4 && kind != 11 {
		return Other
	}
	if toVIP {
		return ICMPError
	}
	read := modelIP4
	if p.v6 {
		read = modelIP6
	}
	q, ok := read(p.body[8:], false)
	if !ok {
		return Other
	}
	if p.v6 && (modelExtension(q.proto) || q.proto == unix.IPPROTO_FRAGMENT) {
		q.proto, q.portless = -1, true
	}
	if w.isVIP(q.src) {
		return ICMPError
	}
	port, dport := -1, -1
	if q.served() && !q.portless {
		if len(q.body) < 4 {
			return Other
		}
		port, dport = int(binary.BigEndian.Uint16(q.body)), int(binary.BigEndian.Uint16(q.body[2:]))
	}
	if w.sent(&q, dport) {
		return ICMPError
	}
	if q.served() && w.marks(q.dst, q.src, q.proto, port) {
		return ICMPError
	}
	return Other
}

func (w *Want) isVIP(a Addr) bool {
	for _, s := range w.Services {
		if s.Addr == a {
			return true
		}
	}
	return false
}

func (w *Want) isNAT(a Addr) bool {
	return slices.ContainsFunc(w.Reals, func(r RealKey) bool { return r.Addr == a })
}

// sent is whether a quoted packet went to a real server, dport -1 if that is not
// known.
func (w *Want) sent(q *modelPacket, dport int) bool {
	for _, t := range w.Tunnels {
		switch {
		case t.Addr != q.dst:
		case q.proto == unix.IPPROTO_IPIP || q.proto == unix.IPPROTO_IPV6 || q.proto == unix.IPPROTO_GRE,
			q.served() && dport == -1, q.proto == unix.IPPROTO_UDP && t.Port != 0 && int(t.Port) == dport:
			return true
		}
	}
	for _, r := range w.Reals {
		switch {
		case r.Addr != q.dst:
		case (q.proto == unix.IPPROTO_AH || q.proto == unix.IPPROTO_ESP) && slices.Contains(w.IPsec, r.Addr),
			q.served() && dport == -1, q.proto == int(r.Proto) && (int(r.Port) == dport || r.Port == 0):
			return true
		}
	}
	return false
}

// marks is whether a rule matches; what is -1 is not known and matches.
func (w *Want) marks(src, dst Addr, proto, port int) bool {
	within := func(p netip.Prefix, a Addr) bool { return !p.IsValid() || p.Contains(netip.AddrFrom16(a).Unmap()) }
	for _, r := range w.Marks {
		if r.Ifindex == 0 && (r.Proto == 0 || proto == -1 || int(r.Proto) == proto) && within(r.Source, src) && within(r.Destination, dst) &&
			(port == -1 || r.PortLow == 0 && r.PortHigh == 0 || port >= int(r.PortLow) && port <= int(r.PortHigh)) {
			return true
		}
	}
	return false
}
