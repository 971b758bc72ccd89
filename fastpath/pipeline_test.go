package fastpath

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/fastpath/pathtest"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/flow"
)

const (
	synFlag = packettest.SYN
	ackFlag = packettest.ACK
	rstFlag = packettest.RST
	finFlag = packettest.FIN
)

func natService() lb.ServiceSpec {
	return service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:8080 1")
}

// Each row is one packet that meets a rig with one NAT, one DR and one TUN
// service, and its fate.
func TestFates(t *testing.T) {
	services := []lb.ServiceSpec{
		natService(),
		service("udp 10.0.1.100:53 rr", "nat 10.0.2.11:5353 1"),
		service("sctp 10.0.1.100:80 rr", "nat 10.0.2.11:80 1"),
		service("tcp 10.0.1.101:80 rr", "dr 10.0.2.12:80 1"),
		service("tcp 10.0.1.102:80 rr", "tun 10.0.2.13:80 1"),
		service("tcp 10.0.1.103:80 rr", "nat 10.0.2.11:80 0"),
		service("tcp 10.0.1.104:80 rr", "nat 10.0.2.14:80 1"),
		service("tcp 10.0.1.105:80 rr", "nat 192.0.2.1:80 1"),
		service("tcp 10.0.1.106:80 rr", "dr 10.0.2.1:80 1"),
		service("tcp 10.0.1.107:80 rr", "nat 10.0.2.1:80 1"),
		service("tcp [fd00:1::100]:80 rr", "nat [fd00:2::11]:8080 1"),
		service("tcp 10.0.2.1:80 rr", "nat 10.0.2.11:80 1"),
	}
	tcp := func(dst string) packettest.Packet { return fromClient().IP4(client, dst).TCP(1000, 80, synFlag) }
	for _, row := range []struct {
		stake string
		a     arrival
		want  string // a part of the fate
	}{
		{"NAT", in(tcp(vip)), "10.0.1.10:1000 > 10.0.2.11:8080"},
		{"DR leaves the packet as it is", in(tcp("10.0.1.101")), "10.0.1.10:1000 > 10.0.1.101:80"},
		{"DR goes to the server's MAC", in(tcp("10.0.1.101")), "02:00:00:00:02:0c"},
		{"TUN puts it into IP", in(tcp("10.0.1.102")), "10.0.2.1 > 10.0.2.13"},
		{"IPv6", in(fromClient().IP6(client6, vip6).TCP(1000, 80, synFlag)), "[fd00:2::11]:8080"},
		{"UDP needs no SYN", in(fromClient().IP4(client, vip).UDP(1000, 53)), "10.0.2.11:5353"},
		{"SCTP INIT", in(fromClient().IP4(client, vip).SCTP(1000, 80, 1)), "10.0.2.11:80"},
		{"SCTP DATA has no connection", in(fromClient().IP4(client, vip).SCTP(1000, 80, 0)), "passed"},
		{"K-PROTO-TCP: an ACK alone opens nothing", in(fromClient().IP4(client, vip).TCP(1000, 80, ackFlag)), "passed"},
		{"SYN and ACK do", in(fromClient().IP4(client, vip).TCP(1000, 80, synFlag|ackFlag)), "10.0.2.11:8080"},
		{"SYN and RST do not", in(fromClient().IP4(client, vip).TCP(1000, 80, synFlag|rstFlag)), "passed"},
		{"K-CONN-12: FTP data from a client", in(fromClient().IP4(client, vip).TCP(20, 80, synFlag)), "passed"},
		{"another port of the VIP is the host's", in(fromClient().IP4(client, vip).TCP(1000, 81, synFlag)), "passed"},
		{"K-DST-6: weight 0", in(tcp("10.0.1.103")), "no_server"},
		{"unknown neighbour", in(tcp("10.0.1.104")), "held"},
		{"no route", in(tcp("10.0.1.105")), "no_route"},
		{"K-FWD-LOCAL: the director is the server", in(tcp("10.0.1.106")), "passed"},
		{"NAT to the director itself", in(tcp("10.0.1.107")), "passed"},
		{"K-PATH-8: TTL 1", in(tcp(vip).TTL(1)), "ttl_exceeded"},
		{"TTL 2 is enough", in(tcp(vip).TTL(2)), "10.0.2.11:8080"},
		{"wrong IP checksum", in(tcp(vip).BadIPChecksum()), "ip_checksum"},
		{"wrong TCP checksum goes on", in(tcp(vip).BadChecksum()), "10.0.2.11:8080"},
		{"cut short", in(tcp(vip).Truncate(30)), "truncated"},
		{"another host's frame", in(packettest.Eth("02:00:00:00:00:77", clientMAC).IP4(client, vip).TCP(1000, 80, synFlag)), "other_host"},
		{"broadcast is the host's", in(packettest.Eth("ff:ff:ff:ff:ff:ff", clientMAC).IP4(client, vip).TCP(1000, 80, synFlag)), "passed"},
		{"a fragment", in(fromClient().IP4(client, vip).UDP(1000, 53).Fragment(0, true, 7)), "fragment"},
		{"echo to a VIP that the host does not own", in(fromClient().IP4(client, vip).ICMP4(8, 0, 0)), "echo"},
		{"in IPv6", in(fromClient().IP6(client6, vip6).ICMP6(128, 0, 0)), "echo"},
		{"echo to the director is the host's", in(fromClient().IP4(client, "10.0.1.1").ICMP4(8, 0, 0)), "passed"},
		{"echo to a VIP that is the director's too", in(fromClient().IP4(client, "10.0.2.1").ICMP4(8, 0, 0)), "passed"},
		{"other messages to a VIP are the host's", in(fromClient().IP4(client, vip).ICMP4(13, 0, 0)), "passed"},
		{"a reply is none", in(fromClient().IP6(client6, vip6).ICMP6(129, 0, 0)), "passed"},
		{"a server's packet without a connection", back(fromServer().IP4("10.0.2.11", client).TCP(8080, 1000, ackFlag)), "passed"},
		{"too big with DF through a tunnel", in(tcp("10.0.1.102").DF().Payload(make([]byte, 1441))), "too_big"},
		{"fits the tunnel", in(tcp("10.0.1.102").DF().Payload(make([]byte, 1440))), "10.0.2.1 > 10.0.2.13"},
		{"too big without DF", in(tcp("10.0.1.102").Payload(make([]byte, 1441))), "oversize"},
		{"ICMP error about nobody", in(fromClient().IP4(client, vip).ICMP4(3, 3, 0).Quote(packettest.Eth(clientMAC, frontMAC).IP4(vip, client).TCP(80, 999, 0), 64)), "passed"},
	} {
		r := newRig(t, options{}, services...)
		if got := r.fate(row.a); !strings.Contains(got, row.want) {
			t.Errorf("%s: %s, want %s", row.stake, got, row.want)
		}
	}
}

// A whole connection through NAT: states, counts and the way back.
func TestNATConnection(t *testing.T) {
	r := newRig(t, options{}, natService())
	steps := []struct {
		a    arrival
		want string
		load string
	}{
		{syn(1000), "1 ", "1 active, 0 inactive"},
		{back(fromServer().IP4("10.0.2.11", client).TCP(8080, 1000, synFlag|ackFlag)), "0 ", "1 active, 0 inactive"},
		{in(fromClient().IP4(client, vip).TCP(1000, 80, ackFlag)), "1 ", "1 active, 0 inactive"},
		{in(fromClient().IP4(client, vip).TCP(1000, 80, finFlag|ackFlag)), "1 ", "0 active, 1 inactive"},
		{back(fromServer().IP4("10.0.2.11", client).TCP(8080, 1000, finFlag|ackFlag)), "0 ", "0 active, 1 inactive"},
	}
	for i, s := range steps {
		if got := r.fate(s.a); !strings.HasPrefix(got, s.want) {
			t.Errorf("step %d: %s, want port %s", i, got, s.want)
		}
		if got := r.load("10.0.2.11"); got != s.load {
			t.Errorf("step %d: server has %s, want %s", i, got, s.load)
		}
	}
	row := r.director.Current().Rows(0).Real(0)
	want := lb.Counters{Conns: 1, InPackets: 3, OutPackets: 2, InBytes: 120, OutBytes: 80}
	if row.Counters != want {
		t.Errorf("counters are %+v, want %+v", row.Counters, want)
	}
	r.pass(119 * time.Second) // TIME_WAIT
	if n := r.conns.Len(); n != 1 {
		t.Errorf("after 119 s in TIME_WAIT there are %d connections, want 1", n)
	}
	r.pass(2 * time.Second)
	if n, load := r.conns.Len(), r.load("10.0.2.11"); n != 0 || load != "0 active, 0 inactive" {
		t.Errorf("after TIME_WAIT there are %d connections and %s, want none", n, load)
	}
}

// Packets of one batch see what earlier ones of it did.
func TestOrderWithinBatch(t *testing.T) {
	r := newRig(t, options{}, service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:80 1", "nat 10.0.2.12:80 1"))
	ack := in(fromClient().IP4(client, vip).TCP(1000, 80, ackFlag))
	rst := in(fromClient().IP4(client, vip).TCP(1000, 80, rstFlag))
	got := r.process(ack, syn(1000), ack, syn(1000))
	for i, want := range []string{"passed", "10.0.2.12:80", "10.0.2.12:80", "10.0.2.12:80"} {
		if !strings.Contains(got[i], want) {
			t.Errorf("new connection, packet %d: %s, want %s", i, got[i], want)
		}
	}
	// K-CONN-9: the reset closes, so the next SYN is a new connection, to the
	// next server; the packet before it still goes the old way. The old
	// connection ends at the next tick.
	got = r.process(rst, syn(1000), ack)
	for i, want := range []string{"10.0.2.12:80", "10.0.2.11:80", "10.0.2.11:80"} {
		if !strings.Contains(got[i], want) {
			t.Errorf("reused connection, packet %d: %s, want %s", i, got[i], want)
		}
	}
	if n := r.conns.Len(); n != 2 {
		t.Errorf("there are %d connections, want the new and the old", n)
	}
	r.pass(10 * time.Millisecond)
	if n := r.conns.Len(); n != 1 {
		t.Errorf("a tick later there are %d connections, want 1", n)
	}
}

// K-CONN-8: each datagram is scheduled afresh and leaves no connection.
func TestOnePacket(t *testing.T) {
	svc := service("udp 10.0.1.100:53 rr", "nat 10.0.2.11:53 1", "nat 10.0.2.12:53 1")
	svc.OnePacket = true
	r := newRig(t, options{}, svc)
	query := in(fromClient().IP4(client, vip).UDP(1000, 53))
	got := r.process(query, query, query)
	for i, want := range []string{"10.0.2.12:53", "10.0.2.11:53", "10.0.2.12:53"} {
		if !strings.Contains(got[i], want) {
			t.Errorf("datagram %d: %s, want %s", i, got[i], want)
		}
	}
	if n := r.conns.Len(); n != 0 {
		t.Errorf("%d connections remain, want none", n)
	}
	if got := r.load("10.0.2.11"); got != "0 active, 0 inactive" {
		t.Errorf("server has %s, want none", got)
	}
}

// K-CONN-10, K-DST-8: packets to a removed server are dropped, and used again
// when it comes back; replies are translated all the while.
func TestServerRemoved(t *testing.T) {
	r := newRig(t, options{}, natService())
	ack := in(fromClient().IP4(client, vip).TCP(1000, 80, ackFlag))
	reply := back(fromServer().IP4("10.0.2.11", client).TCP(8080, 1000, ackFlag))
	r.process(syn(1000), ack)
	full := r.director.Spec()
	r.edit(func(s *lb.Spec) { s.Services[0].Servers = nil })
	if got := r.fate(ack); got != "server_gone" {
		t.Errorf("removed server: %s, want server_gone", got)
	}
	if got := r.fate(reply); !strings.Contains(got, "10.0.1.100:80 >") {
		t.Errorf("reply of a removed server: %s, want it translated", got)
	}
	r.apply(full)
	if got := r.fate(ack); !strings.Contains(got, "10.0.2.11:8080") {
		t.Errorf("server that came back: %s, want it used", got)
	}
	// K-PATH-1: without any service the hooks are gone.
	r.edit(func(s *lb.Spec) { s.Services = nil })
	for _, a := range []arrival{ack, reply} {
		if got := r.fate(a); got != "passed" {
			t.Errorf("no services: %s, want passed", got)
		}
	}
}

// A full table refuses the new connection and serves the old ones.
func TestTableFull(t *testing.T) {
	r := newRig(t, options{max: 1}, natService())
	got := r.process(syn(1000), syn(1001), syn(1000))
	for i, want := range []string{"10.0.2.11:8080", "table_full", "10.0.2.11:8080"} {
		if !strings.Contains(got[i], want) {
			t.Errorf("packet %d: %s, want %s", i, got[i], want)
		}
	}
}

// Whatever side an interface is said to serve, connections are found.
func TestRolesOnlyHint(t *testing.T) {
	for _, roles := range [][]Role{{RoleBoth, RoleBoth}, {RoleClient, RoleServer}, {RoleServer, RoleClient}} {
		r := newRig(t, options{roles: roles}, natService(), service("tcp 10.0.1.101:80 rr", "dr 10.0.2.12:80 1"))
		for _, step := range []struct {
			a    arrival
			want string
		}{
			{syn(1000), "> 10.0.2.11:8080"},
			{back(fromServer().IP4("10.0.2.11", client).TCP(8080, 1000, synFlag|ackFlag)), "10.0.1.100:80 > "},
			{in(fromClient().IP4(client, vip).TCP(1000, 80, ackFlag)), "> 10.0.2.11:8080"},
			{in(fromClient().IP4(client, "10.0.1.101").TCP(1000, 80, synFlag)), "> 10.0.1.101:80"},
			// K-CONN-4: a DR server's reply on its way through the director
			{back(fromServer().IP4("10.0.1.101", client).TCP(80, 1000, synFlag|ackFlag)), "10.0.1.101:80 > "},
		} {
			if got := r.fate(step.a); !strings.Contains(got, step.want) {
				t.Errorf("roles %v: %s, want %s", roles, got, step.want)
			}
		}
	}
}

// ICMP errors go the way of the connection that they quote (K-ICMP-2, -3).
func TestRelated(t *testing.T) {
	r := newRig(t, options{}, natService(), service("tcp 10.0.1.101:80 rr", "dr 10.0.2.12:80 1"))
	r.process(syn(1000), in(fromClient().IP4(client, "10.0.1.101").TCP(1000, 80, synFlag)))
	sent := packettest.Eth(serverMAC, backMAC).IP4(client, "10.0.2.11").TCP(1000, 8080, synFlag)
	answer := packettest.Eth(clientMAC, frontMAC).IP4(vip, client).TCP(80, 1000, synFlag|ackFlag)
	for _, row := range []struct {
		stake string
		a     arrival
		want  []string
	}{
		{"from the server", back(fromServer().IP4("10.0.2.11", client).ICMP4(3, 3, 0).Quote(sent, 64)), []string{"0 ", "10.0.1.100 > 10.0.1.10", "> 10.0.1.100:80"}},
		{"from a router behind it", back(fromServer().IP4("10.0.2.200", client).ICMP4(11, 0, 0).Quote(sent, 64)), []string{"10.0.1.100 > 10.0.1.10"}},
		{"from the client", in(fromClient().IP4(client, vip).ICMP4(3, 3, 0).Quote(answer, 64)), []string{"1 ", "10.0.1.10 > 10.0.2.11", "10.0.2.11:8080 >"}},
		{"wrong checksum", in(fromClient().IP4(client, vip).ICMP4(3, 3, 0).Quote(answer, 64).BadChecksum()), []string{"icmp_checksum"}},
		{"about a DR connection, as it is", in(fromClient().IP4(client, "10.0.1.101").ICMP4(3, 3, 0).Quote(packettest.Eth(clientMAC, frontMAC).IP4("10.0.1.101", client).TCP(80, 1000, ackFlag), 64)), []string{"10.0.1.10 > 10.0.1.101"}},
	} {
		got := r.fate(row.a)
		for _, want := range row.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %s, want %s", row.stake, got, want)
			}
		}
	}
}

// Every packet ends under exactly one verdict, whatever it is.
func TestCountersAddUp(t *testing.T) {
	r := newRig(t, options{max: 20}, natService())
	n := uint64(0)
	for port := uint16(1000); port < 1200; port++ {
		r.process(syn(port), in(fromClient().IP4(client, vip).TCP(port, 81, synFlag)), in(fromClient().IP4(client, vip).TCP(port, 80, synFlag).TTL(1)),
			in(fromClient().IP4(client, vip).UDP(port, 53)), back(fromServer().IP4("10.0.2.11", client).TCP(8080, port, ackFlag)),
			in(fromClient().IP4(client, vip).TCP(port, 80, synFlag).Truncate(int(port)%60)))
		n += 6
	}
	sum := uint64(0)
	for _, c := range r.pipe.Counters {
		sum += c
	}
	if sum != n {
		t.Errorf("%d packets have %d verdicts", n, sum)
	}
}

// Another worker's packets are handed over, unless they were already.
func TestHandoff(t *testing.T) {
	r := newRig(t, options{workers: 2}, natService())
	handed, kept := 0, 0
	for port := uint16(1000); port < 1100; port++ {
		switch got := r.fate(syn(port)); {
		case got == "handed_over":
			handed++
			reply := back(fromServer().IP4("10.0.2.11", client).TCP(8080, port, ackFlag))
			if got := r.fate(reply); got != "handed_over" {
				t.Errorf("reply of a connection of worker 1: %s, want handed_over", got)
			}
			r.fill(syn(port))
			r.batch.Pkts[0].Handed = true
			if r.pipe.Process(&r.batch, r.now); r.batch.Pkts[0].Verdict != Forward {
				t.Errorf("handed packet: %s, want it forwarded", r.batch.Pkts[0].Verdict)
			}
		default:
			kept++
		}
	}
	if handed < 20 || kept < 20 {
		t.Errorf("%d of 100 clients handed over, %d kept: the workers do not share", handed, kept)
	}
}

func TestProcessAllocatesNothing(t *testing.T) {
	r := newRig(t, options{max: 100_000}, natService(), service("tcp 10.0.1.101:80 wrr", "dr 10.0.2.12:80 1"), service("tcp 10.0.1.102:80 rr", "tun 10.0.2.13:80 1"))
	port := uint16(0)
	frames := make([]arrival, 0, 8)
	for range 2 {
		frames = append(frames, syn(1000), in(fromClient().IP4(client, "10.0.1.101").TCP(1, 80, synFlag)),
			in(fromClient().IP4(client, "10.0.1.102").TCP(1, 80, synFlag)), back(fromServer().IP4("10.0.2.11", client).TCP(8080, 1000, ackFlag)))
	}
	n := testing.AllocsPerRun(200, func() {
		port++
		for i := range frames[:4] { // new connections too: other ports
			frames[i].frame[34], frames[i].frame[35] = byte(port>>8), byte(port)
		}
		r.fill(frames...)
		r.pipe.Process(&r.batch, r.now)
		r.now += 100
		r.pipe.Expire(r.now, 64)
	})
	if n != 0 {
		t.Errorf("Process allocates %v times a batch, want 0", n)
	}
	if r.pipe.Counters[Forward] == 0 {
		t.Error("nothing was forwarded")
	}
}

// tunnelled is a service with one server that is reached by a tunnel.
func tunnelled(vip, server string, tunnel lb.Tunnel) lb.ServiceSpec {
	svc := service("tcp "+netip.AddrPortFrom(netip.MustParseAddr(vip), 80).String()+" rr",
		"tun "+netip.AddrPortFrom(netip.MustParseAddr(server), 80).String()+" 1")
	svc.Servers[0].Tunnel = tunnel
	return svc
}

// Each row is a kind of tunnel and what its headers take of an MTU of 1500, in
// IPv4 and in IPv6 (K-FWD-MTU).
var tunnelKinds = []struct {
	tunnel   lb.Tunnel
	overhead [2]int
	want     string // a part of the fate
}{
	{lb.Tunnel{}, [2]int{20, 40}, "tunnel="},
	{lb.Tunnel{Type: lb.GUE, Port: 6080}, [2]int{32, 52}, "csum=none"},
	{lb.Tunnel{Type: lb.GUE, Port: 6080, Checksum: lb.Checksum}, [2]int{32, 52}, "csum=ok"},
	{lb.Tunnel{Type: lb.GUE, Port: 6080, Checksum: lb.ChecksumRemote}, [2]int{32, 52}, "csum=ok"},
	{lb.Tunnel{Type: lb.GRE}, [2]int{24, 44}, "proto=47"},
	{lb.Tunnel{Type: lb.GRE, Checksum: lb.Checksum}, [2]int{28, 48}, "proto=47"},
}

// Every kind of tunnel between the families: what fits leaves, one byte more
// does not, and a packet that waits for a neighbour says where the client's
// begins.
func TestTunnels(t *testing.T) {
	for _, kind := range tunnelKinds {
		for outer, server := range []string{"10.0.2.11", "fd00:2::11"} {
			for _, v6 := range []bool{false, true} {
				to, header, p := vip, 40, fromClient().IP4(client, vip).DF()
				if v6 {
					to, header, p = vip6, 60, fromClient().IP6(client6, vip6)
				}
				name := fmt.Sprintf("%v to %s for %s", kind.tunnel, server, to)
				syn := func(n int) arrival { return in(p.TCP(1000, 80, synFlag).Payload(make([]byte, n))) }
				r := newRig(t, options{}, tunnelled(to, server, kind.tunnel))
				most := 1500 - kind.overhead[outer]
				if got := r.fate(syn(most - header)); !strings.HasPrefix(got, "1 ") || !strings.Contains(got, server) || !strings.Contains(got, kind.want) {
					t.Errorf("%s, %d bytes: %s, want it to leave with %s", name, most, got, kind.want)
				}
				if n := r.batch.Pkts[0].Len; n != 1514 {
					t.Errorf("%s, %d bytes: the frame has %d, want 1514", name, most, n)
				}
				if got := r.fate(syn(most - header + 1)); got != "too_big" || int(r.batch.Pkts[0].MTU) != most {
					t.Errorf("%s, %d bytes: %s with MTU %d, want too_big with %d", name, most+1, got, r.batch.Pkts[0].MTU, most)
				}
				// The server of this one has no MAC address yet.
				r = newRig(t, options{}, tunnelled(to, strings.Replace(server, "11", "14", 1), kind.tunnel))
				if got := r.fate(syn(0)); got != "held" {
					t.Errorf("%s, unknown neighbour: %s, want held", name, got)
				}
				k := &r.batch.Pkts[0]
				inside := k.Chunk[k.Off:][k.Info.L3+k.Inner : k.Len]
				if want := p.TTL(63).TCP(1000, 80, synFlag).Datagram(); int(k.Inner) != kind.overhead[outer] || !bytes.Equal(inside, want) {
					t.Errorf("%s, held: behind %d bytes of headers %x, want behind %d the client's %x", name, k.Inner, inside, kind.overhead[outer], want)
				}
			}
		}
	}
}

// K-FWD-MTU: a way that leaves a tunnel less than IP's smallest MTU, whatever
// the packet's length. The smallest is that of the outer header's family.
func TestTunnelSmallMTU(t *testing.T) {
	for _, kind := range tunnelKinds {
		for outer, server := range []string{"10.0.2.11", "fd00:2::11"} {
			r := newRig(t, options{}, tunnelled(vip, server, kind.tunnel))
			to := flow.FromNetip(netip.MustParseAddr(server))
			least := []int{68, 1280}[outer] + kind.overhead[outer]
			r.pipe.hops.Lookup(&to).MTU = uint16(least)
			if got := r.fate(syn(1000)); !strings.HasPrefix(got, "1 ") {
				t.Errorf("%v to %s, MTU %d: %s, want it to leave", kind.tunnel, server, least, got)
			}
			r.pipe.hops.Lookup(&to).MTU = uint16(least - 1)
			if got := r.fate(syn(1000)); got != "small_mtu" {
				t.Errorf("%v to %s, MTU %d: %s, want small_mtu", kind.tunnel, server, least-1, got)
			}
		}
	}
}

// The source ports of GUE are of the pipeline's secret: the same in each run
// with the same one, and after any change of services.
func TestTunnelSourcePorts(t *testing.T) {
	ports := func(random uint64) (all []uint16) {
		r := newRig(t, options{}, tunnelled(vip, "10.0.2.11", lb.Tunnel{Type: lb.GUE, Port: 6080}))
		r.pipe = New(Config{Conns: r.conns, Templates: r.templates, Steering: r.pipe.steering, Roles: r.pipe.roles, Random: random})
		r.pipe.Routes(pathtest.Routes(t))
		r.pipe.Adopt(r.director.Current(), r.now)
		for port := uint16(1000); port < 1100; port++ {
			r.process(syn(port))
			all = append(all, r.batch.Pkts[0].Info.SrcPort)
		}
		r.edit(func(s *lb.Spec) { s.Services = append(s.Services, natService()); s.Services[1].Key.Port = 81 })
		r.process(in(fromClient().IP4(client, vip).TCP(1000, 80, ackFlag).TTL(9)))
		if got := r.batch.Pkts[0].Info.SrcPort; got != all[0] {
			t.Errorf("after a change of services a flow's port goes from %d to %d", all[0], got)
		}
		return all
	}
	first, again, other := ports(1), ports(1), ports(2)
	if !slices.Equal(first, again) {
		t.Error("two runs with one secret give other ports")
	}
	same := 0
	for i := range first {
		if first[i] == other[i] {
			same++
		}
	}
	if same > 5 {
		t.Errorf("another secret leaves %d of %d flows their port", same, len(first))
	}
}

// Changes of pmtu_disc and of the kind of tunnel reach connections that are
// already there.
func TestTunnelChanges(t *testing.T) {
	r := newRig(t, options{}, tunnelled(vip, "10.0.2.11", lb.Tunnel{}))
	ack := in(fromClient().IP4(client, vip).DF().TCP(1000, 80, ackFlag))
	r.process(syn(1000))
	for _, step := range []struct {
		stake string
		edit  func(*lb.Spec)
		want  string
	}{
		{"as it was", func(*lb.Spec) {}, "id=0x0000 DF 10.0.2.1 > 10.0.2.11 tunnel=4"},
		{"pmtu_disc 0", func(s *lb.Spec) { s.Sysctl.PMTUDisc = 0 }, "10.0.2.1 > 10.0.2.11 tunnel=4"},
		{"GRE", func(s *lb.Spec) { s.Services[0].Servers[0].Tunnel.Type = lb.GRE }, "proto=47"},
	} {
		r.edit(step.edit)
		got := r.fate(ack)
		outer, _, _ := strings.Cut(got, "{")
		if !strings.Contains(outer, step.want) || strings.Contains(outer, " DF ") != (step.stake == "as it was") {
			t.Errorf("%s: %s, want %s", step.stake, got, step.want)
		}
	}
}

func TestTunnelsAllocateNothing(t *testing.T) {
	for _, kind := range tunnelKinds {
		r := newRig(t, options{}, tunnelled(vip, "10.0.2.11", kind.tunnel), tunnelled(vip6, "10.0.2.11", kind.tunnel))
		frames := []arrival{syn(1000), in(fromClient().IP6(client6, vip6).TCP(1000, 80, synFlag))}
		if n := testing.AllocsPerRun(100, func() {
			r.fill(frames...)
			r.pipe.Process(&r.batch, r.now)
		}); n != 0 {
			t.Errorf("%v: Process allocates %v times a batch, want 0", kind.tunnel, n)
		}
		if r.pipe.Counters[Forward] == 0 {
			t.Errorf("%v: nothing was forwarded", kind.tunnel)
		}
	}
}
