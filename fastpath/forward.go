package fastpath

import (
	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
)

// The smallest MTUs, in bytes, that a tunnel to a real server may have, by the
// family of its outer header (K-FWD-MTU).
const (
	minMTU4 = 68
	minMTU6 = 1280
)

// rewrite gives the packets of b that are to be forwarded their new headers and
// way out.
func (p *Pipeline) rewrite(b *Batch) {
	for _, at := range b.which[:b.look] {
		k := &b.Pkts[at]
		if k.Verdict != Forward {
			continue
		}
		if c := p.connOf(b, int(at)); k.Reply {
			k.Verdict = p.toClient(k, c)
		} else {
			k.Verdict = p.toServer(k, nil, c)
		}
	}
}

// toServer sends a request on to its real server by the connection's method.
// quoted is what an ICMP error is about, nil of other packets.
func (p *Pipeline) toServer(k *Packet, quoted *packet.Info, c *conn.Conn) Verdict {
	how := method(c)
	if k.real == lb.NoReal {
		return p.toDestination(k, c)
	}
	real := &p.snap.Reals[k.real]
	p.along(k, p.wayTo(k.real, how), &real.Addr, c)
	if v, ok := p.passable(k, how, real.V6); !ok {
		if v == Pass && how == lb.NAT {
			return toSelf(k, quoted, &real.Addr, c.RealPort)
		}
		return v
	}
	if k.Split || k.Hop.State == nexthop.Unresolved {
		if k.Held = (Held{Flow: k.Flow, Direct: how == lb.DR}); !k.Direct {
			k.Virtual, k.VirtualPort = c.Virtual, c.VirtualPort // NAT and a tunnel hide them
		}
	}
	if k.Info.TCPFlags&packet.SYN != 0 {
		p.clamp(k, c)
	}
	switch how {
	case lb.NAT:
		if c.Flags&conn.Followed != 0 && quoted == nil && !p.helper.Look(&k.Frame, &k.Info, k.conn, false, p.snap, p.now) {
			return DropHelper
		}
		translate(k, quoted, &real.Addr, c.RealPort)
	case lb.TUN:
		p.tunnelID++
		encap := &p.realHops[k.real].encap
		k.Inner = encap.Overhead
		if !encap.Wrap(&k.Frame, &k.Info, &k.Hop.Source, p.tunnelID) {
			return DropHeadroom
		}
	default:
		rewrite.Forward(&k.Frame, &k.Info)
	}
	return p.out(k, &real.Addr)
}

// clamp bounds the segments that a SYN or SYN+ACK offers, if the service of its
// connection says so.
func (p *Pipeline) clamp(k *Packet, c *conn.Conn) {
	if c.Real == lb.NoReal || !p.snap.Reals[c.Real].Available {
		return
	}
	most := p.snap.Services[p.snap.Reals[c.Real].Service].MSS
	if most == lb.AutoMSS {
		headers := packet.IPv4Len + packet.TCPLen
		if k.Info.Family == 6 {
			headers = packet.IPv6Len + packet.TCPLen
		}
		mtu := min(int(k.Hop.MTU), p.hops.Interfaces[k.Iface].MTU)
		if method(c) == lb.TUN {
			mtu = p.inTunnel(mtu, c.Real)
		}
		most = lb.MSS(max(mtu-headers, int(lb.MinMSS)))
	}
	if most != 0 {
		rewrite.ClampMSS(&k.Frame, &k.Info, uint16(most))
	}
}

// translate gives a request its NAT server as destination.
func translate(k *Packet, quoted *packet.Info, real *flow.Addr, port uint16) {
	if quoted == nil {
		rewrite.NATIn(&k.Frame, &k.Info, real, port)
	} else {
		rewrite.ICMPIn(&k.Frame, &k.Info, quoted, real, port)
	}
}

// toSelf hands a request to the host's stack, translated: its server is the
// director itself (K-FWD-LOCAL). Nothing is translated to a loopback address,
// which answers to nobody outside (K-PATH-9).
func toSelf(k *Packet, quoted *packet.Info, self *flow.Addr, port uint16) Verdict {
	if self.Netip().IsLoopback() {
		return DropLocalServer
	}
	rewrite.Keep(&k.Frame, &k.Info)
	translate(k, quoted, self, port)
	return Pass
}

// Answered counts an ICMP error that the slow path made, an IP datagram: to the
// kernel it is related to the connection of what it quotes, the client's newest
// that is not NAT, and leaves like a reply of that one's server (K-STAT-1).
func (p *Pipeline) Answered(message []byte) {
	var in, quoted packet.Info
	packet.ParseQuoted(message, 0, len(message), &in)
	if r := packet.ParseQuoted(message, int(in.L4)+packet.ICMPLen, len(message), &quoted); r != packet.Parsed && r != packet.IPsec {
		return
	}
	var key flow.Key
	keyOf(&quoted, true, &key)
	id := p.conns.Lookup(&key)
	for id != 0 && isNAT(p.conns.At(id)) {
		id = p.conns.Older(id)
	}
	if id != 0 {
		p.tally(p.conns.At(id).Real, true, uint64(len(message)))
	}
}

// toDestination sends a packet to where its client addressed it: it belongs to
// a connection without a server (K-FWD-BYPASS).
func (p *Pipeline) toDestination(k *Packet, c *conn.Conn) Verdict {
	if method(c) != lb.Bypass {
		return DropServerGone
	}
	p.along(k, p.hops.Lookup(&k.Info.Dst), &k.Info.Dst, c)
	if v, ok := p.passable(k, lb.Bypass, k.Info.Family == 6); !ok {
		if v == Pass {
			return DropLocalServer // it is the director's address by now (K-PATH-9)
		}
		return v
	}
	rewrite.Forward(&k.Frame, &k.Info)
	return p.out(k, &k.Info.Dst)
}

// toClient sends a reply on: translated back to the virtual service if it
// belongs to a NAT connection, else as it is (K-PATH-4).
func (p *Pipeline) toClient(k *Packet, c *conn.Conn) Verdict {
	if k.Info.TCPFlags&packet.SYN != 0 {
		p.clamp(k, c)
	}
	if isNAT(c) {
		rewrite.NATOut(&k.Frame, &k.Info, &c.Virtual, c.VirtualPort)
	} else {
		rewrite.Forward(&k.Frame, &k.Info)
	}
	return p.out(k, &c.Client)
}

// onward sends what the host itself sent, and no connection has, on its way.
func (p *Pipeline) onward(k *Packet) Verdict {
	in := &k.Info
	k.Reply, k.Held = true, Held{}
	p.along(k, p.hops.Lookup(&in.Dst), &in.Dst, &conn.Conn{Client: in.Dst, Virtual: in.Src, ClientPort: in.DstPort, VirtualPort: in.SrcPort, Proto: in.Proto})
	if k.Split, k.MTU = k.Largest != 0, k.Hop.MTU; k.Hop.State == nexthop.Reachable || k.Hop.State == nexthop.Unresolved {
		if v := p.out(k, &in.Dst); v != Pass {
			return v
		}
	}
	return DropLocalServer
}

// self is the way to a loopback address.
var self = nexthop.Hop{State: nexthop.Local}

// wayTo returns the next hop to a real server by a method, which is not the
// server's of today for connections of before an edit.
func (p *Pipeline) wayTo(real uint32, how lb.Forward) *nexthop.Hop {
	h, r := &p.realHops[real], &p.snap.Reals[real]
	if how != r.Forward {
		return p.way(&r.Addr, how)
	}
	if h.version != p.hops.Version || h.hop == nil {
		h.version, h.hop = p.hops.Version, p.way(&r.Addr, how)
	}
	return h.hop
}

// way looks up the next hop to a real server: for a DR server the server itself
// where it is a neighbour (K-FWD-DR).
func (p *Pipeline) way(addr *flow.Addr, how lb.Forward) *nexthop.Hop {
	switch {
	case addr.Netip().IsLoopback():
		return &self
	case how == lb.DR:
		return p.hops.OnLink(addr)
	}
	return p.hops.Lookup(addr)
}

// along makes h, looked up for dst, k's next hop; of a route with several the one
// that all packets of c take.
func (p *Pipeline) along(k *Packet, h *nexthop.Hop, dst *flow.Addr, c *conn.Conn) {
	if k.Hop = h; h.State == nexthop.Several {
		key := flow.Key{Client: c.Client, Local: c.Virtual, ClientPort: c.ClientPort, LocalPort: c.VirtualPort, Proto: c.Proto}
		k.Flow = nexthop.FlowHash(&key)
		k.Hop = p.hops.Choose(h, dst, k.Flow)
	}
}

// passable says whether k may go its way: route, TTL and MTU, in the kernel's
// order (K-PATH-8, K-PATH-9, K-FWD-MTU). v is its verdict if not; Pass if the
// way leads to the director itself, where neither TTL nor MTU count.
func (p *Pipeline) passable(k *Packet, how lb.Forward, outer6 bool) (v Verdict, ok bool) {
	switch k.Hop.State {
	case nexthop.NoRoute, nexthop.Blackhole:
		return DropNoRoute, false
	case nexthop.Local:
		return Pass, false // the director itself is the server (K-FWD-LOCAL)
	}
	if k.Info.TTL <= 1 {
		return DropTTL, false
	}
	mtu, overhead, floor := int(k.Hop.MTU), 0, minMTU4
	if outer6 {
		floor = minMTU6
	}
	k.MTU = k.Hop.MTU
	if how == lb.TUN {
		if overhead = int(p.realHops[k.real].encap.Overhead); mtu-overhead < floor {
			return DropSmallMTU, false
		}
		mtu = p.inTunnel(mtu, k.real)
		if k.MTU = uint16(mtu + overhead); k.Info.Family == 6 {
			mtu = max(mtu, floor) // below it the tunnel's packets are fragmented: IPv6 knows nothing narrower (RFC 2473 section 7.1)
		}
	}
	return p.fits(k, mtu, overhead, how == lb.TUN && p.snap.Sysctl.PMTUDisc == 0)
}

// inTunnel returns what an MTU of the way to a real server, and what was learnt of
// it, leave a packet in the tunnel.
func (p *Pipeline) inTunnel(mtu int, real uint32) int {
	if learnt := p.snap.Reals[real].Path.At(p.now); learnt != 0 {
		mtu = min(mtu, int(learnt))
	}
	return mtu - int(p.realHops[real].encap.Overhead)
}

// fits checks k's datagram against the MTU of its way; of one of IPv6 that came in
// fragments the longest has to fit. overhead is what a tunnel puts in front; free: its
// packets may be fragmented.
func (p *Pipeline) fits(k *Packet, mtu, overhead int, free bool) (v Verdict, ok bool) {
	in := &k.Info
	longest := in.Len()
	k.Split = k.Largest != 0 || longest+overhead > int(k.MTU)
	if in.Family == 6 && k.Largest != 0 {
		longest = int(k.Largest)
	}
	if longest <= mtu || in.Family == 4 && (in.Flags&packet.FlagDF == 0 || free || !k.Reply && quotes(k)) {
		return Forward, true
	}
	k.MTU = uint16(mtu)
	if !k.Reply {
		rewrite.Forward(&k.Frame, in) // the kernel quotes a request as it would have left, a reply as it came
	}
	return DropTooBig, false
}

// out writes the link header of a packet to dst and chooses the port.
func (p *Pipeline) out(k *Packet, dst *flow.Addr) Verdict {
	hop := k.Hop
	iface := &p.hops.Interfaces[hop.Iface]
	if iface.Port < 0 {
		return Pass // by an interface of the host's; the host's stack sends it
	}
	if !iface.Up {
		return DropLinkDown
	}
	if !rewrite.Link(&k.Frame, &k.Info, hop) {
		return DropHeadroom
	}
	if k.Out = uint16(iface.Port); !k.Split && hop.State != nexthop.Unresolved {
		return Forward
	}
	if k.Reply {
		k.Held = Held{Flow: k.Flow}
	}
	if k.Target = *dst; k.Split {
		return Split
	}
	return Hold
}
