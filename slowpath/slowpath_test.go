package slowpath

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The network of the tests is the oracle's: clients on eth0 (10.0.1.0/24), servers on
// eth1 (10.0.2.0/24), VIP 10.0.1.100; eth2 is not one of the node's.
const (
	client, clientMAC = "10.0.1.10", "02:00:00:00:01:0a"
	server            = "10.0.2.11"
	vip               = "10.0.1.100"
	nicMAC            = "02:00:00:00:00:01"
	client6, vip6     = "fd00:1::10", "fd00:1::100"
)

func addr(s string) flow.Addr { return flow.FromNetip(netip.MustParseAddr(s)) }

func mac(last ...byte) (m [6]byte) {
	m[0] = 2
	copy(m[6-len(last):], last)
	return m
}

// table builds the network's next hops; known are the neighbours on it, "ADDRESS IFACE".
func table(t *testing.T, version uint64, known ...string) *nexthop.Table {
	t.Helper()
	var b nexthop.Builder
	b.AddInterface(nexthop.Interface{Name: "eth0", Port: 0, MAC: mac(0, 1), MTU: 1500, Up: true, Addrs: prefixes("10.0.1.1/24", "fd00:1::1/64")})
	b.AddInterface(nexthop.Interface{Name: "eth1", Port: 1, MAC: mac(0, 2), MTU: 1500, Up: true, Addrs: prefixes("10.0.2.1/24")})
	b.AddInterface(nexthop.Interface{Name: "eth2", Port: -1, MAC: mac(0, 3), MTU: 1500, Up: true, Addrs: prefixes("10.0.3.1/24")})
	var err error
	for _, far := range prefixes("10.9.0.0/16", "10.0.2.200/32") {
		err = errors.Join(err, b.AddRoute(far, netip.MustParseAddr("10.0.2.254"), nexthop.AnyInterface, netip.Addr{}, 0))
	}
	for _, k := range known {
		a, iface := netip.Addr{}, 0
		if _, e := fmt.Sscan(k, textAddr{&a}, &iface); e != nil {
			t.Fatal(e)
		}
		last := a.As16()
		err = errors.Join(err, b.AddNeighbor(a, mac(byte(iface+1), last[15]), iface))
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Build(version)
}

// textAddr lets fmt.Sscan read an address.
type textAddr struct{ to *netip.Addr }

func (x textAddr) Scan(s fmt.ScanState, _ rune) error {
	word, err := s.Token(true, nil)
	if err == nil {
		*x.to, err = netip.ParseAddr(string(word))
	}
	return err
}

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// stage is a Path and everything around it.
type stage struct {
	*Path
	clock  clock.Fake
	table  *nexthop.Table
	sent   []string // "eth0: frame in words", with "@worker" and "timer" where they matter
	outs   []Out
	frames [][]byte
	made   [][]byte // what Answered was told
	full   bool     // Emit takes nothing
	host   []string
	broken bool // the host takes nothing
	asked  []string
	learnt []string // what was learnt, forgotten and returned
	stuck  bool     // nothing can be forgotten
}

func (s *stage) Inject(iface int, frame []byte) error {
	if s.broken {
		return errors.New("no")
	}
	s.host = append(s.host, fmt.Sprintf("%d: %s", iface, packettest.Describe(frame)))
	return nil
}

// set makes a stage on which the client and the IPv6 client are known neighbours.
func set(t *testing.T, l Limits) *stage {
	t.Helper()
	s := &stage{table: table(t, 1, client+" 0", client6+" 0")}
	s.clock.Set(1e9)
	s.Path = New(Config{
		Tables: func() *nexthop.Table { return s.table },
		Emit: func(m *Out, frame []byte) bool {
			if s.full {
				return false
			}
			s.sent = append(s.sent, s.table.Interfaces[m.Iface].Name+": "+packettest.Describe(frame))
			s.outs, s.frames = append(s.outs, *m), append(s.frames, bytes.Clone(frame))
			return true
		},
		Answered: func(worker uint16, message []byte) {
			s.made = append(s.made, append(bytes.Clone(message), byte(worker)))
		},
		Host:    s,
		Learner: s,
		Resolve: func(iface uint16, a *flow.Addr) { s.asked = append(s.asked, fmt.Sprintf("%v %d", a, iface)) },
		Now:     s.clock.Now,
		Limits:  l,
	})
	return s
}

// ends lists the non-zero counters, "kind fate n".
func (s *stage) ends() string {
	c := s.Counters()
	var out []string
	for k := range c.Packets {
		for f, n := range c.Packets[k] {
			if n > 0 {
				out = append(out, fmt.Sprintf("%v %v %d", Kind(k), Fate(f), n))
			}
		}
	}
	for f, n := range c.Errors {
		if n > 0 {
			out = append(out, fmt.Sprintf("error %v %d", ErrorFate(f), n))
		}
	}
	if c.Held+c.HeldErrors > 0 {
		out = append(out, fmt.Sprintf("held %d+%d", c.Held, c.HeldErrors))
	}
	return strings.Join(out, ", ")
}

// check compares what was sent and counted since the last check.
func (s *stage) check(t *testing.T, stake string, sent []string, ends string) {
	t.Helper()
	if !slices.Equal(s.sent, sent) {
		t.Errorf("%s: sent\n  %s\nwant\n  %s", stake, strings.Join(s.sent, "\n  "), strings.Join(sent, "\n  "))
	}
	if got := s.ends(); got != ends {
		t.Errorf("%s: counted %q, want %q", stake, got, ends)
	}
	s.sent = nil
}

// fromClient begins a packet of the client as it arrives at eth0.
func fromClient() packettest.Packet {
	return packettest.Eth(nicMAC, clientMAC).IP4(client, vip).ID(0x1000).DF()
}

func fromClient6() packettest.Packet { return packettest.Eth(nicMAC, clientMAC).IP6(client6, vip6) }

func TestHost(t *testing.T) {
	s := set(t, Limits{})
	frame := fromClient().UDP(1000, 53).Bytes()
	s.Handle(&Meta{Kind: Host, Iface: 1}, frame)
	s.broken = true
	s.Handle(&Meta{Kind: Host}, frame)
	s.check(t, "a packet for the host", nil, "host passed 1, host host_refused 1")
	if want := []string{"1: " + packettest.Describe(frame)}; !slices.Equal(s.host, want) {
		t.Errorf("the host got %q, want %q", s.host, want)
	}
}

func TestAnswers(t *testing.T) {
	const (
		eth6 = "eth0: 02:00:00:00:00:01 > 02:00:00:00:01:10 "
		head = "eth0: 02:00:00:00:00:01 > 02:00:00:00:01:0a IP ttl=64 id=0x0001 tos=0xc0 "
		syn4 = " csum=ok quoting {IP ttl=64 id=0x1000 DF 10.0.1.10:1000 > 10.0.1.100:80 TCP [S] len=0}"
		syn6 = " csum=ok quoting {IP6 hlim=64 [fd00:1::10]:1000 > [fd00:1::100]:80 TCP [S] len=0}"
	)
	syn, syn6frame := fromClient().TCP(1000, 80, packettest.SYN), fromClient6().TCP(1000, 80, packettest.SYN)
	for _, row := range []struct {
		stake string
		meta  Meta
		frame packettest.Packet
		want  string // "" : nothing is sent
		why   string // the error's fate then
	}{
		{
			"no server: from the VIP, the packet as it came [no-dest]",
			Meta{Kind: PortUnreachable, Virtual: addr(vip)},
			syn,
			head + "10.0.1.100 > 10.0.1.10 ICMP(1) type=3 code=3 rest=0x00000000" + syn4, "",
		},
		{
			"no server, IPv6 [no-dest]",
			Meta{Kind: PortUnreachable, Virtual: addr(vip6)},
			syn6frame,
			eth6 + "IP6 hlim=64 fd00:1::100 > fd00:1::10 ICMP(58) type=1 code=4 rest=0x00000000" + syn6, "",
		},
		{
			"no route to the server [dr-no-route]",
			Meta{Kind: HostUnreachable, Virtual: addr(vip)},
			syn,
			head + "10.0.1.100 > 10.0.1.10 ICMP(1) type=3 code=1 rest=0x00000000" + syn4, "",
		},
		{
			"no route, IPv6: address unreachable",
			Meta{Kind: HostUnreachable, Virtual: addr(vip6)},
			syn6frame,
			eth6 + "IP6 hlim=64 fd00:1::100 > fd00:1::10 ICMP(58) type=1 code=3 rest=0x00000000" + syn6, "",
		},
		{
			"too big, with the TTL decremented before [nat-mtu]",
			Meta{Kind: TooBig, Virtual: addr(vip), MTU: 1300},
			fromClient().TTL(63).TCP(1000, 80, packettest.PSH|packettest.ACK).Payload(make([]byte, 1400)),
			head + "10.0.1.100 > 10.0.1.10 ICMP(1) type=3 code=4 rest=0x00000514 csum=ok quoting {IP ttl=63 id=0x1000 DF 10.0.1.10:1000 > 10.0.1.100:80 TCP [PA] len=508}", "",
		},
		{
			"packet too big, IPv6: 1280 bytes in all",
			Meta{Kind: TooBig, Virtual: addr(vip6), MTU: 1400},
			fromClient6().TCP(1000, 80, packettest.ACK).Payload(make([]byte, 1420)),
			eth6 + "IP6 hlim=64 fd00:1::100 > fd00:1::10 ICMP(58) type=2 code=0 rest=0x00000578 csum=ok quoting {IP6 hlim=64 [fd00:1::10]:1000 > [fd00:1::100]:80 TCP [A] len=1172}", "",
		},
		{
			"TTL exceeded, from the VIP [nat-tcp-odd]",
			Meta{Kind: TimeExceeded, Virtual: addr(vip)},
			fromClient().TTL(1).TCP(1000, 80, packettest.SYN),
			head + "10.0.1.100 > 10.0.1.10 ICMP(1) type=11 code=0 rest=0x00000000" + strings.Replace(syn4, "ttl=64", "ttl=1", 1), "",
		},
		{
			"towards nobody's VIP: the director's address on that side",
			Meta{Kind: TimeExceeded},
			fromClient().TTL(1).TCP(1000, 80, packettest.SYN),
			head + "10.0.1.1 > 10.0.1.10 ICMP(1) type=11 code=0 rest=0x00000000" + strings.Replace(syn4, "ttl=64", "ttl=1", 1), "",
		},
		{
			"hop limit exceeded, IPv6",
			Meta{Kind: TimeExceeded},
			fromClient6().TTL(1).TCP(1000, 80, packettest.SYN),
			eth6 + "IP6 hlim=64 fd00:1::1 > fd00:1::10 ICMP(58) type=3 code=0 rest=0x00000000" + strings.Replace(syn6, "hlim=64", "hlim=1", 1), "",
		},
		{
			"out of a VLAN, back by the route",
			Meta{Kind: PortUnreachable, Virtual: addr(vip)},
			syn.VLAN(7),
			head + "10.0.1.100 > 10.0.1.10 ICMP(1) type=3 code=3 rest=0x00000000" + syn4, "",
		},
		{
			"a first fragment is answered",
			Meta{Kind: TimeExceeded, Virtual: addr(vip)},
			packettest.Eth(nicMAC, clientMAC).IP4(client, vip).Fragment(0, true, 7).UDP(5, 6).Payload(make([]byte, 8)),
			head + "10.0.1.100 > 10.0.1.10 ICMP(1) type=11 code=0 rest=0x00000000 csum=ok quoting {IP ttl=64 id=0x0007 frag=0 more=true 10.0.1.10:5 > 10.0.1.100:6 UDP len=8}", "",
		},

		{"a later fragment has nothing that says whose it is", Meta{Kind: TimeExceeded}, fromClient().Fragment(8, true, 7).UDP(5, 6), "", "not_answerable"},
		{"an error about an error could go on for ever", Meta{Kind: TimeExceeded}, fromClient().ICMP4(3, 1, 0).Quote(syn, 28), "", "not_answerable"},
		{"nor about a redirect", Meta{Kind: TimeExceeded}, fromClient().ICMP4(5, 1, 0).Quote(syn, 28), "", "not_answerable"},
		{"nor about a parameter problem", Meta{Kind: TimeExceeded}, fromClient().ICMP4(12, 0, 0).Quote(syn, 28), "", "not_answerable"},
		{"nor about an error's first fragment", Meta{Kind: TimeExceeded}, fromClient().Fragment(0, true, 9).ICMP4(3, 1, 0).Payload(make([]byte, 48)), "", "not_answerable"},
		{"an ICMPv6 redirect", Meta{Kind: TimeExceeded}, fromClient6().ICMP6(137, 0, 0), "", "not_answerable"},
		{"an ICMPv6 error too", Meta{Kind: TimeExceeded}, fromClient6().ICMP6(1, 4, 0).Quote(syn6frame, -1), "", "not_answerable"},
		{"and one in a fragment", Meta{Kind: TimeExceeded}, fromClient6().Fragment(0, true, 9).ICMP6(1, 4, 0).Payload(make([]byte, 48)), "", "not_answerable"},
		{
			"an echo request may be answered",
			Meta{Kind: TimeExceeded},
			fromClient().TTL(1).ICMP4(8, 0, 5),
			head + "10.0.1.1 > 10.0.1.10 ICMP(1) type=11 code=0 rest=0x00000000 csum=ok quoting {IP ttl=1 id=0x1000 DF 10.0.1.10 > 10.0.1.100 ICMP(1) type=8 code=0 rest=0x00000005}", "",
		},
		{"sent to a MAC group", Meta{Kind: PortUnreachable}, packettest.Eth("ff:ff:ff:ff:ff:ff", clientMAC).IP4(client, vip).UDP(5, 6), "", "not_answerable"},
		{"sent to an IPv4 group", Meta{Kind: PortUnreachable}, packettest.Eth(nicMAC, clientMAC).IP4(client, "224.0.0.9").UDP(5, 6), "", "not_answerable"},
		{"sent to an IPv6 group", Meta{Kind: PortUnreachable}, packettest.Eth(nicMAC, clientMAC).IP6(client6, "ff02::1").UDP(5, 6), "", "not_answerable"},
		{"sent to everyone", Meta{Kind: PortUnreachable}, packettest.Eth(nicMAC, clientMAC).IP4(client, "255.255.255.255").UDP(5, 6), "", "not_answerable"},
		{"sent to a subnet's broadcast address", Meta{Kind: PortUnreachable}, packettest.Eth(nicMAC, clientMAC).IP4(client, "10.0.2.255").UDP(5, 6), "", "not_answerable"},
		{"from a subnet's broadcast address: it would multiply", Meta{Kind: PortUnreachable}, packettest.Eth(nicMAC, clientMAC).IP4("10.0.1.255", vip).UDP(5, 6), "", "not_answerable"},
		{"from nobody", Meta{Kind: PortUnreachable}, packettest.Eth(nicMAC, clientMAC).IP4("0.0.0.0", vip).UDP(5, 6), "", "not_answerable"},
		{"cut short", Meta{Kind: PortUnreachable}, syn.Truncate(40), "", "not_answerable"},
		{"not IP", Meta{Kind: PortUnreachable}, packettest.Eth(nicMAC, clientMAC).EtherType(0x0806).Payload(make([]byte, 28)), "", "not_answerable"},
		{"no way back to the source", Meta{Kind: PortUnreachable, Virtual: addr(vip)}, packettest.Eth(nicMAC, clientMAC).IP4("198.51.100.1", vip).UDP(5, 6), "", "no_way_back"},
		{"the source claims to be ourselves", Meta{Kind: PortUnreachable, Virtual: addr(vip)}, packettest.Eth(nicMAC, clientMAC).IP4("10.0.2.1", vip).UDP(5, 6), "", "no_way_back"},
		{"the way back is not by one of our interfaces", Meta{Kind: PortUnreachable, Virtual: addr(vip)}, packettest.Eth(nicMAC, clientMAC).IP4("10.0.3.7", vip).UDP(5, 6), "", "no_way_back"},
	} {
		s := set(t, Limits{})
		row.meta.Worker = 3
		s.Handle(&row.meta, row.frame.Bytes())
		if row.want == "" {
			s.check(t, row.stake, nil, fmt.Sprintf("%v unanswered 1, error %s 1", row.meta.Kind, row.why))
			if len(s.made) > 0 {
				t.Errorf("%s: a worker was told to count %x", row.stake, s.made)
			}
			continue
		}
		s.check(t, row.stake, []string{row.want}, fmt.Sprintf("%v answered 1, error sent 1", row.meta.Kind))
		if want := append(bytes.Clone(s.frames[0][packet.EthernetLen:]), 3); len(s.made) != 1 || !bytes.Equal(s.made[0], want) {
			t.Errorf("%s: worker 3 is to count %x, was told %x", row.stake, want, s.made)
		}
		if want := []Out{{Worker: 3, Iface: 0}}; !slices.Equal(s.outs, want) {
			t.Errorf("%s: sent with %+v, want %+v", row.stake, s.outs, want)
		}
	}
}

// Echo requests are answered as Linux 6.1 does: TTL 64 and no DF whatever the
// request has, its TOS, code, identifier and data.
func TestEcho(t *testing.T) {
	const head, head6 = "eth0: 02:00:00:00:00:01 > 02:00:00:00:01:0a ", "eth0: 02:00:00:00:00:01 > 02:00:00:00:01:10 "
	data := []byte("abcdefgh")
	for _, row := range []struct {
		stake string
		frame packettest.Packet
		want  string // "": nothing is sent
		why   string // the message's fate then
	}{
		{"IPv4", fromClient().TTL(5).ICMP4(8, 0, 0x12340007).Payload(data), head + "IP ttl=64 id=0x0001 10.0.1.100 > 10.0.1.10 ICMP(1) type=0 code=0 rest=0x12340007 csum=ok", ""},
		{"TOS, ECN and code", fromClient().TOS(0xbb).ICMP4(8, 7, 1), head + "IP ttl=64 id=0x0001 tos=0xbb 10.0.1.100 > 10.0.1.10 ICMP(1) type=0 code=7 rest=0x00000001 csum=ok", ""},
		{"IPv6", fromClient6().TTL(1).ICMP6(128, 0, 0x12340007).Payload(data), head6 + "IP6 hlim=64 fd00:1::100 > fd00:1::10 ICMP(58) type=129 code=0 rest=0x12340007 csum=ok", ""},
		{"traffic class", fromClient6().TOS(0xb8).ICMP6(128, 3, 1), head6 + "IP6 hlim=64 tc=0xb8 fd00:1::100 > fd00:1::10 ICMP(58) type=129 code=3 rest=0x00000001 csum=ok", ""},
		{"a wrong checksum", fromClient().ICMP4(8, 0, 1).BadChecksum(), "", "not_answerable"},
		{"in IPv6", fromClient6().ICMP6(128, 0, 1).BadChecksum(), "", "not_answerable"},
		{"a fragment is put together first", fromClient().Fragment(0, true, 7).ICMP4(8, 0, 1), "", "not_answerable"},
		{"to a group of the link", packettest.Eth("01:00:5e:00:00:01", clientMAC).IP4(client, vip).ICMP4(8, 0, 1), "", "not_answerable"},
		{"to everyone", packettest.Eth(nicMAC, clientMAC).IP4(client, "255.255.255.255").ICMP4(8, 0, 1), "", "not_answerable"},
		{"to a subnet's broadcast address", packettest.Eth(nicMAC, clientMAC).IP4(client, "10.0.1.255").ICMP4(8, 0, 1), "", "not_answerable"},
		{"to a group", packettest.Eth(nicMAC, clientMAC).IP6(client6, "ff02::1").ICMP6(128, 0, 1), "", "not_answerable"},
		{"from everyone: all of them would get it", packettest.Eth(nicMAC, clientMAC).IP4("10.0.1.255", vip).ICMP4(8, 0, 1), "", "not_answerable"},
		{"from nobody", packettest.Eth(nicMAC, clientMAC).IP6("::", vip6).ICMP6(128, 0, 1), "", "not_answerable"},
		{"from ourselves", packettest.Eth(nicMAC, clientMAC).IP4("10.0.2.1", vip).ICMP4(8, 0, 1), "", "no_way_back"},
	} {
		s := set(t, Limits{ICMP: DefaultICMPLimits()})
		s.Handle(&Meta{Kind: Echo, Worker: 3}, row.frame.Bytes())
		if row.want == "" {
			s.check(t, row.stake, nil, fmt.Sprintf("echo unanswered 1, error %s 1", row.why))
			continue
		}
		s.check(t, row.stake, []string{row.want}, "echo answered 1, error sent 1")
		if len(s.made) > 0 {
			t.Errorf("%s: no error, but a worker was told to count %x", row.stake, s.made)
		}
		if n := len(row.frame.Bytes()); len(s.frames[0]) != n || !bytes.HasSuffix(s.frames[0], row.frame.Bytes()[n-4:]) {
			t.Errorf("%s: %x answers %x: other data", row.stake, s.frames[0], row.frame.Bytes())
		}
		if want := []Out{{Worker: 3}}; !slices.Equal(s.outs, want) {
			t.Errorf("%s: sent with %+v, want %+v", row.stake, s.outs, want)
		}
	}
}

func TestAnswerLengths(t *testing.T) {
	s := set(t, Limits{})
	s.Handle(&Meta{Kind: TimeExceeded}, fromClient().UDP(5, 6).Payload(make([]byte, 1400)).Bytes())
	s.Handle(&Meta{Kind: TimeExceeded}, fromClient6().UDP(5, 6).Payload(make([]byte, 1400)).Bytes())
	if got := [2]int{len(s.frames[0]), len(s.frames[1])}; got != [2]int{14 + 576, 14 + 1280} {
		t.Errorf("errors of %d bytes, want those that RFC 1812 and RFC 4443 allow: 590 and 1294 with Ethernet", got)
	}
}

func TestAnswerCannotBeSent(t *testing.T) {
	s := set(t, Limits{})
	s.full = true
	s.Handle(&Meta{Kind: TimeExceeded}, fromClient().UDP(5, 6).Bytes())
	s.check(t, "the worker's inbox is full", nil, "time_exceeded unanswered 1, error lost 1")
}

func TestNames(t *testing.T) {
	seen := map[string]bool{"": true, "unknown": true}
	check := func(name string) {
		if seen[name] {
			t.Errorf("name %q is empty or given twice", name)
		}
		seen[name] = true
	}
	for f := range Fates {
		check(f.String())
	}
	seen = map[string]bool{"": true, "unknown": true}
	for f := range ErrorFates {
		check(f.String())
	}
	for k := range Kinds {
		check(k.String())
	}
	seen = map[string]bool{"": true, "unknown": true}
	for c := range Classes {
		check(c.String())
	}
	for r := range Refusals {
		check(r.String())
	}
	if got := Kinds.String() + Fates.String() + ErrorFates.String() + Classes.String() + Refusals.String(); got != strings.Repeat("unknown", 5) {
		t.Errorf("beyond the last: %q", got)
	}
}
