package fastpath

import (
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb"
)

// TestGather: fragments go to the slow path, whatever part of a datagram they are; but what
// IPVS never sees, or routing ends before, does not (K-PATH-7).
func TestGather(t *testing.T) {
	r := newRig(t, options{}, service("udp 10.0.1.100:53 rr", "nat 10.0.2.11:5353 1"))
	request := fromClient().IP4(client, vip).UDP(1000, 53).Payload(make([]byte, 1000)).Parts(7, 600)
	other := fromClient().IP4(client, vip).UDP(1000, 54).Payload(make([]byte, 1000)).Parts(7, 600)
	reply := fromServer().IP4("10.0.2.11", client).UDP(5353, 1000).Payload(make([]byte, 1000)).Parts(7, 600)
	v6 := fromClient().IP6(client6, vip6).UDP(1000, 53).Payload(make([]byte, 1000)).Parts(7, 600)
	stranger := packettest.Eth("02:00:00:00:00:99", clientMAC).IP4(client, vip).UDP(1000, 53).Payload(make([]byte, 1000)).Parts(7, 600)
	for _, row := range []struct {
		stake string
		a     arrival
		want  Verdict
		reply bool
	}{
		{"the first", in(request[0]), Gather, false},
		{"another: it has no ports", in(request[1]), Gather, false},
		{"of a port that no service has: only all of it tells", in(other[0]), Gather, false},
		{"of a server", back(reply[0]), Gather, true},
		{"of a server, another", back(reply[1]), Gather, true},
		{"to a service: put together before routing [frag-ttl]", in(request[0].TTL(1)), Gather, false},
		{"of a server: after routing [frag-ttl]", back(reply[0].TTL(1)), DropTTL, true},
		{"of a family without services (K-PATH-1)", in(v6[0]), Pass, false},
		{"for another station", in(stranger[0]), DropOtherHost, false},
	} {
		r.process(row.a)
		if k := &r.batch.Pkts[0]; k.Verdict != row.want || k.Reply != row.reply {
			t.Errorf("%s: %v, reply %t, want %v, %t", row.stake, k.Verdict, k.Reply, row.want, row.reply)
		}
	}
	r.edit(func(s *lb.Spec) {
		s.Services = append(s.Services, lb.ServiceSpec{Key: lb.ServiceKey{Mark: 7}, Scheduler: "rr"})
		s.Marks = []lb.MarkRule{{Mark: 7, Proto: packet.ProtoUDP, PortLow: 99, PortHigh: 99}, {Mark: 7, Proto: packet.ProtoSCTP}}
	})
	marked := fromClient().IP4(client, "10.8.8.8").UDP(1000, 99).Payload(make([]byte, 1000)).Parts(7, 600)
	whole := fromClient().IP4(client, "10.8.8.8").SCTP(1000, 99, 0).Payload(make([]byte, 1000)).Parts(7, 600)
	own := fromClient().IP4(client, "10.0.1.1").UDP(1000, 99).Payload(make([]byte, 1000)).Parts(7, 600)
	for _, row := range []struct {
		stake string
		part  packettest.Packet
		want  Verdict
		reply bool
	}{
		{"of a marked service, the first", marked[0].TTL(1), Gather, false},
		{"another, whose port nobody knows: may be a server's", marked[1].TTL(1), DropTTL, true},
		{"another, marked whatever its port", whole[1].TTL(1), Gather, false},
		{"to the host itself", own[1].TTL(1), Gather, false},
	} {
		r.process(in(row.part))
		if k := &r.batch.Pkts[0]; k.Verdict != row.want || k.Reply != row.reply {
			t.Errorf("%s: %v, reply %t, want %v, %t", row.stake, k.Verdict, k.Reply, row.want, row.reply)
		}
	}
}

// TestDatagram: one that was put together leaves by the slow path, in fragments; what counts
// for its size is the datagram in IPv4, its longest fragment in IPv6; and it counts as
// many frames as it was (K-FWD-MTU).
func TestDatagram(t *testing.T) {
	r := newRig(t, options{}, service("udp 10.0.1.100:53 rr", "tun 10.0.2.11:53 1"), service("udp [fd00:1::100]:53 rr", "nat [fd00:2::11]:5353 1"))
	v4 := fromClient().IP4(client, vip).UDP(1000, 53).Payload(make([]byte, 1600))
	v6 := fromClient().IP6(client6, vip6).UDP(1000, 53).Payload(make([]byte, 1600))
	for _, row := range []struct {
		stake   string
		p       packettest.Packet
		largest uint32
		want    Verdict
		mtu     uint16
		inner   uint16
	}{
		{"IPv4 into a tunnel", v4, 1020, Split, 1500, 20},
		{"that fits", v4.Payload(make([]byte, 800)), 620, Split, 1500, 20},
		{"with DF and too long for its way", v4.DF(), 1020, DropTooBig, 1480, 0},
		{"IPv6", v6, 1200, Split, 1500, 0},
		{"IPv6, a fragment too long", v6, 1501, DropTooBig, 1500, 0},
		{"no server for it", fromClient().IP4(client, vip).UDP(1000, 54).Payload(make([]byte, 1600)), 1020, Pass, 0, 0},
	} {
		r.fill(in(row.p))
		before := r.pipe.Counters[row.want]
		k := &r.batch.Pkts[0]
		k.Parts, k.Largest = 3, row.largest
		r.pipe.Process(&r.batch, r.now)
		if n := r.pipe.Counters[row.want] - before; k.Verdict != row.want || n != 3 {
			t.Errorf("%s: %v, counted %d, want %v, 3", row.stake, k.Verdict, n, row.want)
		}
		if k.Verdict != Pass && k.MTU != row.mtu || k.Verdict == Split && k.Inner != row.inner {
			t.Errorf("%s: MTU %d, %d bytes of tunnel, want %d, %d", row.stake, k.MTU, k.Inner, row.mtu, row.inner)
		}
	}
}
