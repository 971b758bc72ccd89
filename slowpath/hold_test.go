package slowpath

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
)

// The frames here are as the fast path hands them over: on their way out of eth1, rewritten,
// but for the destination's MAC address.
func held(dst string, sport uint16) packettest.Packet {
	return packettest.Eth("00:00:00:00:00:00", "02:00:00:00:00:02").IP4(client, dst).TTL(63).ID(0x1000).DF().TCP(sport, 80, packettest.SYN)
}

// wait hands over a frame that waits for the way to target.
func (s *stage) wait(target string, frame packettest.Packet) {
	s.Handle(&Meta{Kind: NoNeighbour, Target: addr(target)}, frame.Bytes())
}

func (s *stage) pass(d time.Duration) { s.Tick(s.clock.Advance(d)) }

// to returns the words of a frame of held that eth1 sends to a neighbour's MAC.
func to(neighbour, dst string, sport uint16) string {
	return fmt.Sprintf("eth1: 02:00:00:00:00:02 > %s IP ttl=63 id=0x1000 DF 10.0.1.10:%d > %s:80 TCP [S] len=0 csum=ok", neighbour, sport, dst)
}

func TestHeldUntilResolved(t *testing.T) {
	s := set(t, Limits{})
	s.wait(server, held(server, 1))
	s.wait(server, held(server, 2))
	s.wait("10.9.9.9", held("10.9.9.9", 3)) // by the gateway 10.0.2.254
	s.check(t, "nothing leaves before", nil, "held 3+0")
	if want := []string{"10.0.2.11 1", "10.0.2.254 1"}; !slices.Equal(s.asked, want) {
		t.Errorf("asked for %q, want each next hop once: %q", s.asked, want)
	}
	s.table = table(t, 2, client+" 0", "10.0.2.254 1")
	s.TableChanged()
	s.check(t, "only what the gateway takes leaves", []string{to("02:00:00:00:02:fe", "10.9.9.9", 3)}, "no_neighbour transmitted 1, held 2+0")

	s.table = table(t, 3, server+" 1")
	s.TableChanged()
	s.check(t, "the rest leaves in its order", []string{to("02:00:00:00:02:0b", server, 1), to("02:00:00:00:02:0b", server, 2)}, "no_neighbour transmitted 3")
	if due, ok := s.NextDue(); ok {
		t.Errorf("still due at %d although nothing waits", due)
	}

	s.wait(server, held(server, 4))
	s.check(t, "a worker with an older table: nothing to wait for", []string{to("02:00:00:00:02:0b", server, 4)}, "no_neighbour transmitted 4")
}

func TestHeldDirect(t *testing.T) {
	// A DR packet still has the VIP as its destination, so its way cannot be
	// read from it; and it goes to the server itself though a route names a gateway.
	s := set(t, Limits{})
	m := Meta{Kind: NoNeighbour, Target: addr("10.0.2.200"), Worker: 2}
	s.Handle(&m, held(vip, 9).Bytes())
	m.Direct = true
	s.Handle(&m, held(vip, 1).Bytes())
	if want := []string{"10.0.2.254 1", "10.0.2.200 1"}; !slices.Equal(s.asked, want) {
		t.Errorf("asked for %q, want the gateway for the first packet only: %q", s.asked, want)
	}
	s.table = table(t, 2, "10.0.2.200 1")
	s.TableChanged()
	s.check(t, "to the server's MAC", []string{to("02:00:00:00:02:c8", vip, 1)}, "no_neighbour transmitted 1, held 1+0")
	if want := []Out{{Worker: 2, Iface: 1}}; !slices.Equal(s.outs, want) {
		t.Errorf("sent with %+v, want %+v", s.outs, want)
	}
}

func TestHeldAcrossARouteThatMoved(t *testing.T) {
	// Tags of the old way come off.
	s := set(t, Limits{})
	frame := packettest.Eth("00:00:00:00:00:00", "02:00:00:00:00:02").VLAN(7).IP4(client, server).TTL(63).ID(0x1000).DF().TCP(1, 80, packettest.SYN)
	s.wait(server, frame)
	s.table = table(t, 2, server+" 1")
	s.TableChanged()
	s.check(t, "the new way has no tag", []string{to("02:00:00:00:02:0b", server, 1)}, "no_neighbour transmitted 1")
}

// Packets of a route with several next hops wait for the one that their flow has,
// and are not lost when that is left out.
func TestHeldOfSeveral(t *testing.T) {
	several := func(version uint64, failed bool, known ...string) *nexthop.Table {
		var b nexthop.Builder
		b.AddInterface(nexthop.Interface{Name: "eth0", Port: 0, MAC: mac(0, 1), MTU: 1500, Up: true, Addrs: prefixes("10.0.1.1/24")})
		b.AddInterface(nexthop.Interface{Name: "eth1", Port: 1, MAC: mac(0, 2), MTU: 1500, Up: true, Addrs: prefixes("10.0.2.1/24")})
		for _, k := range known {
			if err := b.AddNeighbor(netip.MustParseAddr(k), mac(2, 0xfe), 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.AddWays(prefixes("10.9.0.0/16")[0], []nexthop.Way{
			{Via: netip.MustParseAddr("10.0.2.253"), Iface: 1, Failed: failed}, {Via: netip.MustParseAddr("10.0.2.254"), Iface: 1},
		}, netip.Addr{}, 0); err != nil {
			t.Fatal(err)
		}
		return b.Build(version)
	}
	s := set(t, Limits{})
	s.table = several(2, false)
	target := addr("10.9.9.9")
	for f := range uint64(16) {
		s.Handle(&Meta{Kind: NoNeighbour, Target: target, Flow: f << 60}, held("10.9.9.9", uint16(f)).Bytes())
	}
	slices.Sort(s.asked)
	if want := []string{"10.0.2.253 1", "10.0.2.254 1"}; !slices.Equal(s.asked, want) {
		t.Errorf("asked for %q, want both gateways once: %q", s.asked, want)
	}
	s.table = several(3, true)
	s.TableChanged()
	if want := []string{"10.0.2.253 1", "10.0.2.254 1", "10.0.2.254 1"}; !slices.Equal(s.asked, want) || len(s.sent) != 0 {
		t.Errorf("asked for %q and sent %q, want the gateway that is left asked for: %q", s.asked, s.sent, want)
	}
	s.table = several(4, true, "10.0.2.254")
	s.TableChanged()
	if got := s.ends(); got != "no_neighbour transmitted 16" {
		t.Errorf("%s, want all 16 sent by the gateway that is left", got)
	}
}

func TestNeighbourFails(t *testing.T) {
	const head = "eth0: 02:00:00:00:00:01 > 02:00:00:00:01:0a IP ttl=64 id=%#04x tos=0xc0 10.0.1.1 > 10.0.1.10 ICMP(1) type=3 code=1 rest=0x00000000 csum=ok " +
		"quoting {IP ttl=63 id=0x1000 DF 10.0.1.10:%d > 10.0.1.100:80 TCP [S] len=0}"
	s := set(t, Limits{})
	drMeta := Meta{Kind: NoNeighbour, Target: addr("10.0.2.50"), Direct: true}
	s.Handle(&drMeta, held(vip, 1000).Bytes())
	s.clock.Advance(time.Second)
	s.Handle(&drMeta, held(vip, 1001).Bytes())
	if due, ok := s.NextDue(); !ok || due != 4e9 {
		t.Errorf("due at %d, %t; want 3 s after the first packet, which is at 1 s", due, ok)
	}
	s.pass(2*time.Second - 1)
	s.check(t, "not before 3 s", nil, "held 2+0")
	s.pass(1)
	s.check(t, "for every packet, from the director's address, with the TTL decremented [dr-arp]",
		[]string{fmt.Sprintf(head, 1, 1000), fmt.Sprintf(head, 2, 1001)}, "no_neighbour neighbour_failed 2, error sent 2")
	if !s.outs[0].Timer {
		t.Error("sent as if a packet had caused it, want a timer")
	}
	s.Handle(&drMeta, held(vip, 1002).Bytes())
	if want := []string{"10.0.2.50 1", "10.0.2.50 1"}; !slices.Equal(s.asked, want) {
		t.Errorf("asked for %q, want once more after the failure: %q", s.asked, want)
	}
}

func TestNeighbourFailsQuotes(t *testing.T) {
	const head = "eth0: 02:00:00:00:00:01 > 02:00:00:00:01:0a IP ttl=64 id=0x0001 tos=0xc0 10.0.1.100 > 10.0.1.10 ICMP(1) type=3 code=1 rest=0x00000000 csum=ok quoting "
	inner := packettest.Eth("00:00:00:00:00:00", "02:00:00:00:00:02").IP4(client, vip).TTL(63).ID(0x1000).DF().TCP(1000, 80, packettest.SYN)
	tunnel := packettest.Eth("00:00:00:00:00:00", "02:00:00:00:00:02").IP4("10.0.2.1", "10.0.2.50").TTL(63).DF().Encap(inner)
	in6 := packettest.Eth("00:00:00:00:00:00", "02:00:00:00:00:02").IP6(client6, "fd00:1::77").TTL(63).UDP(1000, 8080)
	for _, row := range []struct {
		stake string
		meta  Meta
		frame packettest.Packet
		sent  []string
		ends  string
	}{
		{
			"NAT: the client knows the VIP, not the server",
			Meta{Virtual: addr(vip), VirtualPort: 80},
			held("10.0.2.50", 1000),
			[]string{head + "{IP ttl=63 id=0x1000 DF 10.0.1.10:1000 > 10.0.1.100:80 TCP [S] len=0}"},
			"error sent 1",
		},
		{
			"NAT of IPv6, with a port of its own",
			Meta{Target: addr("fd00:1::77"), Virtual: addr(vip6), VirtualPort: 53},
			in6,
			[]string{"eth0: 02:00:00:00:00:01 > 02:00:00:00:01:10 IP6 hlim=64 fd00:1::100 > fd00:1::10 ICMP(58) type=1 code=3 rest=0x00000000 csum=ok " +
				"quoting {IP6 hlim=63 [fd00:1::10]:1000 > [fd00:1::100]:53 UDP len=0}"},
			"error sent 1",
		},
		{
			"TUN: the client knows no tunnel",
			Meta{Virtual: addr(vip), VirtualPort: 80, Inner: 20},
			tunnel,
			[]string{head + "{IP ttl=63 id=0x1000 DF 10.0.1.10:1000 > 10.0.1.100:80 TCP [S] len=0}"},
			"error sent 1",
		},
		{"a tunnel header longer than the packet is not read past", Meta{Inner: 500}, tunnel, nil, "error not_answerable 1"},
		{"a reply: nobody to tell", Meta{Silent: true}, held("10.0.2.50", 1000), nil, ""},
	} {
		s := set(t, Limits{})
		row.meta.Kind = NoNeighbour
		if row.meta.Target.IsZero() {
			row.meta.Target = addr("10.0.2.50")
		}
		s.Handle(&row.meta, row.frame.Bytes())
		s.pass(3 * time.Second)
		s.check(t, row.stake, row.sent, strings.TrimSuffix("no_neighbour neighbour_failed 1, "+row.ends, ", "))
	}
}

func TestAnswerWaitsForItsOwnWay(t *testing.T) {
	s := set(t, Limits{})
	s.table = table(t, 1)
	syn := fromClient().TCP(1000, 80, packettest.SYN).Bytes()
	s.Handle(&Meta{Kind: PortUnreachable, Virtual: addr(vip)}, syn)
	s.check(t, "the error waits for the client's MAC address", nil, "port_unreachable answered 1, held 0+1")
	s.table = table(t, 2, client+" 0")
	s.TableChanged()
	s.check(t, "and leaves", []string{"eth0: 02:00:00:00:00:01 > 02:00:00:00:01:0a IP ttl=64 id=0x0001 tos=0xc0 10.0.1.100 > 10.0.1.10 ICMP(1) type=3 code=3 rest=0x00000000 csum=ok " +
		"quoting {IP ttl=64 id=0x1000 DF 10.0.1.10:1000 > 10.0.1.100:80 TCP [S] len=0}"}, "port_unreachable answered 1, error sent 1")

	s.table = table(t, 3)
	s.Handle(&Meta{Kind: PortUnreachable, Virtual: addr(vip)}, syn)
	s.pass(3 * time.Second)
	s.check(t, "an error that cannot be delivered causes none", nil, "port_unreachable answered 2, error sent 1, error neighbour_failed 1")
}

func TestFailuresAnswerMayWaitForTheSameNeighbour(t *testing.T) {
	// One-arm: client and server are on eth0, both silent. The answers to the
	// failed packets wait where these did, while these are still being taken out.
	s := set(t, Limits{HoldFrames: 8, HoldEach: 2})
	s.table = table(t, 1)
	m := Meta{Kind: NoNeighbour, Target: addr(client)}
	for sport := range uint16(2) {
		s.Handle(&m, held(client, 1000+sport).Bytes())
	}
	s.pass(3 * time.Second)
	s.check(t, "the answers wait", nil, "no_neighbour neighbour_failed 2, held 0+2")
	s.pass(3 * time.Second)
	s.check(t, "and end in silence", nil, "no_neighbour neighbour_failed 2, error neighbour_failed 2")
}

func TestHoldLimits(t *testing.T) {
	for _, row := range []struct {
		stake   string
		limits  Limits
		targets []string // one packet each, source ports 0, 1, 2…
		left    []uint16 // source ports of those that are kept
	}{
		{"one next hop's share: its oldest goes", Limits{HoldEach: 2}, []string{"10.0.2.11", "10.0.2.11", "10.0.2.11", "10.0.2.12"}, []uint16{1, 2, 3}},
		{"all places: the oldest of all goes", Limits{HoldFrames: 3}, []string{"10.0.2.11", "10.0.2.12", "10.0.2.13", "10.0.2.13"}, []uint16{1, 2, 3}},
		{"a next hop without packets is no longer waited for", Limits{HoldFrames: 1}, []string{"10.0.2.11", "10.0.2.12"}, []uint16{1}},
		{"one place for each: the last packet stays", Limits{HoldEach: 1}, []string{"10.0.2.11", "10.0.2.11"}, []uint16{1}},
	} {
		s := set(t, row.limits)
		hops := map[string]bool{}
		var want []string
		for i, target := range row.targets {
			s.wait(target, held(target, uint16(i)))
			if slices.Contains(row.left, uint16(i)) {
				hops[target] = true
				want = append(want, to("02:00:00:00:02:"+fmt.Sprintf("%02x", addr(target)[15]), target, uint16(i)))
			}
		}
		if n := len(s.packets.hops); n != len(hops) || len(s.packets.find) != n {
			t.Errorf("%s: %d next hops are waited for, %d can be found, want %d", row.stake, n, len(s.packets.find), len(hops))
		}
		s.table = table(t, 2, "10.0.2.11 1", "10.0.2.12 1", "10.0.2.13 1")
		s.TableChanged()
		slices.Sort(s.sent)
		slices.Sort(want)
		s.check(t, row.stake, want, fmt.Sprintf("no_neighbour transmitted %d, no_neighbour hold_full %d", len(row.left), len(row.targets)-len(row.left)))
	}
}

// Packets and messages of our own that wait, even for the same neighbour, do not push
// each other out: whoever makes the director answer nobody would drop others' packets.
func TestHeldOfTwoKinds(t *testing.T) {
	s := set(t, Limits{HoldFrames: 8, HoldEach: 3})
	s.table = table(t, 1)
	message := func(i int) {
		frame := packettest.Eth(nicMAC, clientMAC).IP4(fmt.Sprintf("10.0.1.%d", 10+i), vip).UDP(5, 6)
		s.Handle(&Meta{Kind: TimeExceeded, Virtual: addr(vip)}, frame.Bytes())
	}
	for i := range 2 {
		s.wait("10.0.1.10", held("10.0.1.10", uint16(i)))
	}
	for i := range 50 {
		message(i)
		message(0)
	}
	if c := s.Counters(); c.Held != 2 || c.HeldErrors != 2 {
		t.Errorf("%d packets and %d messages wait, want the 2 packets of before, and 2 messages", c.Held, c.HeldErrors)
	}
	for i := range 50 {
		s.wait(fmt.Sprintf("10.0.2.%d", 50+i), held(server, 1))
	}
	if c := s.Counters(); c.Held != 8 || c.HeldErrors != 2 {
		t.Errorf("%d packets and %d messages wait, want 8, and the 2 messages", c.Held, c.HeldErrors)
	}
	if due, ok := s.NextDue(); !ok || due != 4e9 {
		t.Errorf("due at %d, want 3 s after the beginning", due)
	}
	s.pass(3 * time.Second)
	if c := s.Counters(); c.Held != 0 || c.Errors[ErrorNeighbourFailed] != 2 {
		t.Errorf("%d packets wait after 3 s, and %d messages were given up, want 0 and 2", c.Held, c.Errors[ErrorNeighbourFailed])
	}
}

func TestHoldPlacesAreReused(t *testing.T) {
	s := set(t, Limits{HoldFrames: 8, HoldEach: 4})
	for i := range 1000 {
		s.wait(fmt.Sprintf("10.0.2.%d", 20+i%5), held(server, uint16(i)))
		if i%97 == 0 {
			s.pass(3 * time.Second)
		}
	}
	s.pass(3 * time.Second)
	c := s.Counters()
	if total := c.Packets[NoNeighbour][NeighbourFailed] + c.Packets[NoNeighbour][HoldFull]; total != 1000 || c.Held+c.HeldErrors != 0 || s.packets.used != 0 {
		t.Errorf("%d of 1000 packets counted, %d+%d held, %d places in use", total, c.Held, c.HeldErrors, s.packets.used)
	}
	free := 0
	for i := s.packets.free; i != none; i = s.packets.places[i].next {
		free++
	}
	if free != 9 || s.packets.oldest != none || s.packets.newest != none {
		t.Errorf("%d free places, oldest %d, newest %d; want 9 and none", free, s.packets.oldest, s.packets.newest)
	}
}

func TestHoldLost(t *testing.T) {
	for _, row := range []struct {
		stake string
		frame packettest.Packet
		then  func(s *stage)
	}{
		{"longer than a place", held(server, 1).Payload(make([]byte, 2048)), func(*stage) {}},
		{"the route is gone", held(server, 1), func(s *stage) { s.table = new(nexthop.Builder).Build(2) }},
		{"the inbox is full", held(server, 1), func(s *stage) { s.full, s.table = true, table(t, 2, server+" 1") }},
	} {
		s := set(t, Limits{})
		s.wait(server, row.frame)
		row.then(s)
		s.TableChanged()
		s.check(t, row.stake, nil, "no_neighbour hold_lost 1")
	}
}

// The quote of a translated packet gets the service's address and port back; that of
// ESP, which has no ports of its own, the address.
func TestRestore(t *testing.T) {
	to := addr(vip)
	for _, row := range []struct {
		stake      string
		sent, want packettest.Packet
	}{
		{"TCP", fromClient().IP4(client, server).TCP(1000, 8080, packettest.SYN), fromClient().TCP(1000, 80, packettest.SYN)},
		{"ESP", fromClient().IP4(client, server).Proto(50).Payload(make([]byte, 8)), fromClient().Proto(50).Payload(make([]byte, 8))},
	} {
		frame, want := row.sent.Bytes(), row.want.Bytes()
		var in packet.Info
		packet.Parse(frame, &in)
		restore(frame, &in, &to, 80)
		if row.stake == "TCP" {
			copy(want[14+20+16:], frame[14+20+16:][:2]) // its checksum stays as it was
		}
		if !bytes.Equal(frame, want) {
			t.Errorf("%s: %s\nwant %s", row.stake, packettest.Describe(frame), packettest.Describe(want))
		}
	}
}
