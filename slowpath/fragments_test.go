package slowpath

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/slowpath/frag"
)

// gatherer is a stage whose worker is the test: it gets the datagrams.
type gatherer struct {
	*stage
	lent []*Datagram
	to   []uint16 // workers that they were for
}

func setGatherer(t *testing.T, l Limits) *gatherer {
	t.Helper()
	g := &gatherer{stage: set(t, l)}
	g.table = table(t, 1, client+" 0", client6+" 0", server+" 1", "fd00:1::200 0")
	g.cfg.Deliver = func(worker uint16, d *Datagram) { g.lent, g.to = append(g.lent, d), append(g.to, worker) }
	return g
}

var body = func() []byte {
	b := make([]byte, 70_000)
	for i := range b {
		b[i] = byte(i ^ i>>8)
	}
	return b
}()

// request is a datagram of 2008 bytes of payload to the virtual service, reply one of the server's.
func request() packettest.Packet {
	return packettest.Eth(nicMAC, clientMAC).IP4(client, vip).ID(77).UDP(1000, 53).Payload(body[:2000])
}

func request6() packettest.Packet {
	return packettest.Eth(nicMAC, clientMAC).IP6(client6, vip6).UDP(1000, 53).Payload(body[:2000])
}

func reply() packettest.Packet {
	return packettest.Eth("02:00:00:00:00:02", "02:00:00:00:02:0b").IP4(server, client).ID(77).UDP(5353, 1000).Payload(body[:2000])
}

// give hands over a packet's fragments, as a worker does, in this order of them.
func (g *gatherer) give(m Meta, p packettest.Packet, at []int, order ...int) {
	m.Kind = Fragment
	parts := p.Parts(77, at...)
	if len(order) == 0 {
		for i := range parts {
			order = append(order, i)
		}
	}
	for _, i := range order {
		g.Handle(&m, parts[i].Bytes())
	}
}

// toVIP says that a packet is to the virtual service.
func toVIP(v string) Meta { return Meta{Virtual: addr(v), Worker: 1} }

// last returns the datagram that was lent last.
func (g *gatherer) last(t *testing.T) *Datagram {
	t.Helper()
	if len(g.lent) == 0 {
		t.Fatal("no datagram was complete")
	}
	return g.lent[len(g.lent)-1]
}

// TestGather: what is put together goes to the worker that the last fragment came from,
// and comes back with what is to become of it.
func TestGather(t *testing.T) {
	g := setGatherer(t, Limits{})
	m := toVIP(vip)
	m.Iface = 1
	g.give(m, request(), []int{600, 1600}, 2, 0, 1)
	d := g.last(t)
	if !bytes.Equal(d.frame(), request().Bytes()) {
		t.Errorf("put together: %s", packettest.Describe(d.frame()))
	}
	if d.Parts != 3 || d.Largest != 1020 || d.Iface != 1 || d.Handed || g.to[0] != 1 {
		t.Errorf("%d parts, the largest of %d, by interface %d, handed %t, to worker %d", d.Parts, d.Largest, d.Iface, d.Handed, g.to[0])
	}
	g.check(t, "while a worker has it", nil, "fragment gathered 3")

	d.Kind, d.Owner = Elsewhere, 4
	g.takeBack(d)
	if again := g.last(t); again != d || g.to[1] != 4 || !d.Handed {
		t.Errorf("of another worker's connection: lent to %d, handed %t", g.to[1], d.Handed)
	}
	g.check(t, "of another worker's connection", nil, "fragment gathered 3")

	d.Owner, d.Worker = 4, 4
	g.takeBack(d)
	if again := g.last(t); again != d || g.to[2] != 4 || !slices.Equal(g.learnt, []string{"forget"}) {
		t.Errorf("of the same worker's: lent to %d after %q", g.to[2], g.learnt)
	}

	d.Kind = Nothing
	g.takeBack(d)
	g.check(t, "dropped, which its worker counts", nil, "fragment gathered 3")

	g.give(m, request(), []int{1000})
	d = g.last(t)
	d.Meta = Meta{Kind: PortUnreachable, Virtual: addr(vip)}
	g.takeBack(d)
	g.check(t, "answered: the datagram is quoted [frag-no-server]", []string{
		"eth0: 02:00:00:00:00:01 > 02:00:00:00:01:0a IP ttl=64 id=0x0001 tos=0xc0 10.0.1.100 > 10.0.1.10 ICMP(1) type=3 code=3 rest=0x00000000 csum=ok " +
			"quoting {IP ttl=64 id=0x004d 10.0.1.10:1000 > 10.0.1.100:53 UDP len=520}",
	}, "port_unreachable answered 1, fragment gathered 5, error sent 1")
	if len(g.frags.free) != datagrams {
		t.Errorf("%d of %d datagrams are free", len(g.frags.free), datagrams)
	}
}

// TestPassedFragments: the host gets what came, and in that order; of what a worker
// translated, fragments.
func TestPassedFragments(t *testing.T) {
	g := setGatherer(t, Limits{})
	g.give(toVIP(vip), request(), []int{600, 1600}, 1, 2, 0)
	d := g.last(t)
	d.Kind = Host
	g.takeBack(d)
	parts := request().Parts(77, 600, 1600)
	want := []string{"0: " + packettest.Describe(parts[1].Bytes()), "0: " + packettest.Describe(parts[2].Bytes()), "0: " + packettest.Describe(parts[0].Bytes())}
	if !slices.Equal(g.host, want) {
		t.Errorf("the host got\n%s\nwant\n%s", strings.Join(g.host, "\n"), strings.Join(want, "\n"))
	}
	g.check(t, "three fragments passed", nil, "host passed 3, fragment gathered 3")

	translated := func() *Datagram {
		g.give(toVIP(vip), request(), []int{600, 1600})
		d := g.last(t)
		var in packet.Info
		packet.Parse(d.frame(), &in)
		to := addr("10.0.2.1")
		rewrite.NATIn(&d.Frame, &in, &to, 5353)
		d.Kind = Host
		return d
	}
	g.host = nil
	g.takeBack(translated())
	if got := strings.Join(g.host, " "); len(g.host) != 3 || !strings.Contains(got, "10.0.1.10:1000 > 10.0.2.1:5353") || strings.Contains(got, vip) {
		t.Errorf("of a translated datagram the host got\n%s", strings.Join(g.host, "\n"))
	}
	g.check(t, "and three more", nil, "host passed 6, fragment gathered 6")

	g.broken = true
	g.takeBack(translated())
	g.give(toVIP(vip), request(), []int{600, 1600})
	d = g.last(t)
	d.Kind = Host
	g.takeBack(d)
	g.check(t, "the host takes none", nil, "host passed 6, host host_refused 6, fragment gathered 12")
}

// TestSplit: how a datagram leaves is Linux's, row by row.
func TestSplit(t *testing.T) {
	tunnel := func(to, from string, pmtu bool) func(*Datagram) {
		return func(d *Datagram) {
			var in packet.Info
			packet.Parse(d.frame(), &in)
			e := tunnelTo(to, pmtu)
			src := addr(from)
			e.Wrap(&d.Frame, &in, &src, 9)
			rewrite.Link(&d.Frame, &in, &nexthop.Hop{})
			d.Inner = e.Overhead
		}
	}
	nothing := func(*Datagram) {}
	for _, row := range []struct {
		stake string
		p     packettest.Packet
		at    []int
		meta  Meta // MTU, Silent: a reply
		how   func(*Datagram)
		want  string // offset and length of each fragment
		has   string // in each
	}{
		{"a request: cut anew, to the largest received [frag-sizes]", request(), []int{600, 1600}, Meta{MTU: 1500}, nothing, "0+1000 1000+1000 2000.8", ""},
		{"a reply: as it came [frag-sizes]", reply(), []int{600, 1600}, Meta{MTU: 1500, Silent: true}, nothing, "0+600 600+1000 1600.408", ""},
		{"IPv6: as it came [v6-frag-sizes]", request6(), []int{600, 1600}, Meta{MTU: 1500}, nothing, "0+600 600+1000 1600.408", ""},
		{"to the MTU, if that is less [frag-mtu]", request(), []int{1000}, Meta{MTU: 800}, nothing, "0+776 776+776 1552.456", ""},
		{"a reply, too [frag-mtu]", reply(), []int{600, 1208}, Meta{MTU: 800, Silent: true}, nothing, "0+776 776+776 1552.456", ""},
		{"DF stays [frag-df]", request().DF().Payload(body[:1000]), []int{600}, Meta{MTU: 1500}, nothing, "0+600 600.408", " DF"},
		{"all of it behind a fragment header: that goes [v6-frag-atomic]", request6().Payload(body[:100]), nil, Meta{MTU: 1500}, nothing, "whole", ""},
		{"4 in 4: the outer packet [tun-frag]", request(), []int{600, 1600}, Meta{MTU: 1500}, tunnel(server, "10.0.2.1", true), "0+1000 1000+1000 2000.28", "10.0.2.1 > 10.0.2.11"},
		{"4 in 6: only the MTU counts [frag-tun6]", request(), []int{600}, Meta{MTU: 1500}, tunnel("fd00:1::200", "fd00:1::1", true), "0+1448 1448.580", "fd00:1::1 > fd00:1::200"},
		{"6 in 4: as it came, the first longer [v6-frag-tun4]", request6(), []int{1232}, Meta{MTU: 1500}, tunnel(server, "10.0.2.1", true), "0+1272 1272.776", "10.0.2.1 > 10.0.2.11"},
		{"6 in 4, fits: whole [v6-frag-tun4]", request6().Payload(body[:1400]), []int{600}, Meta{MTU: 1500}, tunnel(server, "10.0.2.1", true), "whole", ""},
		{"6 in 6: not longer than received, though it would fit [v6-frag-tun]", request6().Payload(body[:1400]), []int{600}, Meta{MTU: 1500}, tunnel("fd00:1::200", "fd00:1::1", true), "0+640 640.808", ""},
		{"6 in 6: the first would be longer [v6-frag-tun]", request6(), []int{1232}, Meta{MTU: 1500}, tunnel("fd00:1::200", "fd00:1::1", true), "0+1232 1232.816", ""},
		{"pmtu_disc 0: DF of the fragments [frag-tun-nopmtu]", request().DF(), []int{600}, Meta{MTU: 1500}, tunnel(server, "10.0.2.1", false), "0+1408 1408.620", " DF"},
	} {
		g := setGatherer(t, Limits{})
		if row.at == nil {
			g.Handle(&Meta{Kind: Fragment}, row.p.Fragment(0, false, 77).Bytes())
		} else {
			g.give(toVIP(vip), row.p, row.at)
		}
		d := g.last(t)
		row.meta.Target, row.meta.Kind = addr(server), Oversize
		if row.p.Datagram()[0]>>4 == 6 {
			row.meta.Target = addr("fd00:1::200")
		}
		d.Meta = row.meta
		row.how(d)
		g.takeBack(d)
		if got := cuts(g.frames); got != row.want {
			t.Errorf("%s: %s, want %s", row.stake, got, row.want)
		}
		for _, f := range g.sent {
			if !strings.Contains(f, row.has) {
				t.Errorf("%s: %s", row.stake, f)
			}
		}
		n := max(len(row.at)+1, 1)
		if got, want := g.ends(), fmt.Sprintf("fragment gathered %d, oversize transmitted %d", n, n); got != want {
			t.Errorf("%s: counted %s, want %s", row.stake, got, want)
		}
	}
}

// cuts says where the fragments of a datagram begin, and how long they are.
func cuts(frames [][]byte) string {
	var out []string
	for _, f := range frames {
		var in packet.Info
		if packet.Parse(f, &in) != packet.Fragment {
			out = append(out, "whole")
			continue
		}
		ip := packet.IPv4(f[in.L3:])
		off, more, end := ip.FragOffset(), ip.MoreFragments(), int(in.End)-int(in.L4)
		if in.Family == 6 {
			h := packet.IPv6Fragment(f[in.Frag:])
			off, more, end = h.Offset(), h.More(), int(in.End)-int(in.Frag)-8
		}
		sep := "."
		if more {
			sep = "+"
		}
		out = append(out, fmt.Sprintf("%d%s%d", off, sep, end))
	}
	return strings.Join(out, " ")
}

// TestSplitFrame: a packet that came whole and is larger than its way's MTU.
func TestSplitFrame(t *testing.T) {
	g := setGatherer(t, Limits{})
	frame := packettest.Eth("02:00:00:00:02:0b", "02:00:00:00:00:02").IP4(client, server).TTL(63).ID(7).TCP(1000, 80, packettest.ACK).Payload(body[:1400]).Bytes()
	m := Meta{Kind: Oversize, Target: addr(server), MTU: 1300, Virtual: addr(vip), VirtualPort: 80}
	g.Handle(&m, bytes.Clone(frame))
	if got := cuts(g.frames); got != "0+1280 1280.140" || g.outs[0].Iface != 1 {
		t.Errorf("cut to %s, by interface %d", got, g.outs[0].Iface)
	}
	g.check(t, "nat-mtu", g.sent, "oversize transmitted 1")

	g.full = true
	g.Handle(&m, bytes.Clone(frame))
	g.full = false
	m.MTU = 27
	g.Handle(&m, bytes.Clone(frame))
	m.MTU, m.Target = 1300, addr("10.3.3.3")
	g.Handle(&m, bytes.Clone(frame))
	g.check(t, "the worker's inbox is full, no room for payload, no route by now", nil, "oversize transmitted 1, oversize split_lost 3")

	// The next hop is not known: the fragments wait, and stand for one packet.
	g.frames = nil
	m.Target = addr("10.0.2.12")
	g.Handle(&m, bytes.Clone(frame))
	g.check(t, "they wait", nil, "oversize transmitted 1, oversize split_lost 3, held 2+0")
	g.table = table(t, 2, client+" 0", "10.0.2.12 1")
	g.TableChanged()
	if got := cuts(g.frames); got != "0+1280 1280.140" {
		t.Errorf("after the wait: %s", got)
	}
	g.check(t, "and go", g.sent, "oversize transmitted 2, oversize split_lost 3")
	g.table = table(t, 3, client+" 0")
	g.Handle(&m, bytes.Clone(frame))
	g.pass(3 * time.Second)
	g.check(t, "or fail: the first is answered, as the client sent it", []string{
		"eth0: 02:00:00:00:00:01 > 02:00:00:00:01:0a IP ttl=64 id=0x0001 tos=0xc0 10.0.1.100 > 10.0.1.10 ICMP(1) type=3 code=1 rest=0x00000000 csum=ok " +
			"quoting {IP ttl=63 id=0x0007 frag=0 more=true 10.0.1.10:1000 > 10.0.1.100:80 TCP [A] len=508}",
	}, "oversize transmitted 2, oversize neighbour_failed 1, oversize split_lost 3, error sent 1, error not_answerable 1")
	m.MTU = 27
	g.Handle(&m, bytes.Clone(frame))
	g.check(t, "nothing to wait for", nil, "oversize transmitted 2, oversize neighbour_failed 1, oversize split_lost 4, error sent 1, error not_answerable 1")
}

// TestSplitWaits: the fragments of a datagram that came in fragments stand for those.
func TestSplitWaits(t *testing.T) {
	g := setGatherer(t, Limits{})
	g.give(toVIP(vip), request(), []int{600, 1600})
	d := g.last(t)
	d.Meta = Meta{Kind: Oversize, Target: addr("10.0.2.12"), MTU: 500}
	g.takeBack(d)
	g.check(t, "five of three wait", nil, "fragment gathered 3, held 5+0")
	g.table = table(t, 2, "10.0.2.12 1")
	g.TableChanged()
	g.check(t, "and count as three", g.sent, "fragment gathered 3, oversize transmitted 3")

	g.table = table(t, 3, client+" 0")
	g.give(toVIP(vip), request(), []int{600, 1600})
	d = g.last(t)
	outer := tunnelTo("10.0.2.12", true)
	var in packet.Info
	packet.Parse(d.frame(), &in)
	src := addr("10.0.2.1")
	outer.Wrap(&d.Frame, &in, &src, 1)
	rewrite.Link(&d.Frame, &in, &nexthop.Hop{})
	d.Meta = Meta{Kind: Oversize, Target: addr("10.0.2.12"), MTU: 1500, Inner: outer.Overhead}
	g.takeBack(d)
	g.pass(3 * time.Second)
	g.check(t, "in a tunnel: what the client sent is quoted, and of later fragments nothing", []string{
		"eth0: 02:00:00:00:00:01 > 02:00:00:00:01:0a IP ttl=64 id=0x0001 tos=0xc0 10.0.1.1 > 10.0.1.10 ICMP(1) type=3 code=1 rest=0x00000000 csum=ok " +
			"quoting {IP ttl=63 id=0x004d 10.0.1.10:1000 > 10.0.1.100:53 UDP len=520}",
	}, "fragment gathered 6, oversize transmitted 3, oversize neighbour_failed 3, error sent 1, error not_answerable 2")
}

// TestLongEcho: echo requests that came in fragments are answered in fragments, as long as the way
// back takes them. They are one answer.
func TestLongEcho(t *testing.T) {
	ping := packettest.Eth(nicMAC, clientMAC).IP4(client, vip).ICMP4(8, 0, 7).Payload(body[:3000])
	ping6 := packettest.Eth(nicMAC, clientMAC).IP6(client6, vip6).ICMP6(128, 0, 7).Payload(body[:3000])
	for _, row := range []struct {
		stake string
		p     packettest.Packet
		want  string
		first string
	}{
		{
			"IPv4", ping, "0+1480 1480+1480 2960.48",
			"eth0: 02:00:00:00:00:01 > 02:00:00:00:01:0a IP ttl=64 id=0x0001 frag=0 more=true 10.0.1.100 > 10.0.1.10 ICMP(1) type=0 code=0 rest=0x00000007",
		},
		{"IPv6", ping6, "0+1448 1448+1448 2896.112", ""},
	} {
		g := setGatherer(t, Limits{})
		answer := func() {
			g.give(toVIP(vip), row.p, []int{1000, 2000})
			d := g.last(t)
			d.Meta = Meta{Kind: Echo, Virtual: addr(vip)}
			g.takeBack(d)
		}
		answer()
		if got := cuts(g.frames); got != row.want || row.first != "" && g.sent[0] != row.first {
			t.Errorf("%s: cut to %s, the first %s", row.stake, got, g.sent[0])
		}
		var got []byte
		for _, f := range g.frames {
			var in packet.Info
			packet.Parse(f, &in)
			at := int(in.L4)
			if in.Family == 6 {
				at = int(in.Frag) + 8
			}
			got = append(got, f[at:]...)
		}
		if !bytes.Equal(got[8:], body[:3000]) {
			t.Errorf("%s: other data comes back", row.stake)
		}
		g.check(t, row.stake, g.sent, "echo answered 1, fragment gathered 3, error sent 1")

		known := g.table
		g.table = table(t, 2)
		answer()
		g.check(t, row.stake+": it waits", nil, "echo answered 2, fragment gathered 6, error sent 1, held 0+3")
		g.table, g.frames = known, nil
		g.TableChanged()
		if got := cuts(g.frames); got != row.want {
			t.Errorf("%s, after the wait: cut to %s", row.stake, got)
		}
		g.check(t, row.stake+": and goes", g.sent, "echo answered 2, fragment gathered 6, error sent 2")

		g.full = true
		answer()
		g.full = false
		g.check(t, row.stake+": refused", nil, "echo answered 2, echo unanswered 1, fragment gathered 9, error sent 2, error lost 1")
	}
}

// TestLongTunnelError: an error about a tunnel's packet may come in fragments.
func TestLongTunnelError(t *testing.T) {
	g := setGatherer(t, Limits{})
	e := tunnelTo(server, true)
	f := rewrite.Frame{Chunk: make([]byte, 4096), Off: 256}
	f.Len = uint32(copy(f.Chunk[256:], fromClient().DF().UDP(1000, 53).Payload(body[:1000]).Bytes()))
	var in packet.Info
	packet.Parse(f.Chunk[256:][:f.Len], &in)
	src := addr("10.0.2.1")
	e.Wrap(&f, &in, &src, 9)
	rewrite.Link(&f, &in, &nexthop.Hop{})
	quote := f.Chunk[f.Off+packet.EthernetLen:][:f.Len-packet.EthernetLen]
	g.give(Meta{}, packettest.Eth("02:00:00:00:00:02", "02:00:00:00:02:0b").IP4("10.0.2.99", "10.0.2.1").ICMP4(3, 1, 0).Payload(quote), []int{600})
	d := g.last(t)
	d.Meta = Meta{Kind: TunnelError, Inner: 20 + 8 + 20}
	g.takeBack(d)
	if len(g.sent) != 1 || !strings.Contains(g.sent[0], "> 10.0.1.10 ICMP(1) type=3 code=1") {
		t.Errorf("sent %q", g.sent)
	}
	g.check(t, "relayed", g.sent, "tunnel_error answered 1, fragment gathered 2, error sent 1")
}

// TestFragmentsExpire: the sender is told what became of its datagram, if its first
// fragment was there [frag-incomplete, frag-timeout, v6-frag-timeout].
func TestFragmentsExpire(t *testing.T) {
	const (
		front   = "eth0: 02:00:00:00:00:01 > 02:00:00:00:01:0a IP ttl=64 id=0x0001 tos=0xc0 "
		front6  = "eth0: 02:00:00:00:00:01 > 02:00:00:00:01:10 IP6 hlim=64 "
		servers = "eth1: 02:00:00:00:00:02 > 02:00:00:00:02:0b IP ttl=64 id=0x0001 tos=0xc0 "
	)
	own := Meta{Own: true}
	icmp := packettest.Eth(nicMAC, clientMAC).IP4(client, vip).ICMP4(3, 3, 0).Quote(request(), 1000)
	for _, row := range []struct {
		stake string
		m     Meta
		p     packettest.Packet
		part  int
		after time.Duration
		want  string
		ends  string
	}{
		{
			"a request: from the virtual service", toVIP(vip), request(), 0, 30 * time.Second,
			front + "10.0.1.100 > 10.0.1.10 ICMP(1) type=11 code=1 rest=0x00000000 csum=ok quoting {IP ttl=64 id=0x004d frag=0 more=true 10.0.1.10:1000 > 10.0.1.100:53 UDP len=520}", "error sent 1",
		},
		{
			"a reply: from the director, one hop further",
			Meta{},
			reply(), 0, 30 * time.Second,
			servers + "10.0.2.1 > 10.0.2.11 ICMP(1) type=11 code=1 rest=0x00000000 csum=ok quoting {IP ttl=63 id=0x004d frag=0 more=true 10.0.2.11:5353 > 10.0.1.10:1000 UDP len=520}", "error sent 1",
		},
		{
			"IPv6, after a minute", toVIP(vip6), request6(), 0, time.Minute,
			front6 + "fd00:1::100 > fd00:1::10 ICMP(58) type=3 code=1 rest=0x00000000 csum=ok quoting {IP6 hlim=64 frag=0 more=true id=0x4d ext=44 [fd00:1::10]:1000 > [fd00:1::100]:53 UDP len=592}", "error sent 1",
		},
		{"not without the first", toVIP(vip), request(), 1, 30 * time.Second, "", ""},
		{"not about the host's own", own, reply(), 0, 30 * time.Second, "", "error not_answerable 1"},
		{"nor about ICMP errors", toVIP(vip), icmp, 0, 30 * time.Second, "", "error not_answerable 1"},
	} {
		g := setGatherer(t, Limits{})
		g.give(row.m, row.p, []int{600}, row.part)
		due, ok := g.NextDue()
		if want := int64(time.Second + row.after); !ok || due != want {
			t.Errorf("%s: due at %d %t, want %d", row.stake, due, ok, want)
		}
		g.pass(row.after - 1)
		g.check(t, row.stake+", before", nil, "")
		g.pass(1)
		var sent []string
		if row.want != "" {
			sent = []string{row.want}
		}
		g.check(t, row.stake, sent, strings.TrimSuffix("fragment fragment_expired 1, "+row.ends, ", "))
		if row.want != "" && !g.outs[0].Timer {
			t.Errorf("%s: not a timer's", row.stake)
		}
	}
}

// TestReasonsAreCounted: each by its own name.
func TestReasonsAreCounted(t *testing.T) {
	g := setGatherer(t, Limits{Fragments: frag.Limits{Memory: 256 << 10}})
	g.give(toVIP(vip), request(), []int{600, 1600}, 0, 0, 1)
	overlapping := request().Parts(77, 592, 1608)[1]
	g.Handle(&Meta{Kind: Fragment}, overlapping.Bytes())
	g.Handle(&Meta{Kind: Fragment}, request().Proto(packet.ProtoTCP).Payload(body[:100]).Fragment(8, true, 1).Bytes())
	g.Handle(&Meta{Kind: Fragment}, request().Proto(17).Payload(nil).Fragment(800, true, 2).Bytes())
	g.Handle(&Meta{Kind: Fragment}, request().Bytes())
	g.check(t, "reasons", nil, "fragment fragment_malformed 2, fragment fragment_tiny 1, fragment fragment_overlap 3, fragment fragment_duplicate 1")
	for i := range uint32(1000) {
		g.Handle(&Meta{Kind: Fragment}, request().Parts(100+i, 600)[0].Bytes())
	}
	c := g.Counters().Packets[Fragment]
	if waiting := g.frags.waiting.Waiting(); c[FragmentCrowded] == 0 || int(c[FragmentCrowded])+waiting != 1000 {
		t.Errorf("of 1000 fragments %d wait and %d had to go", waiting, c[FragmentCrowded])
	}
}

// TestAllLent: while all memory for datagrams is with workers, fragments wait in
// the ring, and the slow path rests.
func TestAllLent(t *testing.T) {
	g := setGatherer(t, Limits{})
	budgets := roomy()
	budgets[Fragments].Ring = 256
	in := NewIntake(budgets, 2048)
	g.cfg.Deliver = func(_ uint16, d *Datagram) { in.Lend(d) }
	for i := range uint32(datagrams + 1) {
		for _, p := range request().Parts(i, 1000) {
			if !give(in, Meta{Kind: Fragment, Virtual: addr(vip)}, p.Bytes(), 0) {
				t.Fatal("refused")
			}
		}
	}
	for g.Take(in, 9) {
	}
	if n := in.Lent(); n != datagrams || !g.Idle(in) {
		t.Fatalf("%d datagrams are lent, idle %t", n, g.Idle(in))
	}
	d := in.Borrow()
	d.Kind = Nothing
	in.GiveBack(d)
	if g.Idle(in) {
		t.Error("idle though memory came back")
	}
	for g.Take(in, 9) {
	}
	if n := in.Lent(); n != datagrams {
		t.Errorf("%d datagrams are lent after one came back, want %d", n, datagrams)
	}
	for d := in.Borrow(); d != nil; d = in.Borrow() {
		d.Kind = Nothing
		in.GiveBack(d)
	}
	for g.Take(in, 9) {
	}
	if n := len(g.frags.free); n != datagrams || g.frags.waiting.Waiting() != 0 {
		t.Errorf("%d of %d datagrams came back, %d fragments wait", n, datagrams, g.frags.waiting.Waiting())
	}
}

// TestFragmentsAllocateNothing: neither those that are put together and sent on, nor those that
// are not.
func TestFragmentsAllocateNothing(t *testing.T) {
	g := setGatherer(t, Limits{Fragments: frag.Limits{Memory: 256 << 10}})
	g.cfg.Emit = func(*Out, []byte) bool { return true }
	g.cfg.Answered = func(uint16, []byte) {}
	in := NewIntake(roomy(), 2048)
	g.cfg.Deliver = func(_ uint16, d *Datagram) { in.Lend(d) }
	whole := [][]byte{request().Parts(1, 600)[0].Bytes(), request().Parts(1, 600)[1].Bytes()}
	m := toVIP(vip)
	m.Kind = Fragment
	target := addr(server)
	id := uint16(0)
	if n := testing.AllocsPerRun(200, func() {
		for _, f := range whole {
			g.Handle(&m, f)
		}
		d := in.Borrow()
		d.Meta = Meta{Kind: Oversize, Target: target, MTU: 700}
		in.GiveBack(d)
		g.Take(in, 1)
		for range 20 {
			id++
			rewriteIdent(whole[0], id)
			g.Handle(&m, whole[0])
		}
		rewriteIdent(whole[0], 1)
		g.pass(40 * time.Second)
	}); n != 0 {
		t.Errorf("%v allocations a round, want 0", n)
	}
}

// rewriteIdent gives an IPv4 frame another ident, from 1000 on.
func rewriteIdent(frame []byte, id uint16) {
	if id != 1 {
		id += 1000
	}
	h := packet.IPv4(frame[14:34])
	h[4], h[5] = byte(id>>8), byte(id)
	h.SetChecksum(0)
	h.SetChecksum(packettest.Checksum(h))
}

// tunnelTo is an IP in IP tunnel to a server.
func tunnelTo(to string, pmtu bool) rewrite.Encap {
	a := addr(to)
	return rewrite.NewEncap(&lb.Real{Addr: a, V6: !a.Is4()}, pmtu, flow.Seed{})
}
