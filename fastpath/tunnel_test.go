package fastpath

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb"
)

// tunnelRig is a rig whose one server is reached by a tunnel, of IPv6 outside or
// inside it, with the beginning of the client's packets.
func tunnelRig(t testing.TB, tunnel lb.Tunnel, outer6, inner6 bool) (*rig, packettest.Packet) {
	t.Helper()
	to, server, request := vip, "10.0.2.11", fromClient().IP4(client, vip).DF()
	if inner6 {
		to, request = vip6, fromClient().IP6(client6, vip6)
	}
	if outer6 {
		server = "fd00:2::11"
	}
	return newRig(t, options{}, tunnelled(to, server, tunnel)), request
}

// eachTunnel calls f for every kind of tunnel between the families, with what
// its headers take of an MTU.
func eachTunnel(f func(name string, tunnel lb.Tunnel, outer6, inner6 bool, overhead int)) {
	for _, kind := range tunnelKinds {
		for i, outer6 := range []bool{false, true} {
			for _, inner6 := range []bool{false, true} {
				f(fmt.Sprintf("%v, IPv6 outside %t, inside %t", kind.tunnel, outer6, inner6), kind.tunnel, outer6, inner6, kind.overhead[i])
			}
		}
	}
}

// errorAbout is an ICMP error from a router between director and server about
// a frame that left, of which it quotes n bytes.
func errorAbout(frame []byte, n int, kind, code uint8, rest uint32) packettest.Packet {
	datagram := frame[packet.EthernetLen:]
	datagram = bytes.Clone(datagram[:min(n, len(datagram))])
	if datagram[0]>>4 == 6 {
		return fromServer().IP6("fd00:2::254", "fd00:2::1").ICMP6(kind, code, rest).Payload(datagram)
	}
	return fromServer().IP4("10.0.2.254", "10.0.2.1").ICMP4(kind, code, rest).Payload(datagram)
}

// sent is the frame that the last packet became.
func (r *rig) sent() []byte {
	k := &r.batch.Pkts[0]
	return bytes.Clone(k.Chunk[k.Off : k.Off+k.Len])
}

// tooBig is an error about a tunnel's packet that says what would fit.
func tooBig(frame []byte, mtu uint32) packettest.Packet {
	if frame[packet.EthernetLen]>>4 == 6 {
		return errorAbout(frame, 1232, 2, 0, mtu)
	}
	return errorAbout(frame, 548, 3, 4, mtu)
}

// K-ICMP-5, K-FWD-MTU: an error about a tunnel's packet that was too big
// teaches the node what fits, for ten minutes. All kinds of tunnels.
func TestTunnelTeaches(t *testing.T) {
	eachTunnel(func(name string, tunnel lb.Tunnel, outer6, inner6 bool, overhead int) {
		t.Run(name, func(t *testing.T) {
			r, request := tunnelRig(t, tunnel, outer6, inner6)
			header := 40
			if inner6 {
				header = 60
			}
			of := func(size int) arrival {
				return in(request.TCP(1000, 80, ackFlag|packettest.PSH).Payload(make([]byte, size-header)))
			}
			fits := func(stake string, most int) {
				t.Helper()
				if got := r.fate(of(most + 1)); got != "too_big" || int(r.batch.Pkts[0].MTU) != most {
					t.Errorf("%s: %d bytes: %s, MTU %d, want too_big, %d", stake, most+1, got, r.batch.Pkts[0].MTU, most)
				}
				r.steps(step{stake, of(most), "1 02:"})
			}
			r.steps(step{"SYN", in(request.TCP(1000, 80, synFlag)), "1 02:"})
			fits("before", 1500-overhead)
			frame := r.sent()
			report := func(mtu uint32, want int) {
				t.Helper()
				got := r.fate(back(tooBig(frame, mtu)))
				if k := &r.batch.Pkts[0]; got != "tunnel_error" || int(k.MTU) != want {
					t.Errorf("error that says %d: %s with MTU %d, want tunnel_error with %d", mtu, got, k.MTU, want)
				}
			}
			first := 1500
			if outer6 {
				first = 1400 // Linux, which knows IPv4 only, reports of the first error what held before
			}
			report(1400, first)
			fits("learnt", 1400-overhead)
			report(1350, 1350)
			fits("learnt less", 1350-overhead)
			report(1450, 1350)
			fits("there is no learning more", 1350-overhead)
			r.now += 60000 - 1
			fits("ten minutes later", 1350-overhead)
			r.now++
			fits("forgotten", 1500-overhead)
		})
	})
}

// Where a path is narrower than IPv6 and a tunnel's headers need, the sender is
// told IPv6's least MTU, and the tunnel takes the rest in pieces (RFC 2473).
func TestTunnelNarrowForIPv6(t *testing.T) {
	r, request := tunnelRig(t, lb.Tunnel{}, true, true)
	of := func(size int) arrival { return in(request.TCP(1000, 80, ackFlag).Payload(make([]byte, size-60))) }
	r.steps(step{"SYN", in(request.TCP(1000, 80, synFlag)), "1 02:"}, step{"1460 bytes", of(1460), "1 02:"})
	r.steps(
		step{"the path takes 1280", back(tooBig(r.sent(), 1280)), "tunnel_error"},
		step{"more than IPv6's least", of(1281), "too_big"},
		step{"IPv6's least", of(1280), "oversize"},
		step{"a byte too long for the path", of(1241), "oversize"},
	)
	if k := &r.batch.Pkts[0]; k.MTU != 1280 || k.Inner != 40 {
		t.Errorf("to be fragmented to %d, the client's packet at %d", k.MTU, k.Inner)
	}
	r.steps(step{"fits", of(1240), "1 02:"})
	if r.fate(of(1281)); r.batch.Pkts[0].MTU != 1280 {
		t.Errorf("reports %d, want 1280", r.batch.Pkts[0].MTU)
	}
	r.steps(step{"nothing below that is learnt", back(tooBig(r.sent(), 600)), ""}, step{"still fits", of(1240), "1 02:"})
}

// K-ICMP-5: which errors are about a tunnel's packet, and which are the host's.
// As recorded with Linux 6.1.
func TestTunnelErrors(t *testing.T) {
	gue, gre := lb.Tunnel{Type: lb.GUE, Port: 6080}, lb.Tunnel{Type: lb.GRE}
	for _, row := range []struct {
		stake  string
		tunnel lb.Tunnel
		change func(frame []byte) // of the frame that is quoted
		keep   int                // bytes of its datagram; 0: all
		reply  func(packettest.Packet) packettest.Packet
		want   string
	}{
		{"of IP in IP", lb.Tunnel{}, nil, 0, nil, "tunnel_error"},
		{"the inner ports and no more", lb.Tunnel{}, nil, 44, nil, "tunnel_error"},
		{"without them", lb.Tunnel{}, nil, 43, nil, "passed"},
		{"8 bytes of the inner packet", lb.Tunnel{}, nil, 28, nil, "passed"},
		{"wrong checksum", lb.Tunnel{}, nil, 0, packettest.Packet.BadChecksum, "icmp_checksum"},
		{"TTL 1: it goes no further anyway", lb.Tunnel{}, nil, 0, func(p packettest.Packet) packettest.Packet { return p.TTL(1) }, "tunnel_error"},
		{"outer options", lb.Tunnel{}, nil, 0, func(p packettest.Packet) packettest.Packet { return p.Options(1, 1, 1, 0) }, "tunnel_error"},
		{"another server", lb.Tunnel{}, func(b []byte) { b[14+19] = 12 }, 0, nil, "passed"},
		{"an inner packet of no connection", lb.Tunnel{}, func(b []byte) { b[14+20+20+1]++ }, 0, nil, "passed"},
		{"a later fragment of the outer packet", lb.Tunnel{}, func(b []byte) { b[14+6], b[14+7] = 0, 1 }, 0, nil, "passed"},
		{"the first fragment of it", lb.Tunnel{}, func(b []byte) { b[14+6] = 0x20 }, 0, nil, "tunnel_error"},
		{"a later fragment in it", lb.Tunnel{}, func(b []byte) { b[14+20+6], b[14+20+7] = 0, 1 }, 0, nil, "passed"},
		{"a protocol of no service in it", lb.Tunnel{}, func(b []byte) { b[14+20+9] = 47 }, 0, nil, "passed"},
		{"of GUE", gue, nil, 0, nil, "tunnel_error"},
		{"to another port", gue, func(b []byte) { b[14+20+3]++ }, 0, nil, "passed"},
		{"GUE with a control message", gue, func(b []byte) { b[14+28] = 0x20 }, 0, nil, "passed"},
		{"GUE of another version", gue, func(b []byte) { b[14+28] = 0x40 }, 0, nil, "passed"},
		{"GUE with another protocol", gue, func(b []byte) { b[14+29] = 17 }, 0, nil, "passed"},
		{"GUE's options beyond the quote", gue, func(b []byte) { b[14+28] = 31 }, 0, nil, "passed"},
		{"GUE cut", gue, nil, 31, nil, "passed"},
		{"UDP cut", gue, nil, 23, nil, "passed"},
		{"IP in IP to a server of GUE", gue, func(b []byte) { b[14+9] = 4 }, 0, nil, "passed"},
		{"of GRE", gre, nil, 0, nil, "tunnel_error"},
		{"GRE with a key", gre, func(b []byte) { b[14+20] = 0x20 }, 0, nil, "passed"},
		{"GRE of another version", gre, func(b []byte) { b[14+21] = 1 }, 0, nil, "passed"},
		{"GRE of no IP", gre, func(b []byte) { b[14+23] = 6 }, 0, nil, "passed"},
		{"GRE cut", gre, nil, 23, nil, "passed"},
	} {
		r, request := tunnelRig(t, row.tunnel, false, false)
		r.steps(step{"SYN", in(request.TCP(1000, 80, synFlag).Payload(make([]byte, 100))), "1 02:"})
		frame := r.sent()
		if row.change != nil {
			row.change(frame)
		}
		if row.keep == 0 {
			row.keep = len(frame)
		}
		p := errorAbout(frame, row.keep, 3, 1, 0)
		if row.reply != nil {
			p = row.reply(p)
		}
		r.steps(step{row.stake, back(p), row.want})
	}

	// It has to be for this host: which address it goes to does not matter.
	r, request := tunnelRig(t, lb.Tunnel{}, false, false)
	r.steps(step{"SYN", in(request.TCP(1000, 80, synFlag)), "1 02:"})
	frame := r.sent()
	for to, want := range map[string]string{"10.0.2.1": "tunnel_error", "10.0.1.1": "tunnel_error", vip: "tunnel_error", "10.0.1.50": "passed", client: "passed"} {
		r.steps(step{"to " + to, back(fromServer().IP4("10.0.2.254", to).ICMP4(3, 1, 0).Payload(frame[14:])), want})
	}
	// A server that was removed has no tunnel, nor has one of another method.
	for what, edit := range map[string]func(*lb.ServiceSpec){
		"removed": func(s *lb.ServiceSpec) { s.Servers = nil },
		"NAT":     func(s *lb.ServiceSpec) { s.Servers[0].Forward, s.Servers[0].Tunnel = lb.NAT, lb.Tunnel{} },
		"GRE":     func(s *lb.ServiceSpec) { s.Servers[0].Tunnel = gre },
	} {
		was := r.director.Spec()
		r.edit(func(s *lb.Spec) { edit(&s.Services[0]) })
		r.steps(step{what, back(errorAbout(frame, 100, 3, 1, 0)), "passed"})
		r.apply(was)
		r.steps(step{"again", back(errorAbout(frame, 100, 3, 1, 0)), "tunnel_error"})
	}
	// No error is scheduled by what was in a tunnel.
	r.edit(func(s *lb.Spec) { s.Sysctl.ScheduleICMP = 1 })
	frame[14+20+20+1]++
	r.steps(step{"schedule_icmp", back(errorAbout(frame, 100, 3, 1, 0)), "passed"})
	r.want("connections", r.list(), "10.0.1.10:1000 10.0.1.100:80 80 SYN_RECV 1m0s")
}

// What the slow path is told: where the client's packet is in the frame, and
// that it was sent to the virtual service.
func TestTunnelErrorMeta(t *testing.T) {
	eachTunnel(func(name string, tunnel lb.Tunnel, outer6, inner6 bool, overhead int) {
		r, request := tunnelRig(t, tunnel, outer6, inner6)
		k, kind, outer := &r.batch.Pkts[0], uint8(3), 28
		if outer6 {
			kind, outer = 1, 48
		}
		r.steps(step{"SYN", in(request.TCP(1000, 80, synFlag)), "1 02:"})
		r.steps(step{name, back(errorAbout(r.sent(), 1000, kind, 0, 0)), "tunnel_error"})
		if want := outer + overhead; int(k.Inner) != want || k.MTU != 0 || k.Info.DstPort != 80 || !r.pipe.snap.IsVIP(&k.Info.Dst) {
			t.Errorf("%s: the client's packet is at %d, to %v:%d, MTU %d, want %d, to the VIP, 0", name, k.Inner, k.Info.Dst, k.Info.DstPort, k.MTU, want)
		}
	})
}

// The kernel counts what an error quotes as outgoing, as well as the error to the client.
// What was learnt is every service's whose server has the address, and outlives edits.
func TestTunnelCountsAndShares(t *testing.T) {
	other := service("tcp 10.0.1.101:81 rr", "tun 10.0.2.11:81 1")
	r, request := tunnelRig(t, lb.Tunnel{}, false, false)
	r.edit(func(s *lb.Spec) { s.Services = append(s.Services, other) })
	r.steps(
		step{"SYN", in(request.TCP(1000, 80, synFlag)), "1 02:"},
		step{"data", in(request.TCP(1000, 80, ackFlag).Payload(make([]byte, 1400))), "1 02:"},
	)
	frame := r.sent()
	r.steps(
		step{"an error that quotes 108 bytes", back(errorAbout(frame, 128, 3, 1, 0)), "tunnel_error"},
		step{"one that quotes more than an error may", back(errorAbout(frame, 1000, 3, 4, 1400)), "tunnel_error"},
	)
	want := lb.Counters{Conns: 1, InPackets: 2, InBytes: 40 + 1440, OutPackets: 2, OutBytes: 108 + 980}
	if got := r.counters("10.0.2.11"); got != want {
		t.Errorf("counters are %+v, want %+v", got, want)
	}
	to81 := fromClient().IP4(client, "10.0.1.101").DF()
	r.steps(
		step{"the other service's way", in(to81.TCP(5, 81, synFlag)), "1 02:"},
		step{"is as narrow", in(to81.TCP(5, 81, ackFlag).Payload(make([]byte, 1341))), "too_big"},
	)
	r.edit(func(s *lb.Spec) { s.Services[0].Servers[0].Weight = 5; s.Services[1].Scheduler = "wrr" })
	r.steps(step{"after an edit", in(request.TCP(1000, 80, ackFlag).Payload(make([]byte, 1341))), "too_big"})
	r.edit(func(s *lb.Spec) { s.Sysctl.PMTUDisc = 0 })
	r.steps(step{"pmtu_disc 0", in(request.TCP(1000, 80, ackFlag).Payload(make([]byte, 1341))), "oversize"})
}

// Errors about a tunnel are handled by the worker that has the inner client's
// connections, wherever they arrive.
func TestTunnelErrorHandoff(t *testing.T) {
	r, request := tunnelRig(t, lb.Tunnel{}, false, false)
	r.steps(step{"a frame", in(request.TCP(1000, 80, synFlag)), "1 02:"})
	frame := r.sent()
	four := newRig(t, options{workers: 4}, service("tcp 10.0.1.100:80 rr", "tun 10.0.2.11:80 1"))
	handed := 0
	for port := range uint16(40) {
		syn := four.fate(in(request.TCP(1000+port, 80, synFlag)))
		owner := four.batch.Pkts[0].Owner
		frame[14+40], frame[14+41] = byte((1000+port)>>8), byte(1000+port)
		got, want := four.fate(back(errorAbout(frame, 100, 3, 4, 1400))), "tunnel_error"
		if syn == "handed_over" {
			want = syn
			handed++
		}
		if got != want || got == "handed_over" && four.batch.Pkts[0].Owner != owner {
			t.Errorf("port %d: %s to %d, want %s to %d", 1000+port, got, four.batch.Pkts[0].Owner, want, owner)
		}
	}
	if handed == 0 || handed == 40 {
		t.Errorf("%d of 40 were handed over", handed)
	}
}

func TestTunnelErrorAllocatesNothing(t *testing.T) {
	r, request := tunnelRig(t, lb.Tunnel{}, false, false)
	r.steps(step{"SYN", in(request.TCP(1000, 80, synFlag)), "1 02:"})
	a := back(tooBig(r.sent(), 1400))
	if n := testing.AllocsPerRun(100, func() {
		r.fill(a)
		r.pipe.Process(&r.batch, r.now)
	}); n != 0 || r.pipe.Counters[DropTunnelError] != 101 {
		t.Errorf("Process allocates %v times a batch, want 0; %d of 101 are about the tunnel", n, r.pipe.Counters[DropTunnelError])
	}
}

// A packet that waits for a neighbour says nothing of the packet that had its
// place in the batch before.
func TestHeldSaysNothingOfOthers(t *testing.T) {
	tun, dr := service("tcp 10.0.1.100:80 rr", "tun 10.0.2.14:80 1"), service("tcp 10.0.1.101:80 rr", "dr 10.0.2.14:80 1")
	nat := service("tcp 10.0.1.102:80 rr", "nat 10.0.2.14:80 1")
	r := newRig(t, options{}, tun, dr, nat)
	for i, want := range []string{"20 false 10.0.1.100", "0 true ::", "0 false 10.0.1.102", "20 false 10.0.1.100"} {
		to := []string{vip, "10.0.1.101", "10.0.1.102", vip}[i]
		r.steps(step{to, in(fromClient().IP4(client, to).TCP(1000, 80, synFlag)), "held"})
		k := &r.batch.Pkts[0]
		if got := fmt.Sprint(k.Inner, " ", k.Direct, " ", k.Virtual.Netip()); got != want {
			t.Errorf("to %s: inner, direct, virtual are %s, want %s", to, got, want)
		}
	}
}

// A packet to a server by a tunnel pays one load for what was learnt.
func BenchmarkLearntPath(b *testing.B) {
	var p lb.Path
	p.Learn(3, 4, 1400, 1500, true, 4, 1000)
	sum := 0
	for b.Loop() {
		sum += int(p.At(2000))
	}
	b.ReportMetric(float64(sum)/float64(b.N), "mtu")
}
