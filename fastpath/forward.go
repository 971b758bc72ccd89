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

// rewrite gives the packets of b from b.done to before to, places among those
// that were looked up, their new headers and way out.
func (p *Pipeline) rewrite(b *Batch, to int) {
	for ; b.done < to; b.done++ {
		at := b.which[b.done]
		k := &b.Pkts[at]
		if k.Verdict != Forward {
			continue
		}
		c := &b.once[at]
		if !k.once {
			c = p.conns.At(k.conn)
		}
		if k.Reply {
			k.Verdict = p.toClient(k, c)
		} else {
			k.Verdict = p.toServer(k, c)
		}
	}
}

// toServer sends a request on to its real server by the connection's method.
func (p *Pipeline) toServer(k *Packet, c *conn.Conn) Verdict {
	real := &p.snap.Reals[k.real]
	k.Hop = p.wayTo(k.real)
	if v, ok := p.passable(k, real.Forward, real.V6); !ok {
		p.countAnswer(k, c, v)
		return v
	}
	if k.Hop.State == nexthop.Unresolved {
		if k.Direct = real.Forward == lb.DR; !k.Direct {
			k.Virtual, k.VirtualPort = c.Virtual, c.VirtualPort // NAT and a tunnel hide them
		}
	}
	switch real.Forward {
	case lb.NAT:
		rewrite.NATIn(&k.Frame, &k.Info, &real.Addr, c.RealPort)
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

// countAnswer counts the ICMP error that answers a request of a connection that
// is not NAT: to the kernel the error is related to the connection, and leaves
// like a reply of its server. It quotes as much as fits 576 bytes, of IPv6 1280.
func (p *Pipeline) countAnswer(k *Packet, c *conn.Conn, v Verdict) {
	if !v.Answered() || isNAT(c) || k.real == lb.NoReal || !p.snap.Reals[k.real].Available {
		return
	}
	header, longest := packet.IPv4Len+packet.ICMPLen, 576
	if k.Info.Family == 6 {
		header, longest = packet.IPv6Len+packet.ICMPLen, minMTU6
	}
	bytes := uint64(min(header+int(k.Info.End-k.Info.L3), longest))
	row, svc := p.rows.Real(k.real), p.rows.Service(p.snap.Reals[k.real].Service)
	row.OutPackets++
	row.OutBytes += bytes
	svc.OutPackets++
	svc.OutBytes += bytes
}

// toClient sends a reply on: translated back to the virtual service if it
// belongs to a NAT connection, else as it is (K-PATH-4).
func (p *Pipeline) toClient(k *Packet, c *conn.Conn) Verdict {
	if isNAT(c) {
		rewrite.NATOut(&k.Frame, &k.Info, &c.Virtual, c.VirtualPort)
	} else {
		rewrite.Forward(&k.Frame, &k.Info)
	}
	return p.out(k, &c.Client)
}

// wayTo returns the next hop to a real server: for a DR server the server
// itself where it is a neighbour (K-FWD-DR).
func (p *Pipeline) wayTo(real uint32) *nexthop.Hop {
	h := &p.realHops[real]
	if h.version != p.hops.Version || h.hop == nil {
		r := &p.snap.Reals[real]
		h.version = p.hops.Version
		if r.Forward == lb.DR {
			h.hop = p.hops.OnLink(&r.Addr)
		} else {
			h.hop = p.hops.Lookup(&r.Addr)
		}
	}
	return h.hop
}

// passable says whether k may go its way: route, TTL and MTU, in the kernel's
// order (K-PATH-8, K-PATH-9, K-FWD-MTU). v is its verdict if not.
func (p *Pipeline) passable(k *Packet, method lb.Forward, outer6 bool) (v Verdict, ok bool) {
	switch k.Hop.State {
	case nexthop.NoRoute, nexthop.Blackhole:
		return DropNoRoute, false
	case nexthop.Local:
		if method == lb.NAT {
			return DropLocalServer, false
		}
		return Pass, false // the director itself is the server (K-FWD-LOCAL)
	}
	if k.Info.TTL <= 1 {
		return DropTTL, false
	}
	mtu, floor := int(k.Hop.MTU), minMTU4
	if outer6 {
		floor = minMTU6
	}
	if method == lb.TUN {
		if mtu -= int(p.realHops[k.real].encap.Overhead); mtu < floor {
			return DropSmallMTU, false
		}
	}
	return p.fits(k, mtu, method == lb.TUN && p.snap.Sysctl.PMTUDisc == 0)
}

// fits checks k's datagram against the MTU of its way. free: a tunnel whose
// outer packet may be fragmented.
func (p *Pipeline) fits(k *Packet, mtu int, free bool) (v Verdict, ok bool) {
	in := &k.Info
	if int(in.End-in.L3) <= mtu {
		return Forward, true
	}
	if in.Family == 4 && (in.Flags&packet.FlagDF == 0 || free) {
		return DropNoFragmentation, false
	}
	k.MTU = uint16(mtu)
	rewrite.Forward(&k.Frame, in) // the kernel quotes the packet as it would have left
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
	k.Out = uint16(iface.Port)
	if hop.State == nexthop.Unresolved {
		k.Target = *dst
		return Hold
	}
	return Forward
}
