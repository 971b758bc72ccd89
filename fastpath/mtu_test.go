package fastpath

import (
	"net/netip"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb/flow"
)

// setMTU gives the way to an address another MTU.
func (r *rig) setMTU(addr string, mtu uint16) {
	to := flow.FromNetip(netip.MustParseAddr(addr))
	r.pipe.hops.Lookup(&to).MTU = mtu
	r.pipe.Routes(r.pipe.hops)
}

// K-FWD-MTU, as recorded with Linux 6.1: a request that is too big is quoted
// with the TTL that it would have left with, a reply with that it came with,
// because routing looks at replies before their TTL.
func TestTooBigQuote(t *testing.T) {
	eth, eth6 := packettest.Eth(backMAC, serverMAC).IP4("10.0.2.11", client), packettest.Eth(backMAC, serverMAC).IP6("fd00:2::11", client6)
	for _, family := range []struct {
		name, service, server  string
		client, back           string // whose ways are narrow
		open, answer           packettest.Packet
		request, reply         packettest.Packet // of 40 bytes and more
		header                 int
		quotedRequest, ofReply uint8
	}{
		{
			"IPv4", "tcp 10.0.1.100:80 rr", "nat 10.0.2.11:8080 1", client, "10.0.2.11",
			fromClient().IP4(client, vip).TCP(1000, 80, synFlag), eth.TCP(8080, 1000, synFlag|ackFlag),
			fromClient().IP4(client, vip).DF().TCP(1000, 80, ackFlag), eth.DF().TCP(8080, 1000, ackFlag), 40, 63, 64,
		},
		{
			"IPv6", "tcp [fd00:1::100]:80 rr", "nat [fd00:2::11]:8080 1", client6, "fd00:2::11",
			fromClient().IP6(client6, vip6).TCP(1000, 80, synFlag), eth6.TCP(8080, 1000, synFlag|ackFlag),
			fromClient().IP6(client6, vip6).TCP(1000, 80, ackFlag), eth6.TCP(8080, 1000, ackFlag), 60, 63, 64,
		},
	} {
		r := newRig(t, options{}, service(family.service, family.server))
		r.steps(step{"SYN", in(family.open), "8080"}, step{"SYN+ACK", back(family.answer), ":80 > "})
		r.setMTU(family.client, 1400)
		r.setMTU(family.back, 1300)
		for _, way := range []struct {
			name string
			send func(packettest.Packet) arrival
			p    packettest.Packet
			mtu  int
			ttl  uint8
		}{
			{family.name + " request", in, family.request, 1300, family.quotedRequest},
			{family.name + " reply", back, family.reply, 1400, family.ofReply},
		} {
			r.steps(step{way.name + " that fits", way.send(way.p.Payload(make([]byte, way.mtu-family.header))), "IP"})
			got := r.fate(way.send(way.p.Payload(make([]byte, way.mtu-family.header+1))))
			k := &r.batch.Pkts[0]
			var quoted packet.Info
			packet.Parse(k.Chunk[k.Off:k.Off+k.Len], &quoted)
			if got != "too_big" || int(k.MTU) != way.mtu || quoted.TTL != way.ttl {
				t.Errorf("%s, a byte too long: %s with MTU %d, to be quoted with TTL %d, want too_big, %d, %d", way.name, got, k.MTU, quoted.TTL, way.mtu, way.ttl)
			}
		}
	}
}

// K-FWD-MTU: ICMP errors to a server may be fragmented whatever DF says; those
// to a client go the way of forwarding, which heeds it, and answers none.
func TestTooBigErrors(t *testing.T) {
	r := newRig(t, options{}, service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:8080 1"))
	r.steps(step{"SYN", syn(1000), "8080"})
	r.setMTU(client, 1400)
	r.setMTU("10.0.2.11", 1300)
	answer := packettest.Eth(clientMAC, frontMAC).IP4(vip, client).TCP(80, 1000, ackFlag).Payload(make([]byte, 1440))
	request := packettest.Eth(serverMAC, backMAC).IP4(client, "10.0.2.11").TCP(1000, 8080, ackFlag).Payload(make([]byte, 1440))
	r.steps(
		step{"to the server", in(fromClient().IP4("10.0.1.254", vip).DF().ICMP4(3, 1, 0).Quote(answer, 1300-28)), "10.0.2.11:8080 > 10.0.1.10:1000"},
		step{"too big", in(fromClient().IP4("10.0.1.254", vip).DF().ICMP4(3, 1, 0).Quote(answer, 1300-27)), "oversize"},
		step{"to the client", back(fromServer().IP4("10.0.2.254", client).DF().ICMP4(3, 1, 0).Quote(request, 1400-28)), "10.0.1.10:1000 > 10.0.1.100:80"},
		step{"too big", back(fromServer().IP4("10.0.2.254", client).DF().ICMP4(3, 1, 0).Quote(request, 1400-27)), "too_big"},
		step{"too big without DF", back(fromServer().IP4("10.0.2.254", client).ICMP4(3, 1, 0).Quote(request, 1400-27)), "oversize"},
	)
}
