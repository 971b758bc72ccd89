package fastpath

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb"
)

// offering is a TCP packet that offers a maximum segment size.
func offering(p packettest.Packet, from, to uint16, flags uint8, mss uint16) packettest.Packet {
	return p.TCP(from, to, flags).TCPOptions(2, 4, byte(mss>>8), byte(mss))
}

// offered is the maximum segment size in the packet that left last, whose only
// option it is, and at its end.
func (r *rig) offered() int {
	k := &r.batch.Pkts[0]
	if k.Verdict != Forward {
		return 0
	}
	return int(binary.BigEndian.Uint16(k.Chunk[k.Off+k.Len-2:]))
}

// A service's MSS bounds what SYN and SYN+ACK offer, where they pass: never
// more than they offered, by all methods, and by the MTUs if that is asked.
func TestMSS(t *testing.T) {
	const open, answer = synFlag, synFlag | ackFlag
	type way struct{ offer, passes int }
	for _, row := range []struct {
		stake        string
		mss          lb.MSS
		in6, outer6  bool
		method       lb.Forward
		tunnel       lb.Tunnel
		client, back uint16 // MTU of the link to each
		learnt       uint16 // of the server's path
		syn, synack  way
	}{
		{"off", 0, false, false, lb.NAT, lb.Tunnel{}, 1300, 1200, 0, way{1460, 1460}, way{1460, 1460}},
		{"a number", 1400, false, false, lb.NAT, lb.Tunnel{}, 1500, 1500, 0, way{1460, 1400}, way{8960, 1400}},
		{"a number, of less", 1400, false, false, lb.NAT, lb.Tunnel{}, 1500, 1500, 0, way{536, 536}, way{1399, 1399}},
		{"a number, IPv6", 1400, true, false, lb.NAT, lb.Tunnel{}, 1500, 1500, 0, way{1440, 1400}, way{1440, 1400}},
		{"auto: nothing to do", lb.AutoMSS, false, false, lb.NAT, lb.Tunnel{}, 1500, 1500, 0, way{1460, 1460}, way{1460, 1460}},
		{"auto: a narrow way to the server", lb.AutoMSS, false, false, lb.NAT, lb.Tunnel{}, 1500, 1400, 0, way{1460, 1360}, way{1460, 1360}},
		{"auto: a narrow way to the client", lb.AutoMSS, false, false, lb.NAT, lb.Tunnel{}, 1300, 1500, 0, way{1460, 1260}, way{1460, 1260}},
		{"auto, IPv6", lb.AutoMSS, true, false, lb.NAT, lb.Tunnel{}, 1400, 1400, 0, way{1440, 1340}, way{1440, 1340}},
		{"DR", 1400, false, false, lb.DR, lb.Tunnel{}, 1500, 1500, 0, way{1460, 1400}, way{}},
		{"auto, DR", lb.AutoMSS, false, false, lb.DR, lb.Tunnel{}, 1500, 1400, 0, way{1460, 1360}, way{}},
		{"TUN", 1400, false, false, lb.TUN, lb.Tunnel{}, 1500, 1500, 0, way{1460, 1400}, way{}},
		{"auto, IP in IP", lb.AutoMSS, false, false, lb.TUN, lb.Tunnel{}, 1500, 1500, 0, way{1460, 1440}, way{}},
		{"auto, GUE", lb.AutoMSS, false, false, lb.TUN, lb.Tunnel{Type: lb.GUE, Port: 6080}, 1500, 1500, 0, way{1460, 1428}, way{}},
		{"auto, GRE with checksum", lb.AutoMSS, false, false, lb.TUN, lb.Tunnel{Type: lb.GRE, Checksum: lb.Checksum}, 1500, 1500, 0, way{1460, 1432}, way{}},
		{"auto, 6 in 6", lb.AutoMSS, true, true, lb.TUN, lb.Tunnel{}, 1500, 1500, 0, way{1440, 1400}, way{}},
		{"auto, 4 in 6", lb.AutoMSS, false, true, lb.TUN, lb.Tunnel{}, 1500, 1500, 0, way{1460, 1420}, way{}},
		{"auto, a path that was learnt", lb.AutoMSS, false, false, lb.TUN, lb.Tunnel{}, 1500, 1500, 1280, way{1460, 1220}, way{}},
	} {
		t.Run(row.stake, func(t *testing.T) {
			r, request := tunnelRig(t, row.tunnel, row.outer6, row.in6)
			c, server := client, "10.0.2.11"
			if row.in6 {
				c = client6
			}
			if row.outer6 || row.in6 && row.method != lb.TUN {
				server = "fd00:2::11"
			}
			r.edit(func(s *lb.Spec) {
				s.Services[0].MSS = row.mss
				s.Services[0].Servers = []lb.RealSpec{{Key: lb.RealKey{Addr: netip.MustParseAddr(server), Port: 80}, Weight: 1, Forward: row.method, Tunnel: row.tunnel}}
			})
			for i, mtu := range []uint16{row.client, row.back} {
				r.setMTU([]string{c, server}[i], mtu)
				r.pipe.hops.Interfaces[i].MTU = int(mtu)
			}
			if row.learnt != 0 {
				r.director.Current().Reals[r.director.Current().Services[0].Dests[0].ID].Path.Learn(3, 4, uint32(row.learnt), 1500, true, 4, r.now)
			}
			got := r.fate(in(offering(request, 1000, 80, open, uint16(row.syn.offer))))
			if r.offered() != row.syn.passes {
				t.Errorf("SYN with %d: passes with %d, want %d (%s)", row.syn.offer, r.offered(), row.syn.passes, got)
			}
			if row.synack.offer == 0 {
				return
			}
			reply := fromServer().IP4("10.0.2.11", client)
			if row.in6 {
				reply = fromServer().IP6("fd00:2::11", client6)
			}
			got = r.fate(back(offering(reply, 80, 1000, answer, uint16(row.synack.offer))))
			if r.offered() != row.synack.passes {
				t.Errorf("SYN+ACK with %d: passes with %d, want %d (%s)", row.synack.offer, r.offered(), row.synack.passes, got)
			}
		})
	}
}

// Only a packet with SYN is looked at, and what it is answered with quotes what
// the client sent.
func TestMSSLeavesOthers(t *testing.T) {
	svc := natService()
	svc.MSS = 1000
	r := newRig(t, options{}, svc)
	from := fromClient().IP4(client, vip)
	for i, flags := range []uint8{synFlag, ackFlag, ackFlag | packettest.PSH, packettest.FIN | ackFlag, packettest.RST} {
		want := 1460
		if i == 0 {
			want = 1000
		}
		if r.fate(in(offering(from, 1000, 80, flags, 1460))); r.offered() != want {
			t.Errorf("flags %#x: passes with %d, want %d", flags, r.offered(), want)
		}
	}
	r.steps(step{"TTL 1", in(offering(from, 1001, 80, synFlag, 1460).TTL(1)), "ttl_exceeded"})
	if k := &r.batch.Pkts[0]; int(binary.BigEndian.Uint16(k.Chunk[k.Off+k.Len-2:])) != 1460 {
		t.Error("the packet to be quoted was changed")
	}
	// Of a mark service it is the TCP.
	m := marked(service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:0 1"), 7)
	m.MSS = 1000
	r = newRig(t, options{}, m)
	r.edit(func(s *lb.Spec) { s.Marks = []lb.MarkRule{{Mark: 7}} })
	if r.fate(in(offering(from, 1000, 443, synFlag, 1460))); r.offered() != 1000 {
		t.Errorf("a mark service's passes with %d, want 1000", r.offered())
	}
	r.steps(step{"its UDP", in(fromClient().IP4(client, vip).UDP(1000, 53)), "10.0.2.11:53"})
	// Connections of a service that was removed, or has none, are left alone.
	r = newRig(t, options{}, svc)
	r.steps(step{"SYN", in(offering(from, 1000, 80, synFlag, 1460)), "10.0.2.11:8080"})
	r.edit(func(s *lb.Spec) { s.Services = nil; s.Services = append(s.Services, service("udp 10.0.1.100:53 rr")) })
	if r.fate(back(offering(fromServer().IP4("10.0.2.11", client), 8080, 1000, synFlag|ackFlag, 1460))); r.offered() != 1460 {
		t.Errorf("SYN+ACK of a removed service passes with %d, want 1460", r.offered())
	}
}
