package xdpprog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// here are local servers: of NAT services, and of DR ones by the services'
// addresses, one of them with every port.
func here() []Local {
	return []Local{{tcp, addr(natRIP), 8080}, {udp, addr(natRIP), 53}, {tcp, addr(natRIP6), 8443}, {udp, addr(natRIP6), 53}, {tcp, addr(anyVIP), 0}}
}

// sent are packets that the host sends, and whether a local server does.
var sent = []struct {
	name  string
	frame []byte
	want  bool
}{
	{"an answer", eth4(ip4(tcp, natRIP, cip, ports(8080, 40000))), true},
	{"IPv6", eth6(ip6(tcp, natRIP6, cip6, ports(8443, 40000))), true},
	{"by UDP", eth4(ip4(udp, natRIP, cip, ports(53, 40000))), true},
	{"a service of every port", eth4(ip4(tcp, anyVIP, cip, ports(999, 40000))), true},
	{"behind options", eth4(ip4options(make([]byte, 40), tcp, natRIP, cip, ports(8080, 40000))), true},
	{"behind extension headers", eth6(ip6(hop, natRIP6, cip6, chain(4, hop, nil))), false},
	{"behind some that end", eth6(ip6(dest, natRIP6, cip6, ext(hop, ext(dest, ext(tcp, ports(8443, 40000)))))), true},
	{"another port", eth4(ip4(tcp, natRIP, cip, ports(8081, 40000))), false},
	{"another protocol", eth4(ip4(sctp, natRIP, cip, ports(8080, 40000))), false},
	{"another address", eth4(ip4(tcp, host, cip, ports(8080, 40000))), false},
	{"to a server elsewhere", eth4(ip4(tcp, host, natRIP, ports(40000, 8080))), false},
	{"cut short", eth4(ip4(tcp, natRIP, cip, []byte{0x1f, 0x90, 0})), false},
	{"first fragment", eth4(ip4(udp, natRIP, cip, ports(53, 40000), moreFragments)), true},
	{"a later one", eth4(ip4(udp, natRIP, cip, ports(53, 40000), set(6, 0, 8))), true},
	{"an IPv6 fragment", eth6(ip6(fragment, natRIP6, cip6, ext(udp, ports(53, 40000), set(3, 1)))), true},
	{"a fragment of a protocol that nothing is served by", eth4(ip4(sctp, natRIP, cip, ports(53, 40000), moreFragments)), false},
	{"of an address that serves nothing", eth4(ip4(udp, host, cip, ports(53, 40000), moreFragments)), false},
	{"of a big echo", eth4(ip4(unix.IPPROTO_ICMP, natRIP, cip, icmp(0, nil), moreFragments)), false},
	{"an atomic one", eth6(ip6(fragment, natRIP6, cip6, ext(udp, ports(53, 40000)))), true},
	{"port unreachable", eth4(ip4(unix.IPPROTO_ICMP, natRIP, cip, icmp(3, ip4(udp, cip, natRIP, ports(40000, 53))))), true},
	{"from whatever address", eth4(ip4(unix.IPPROTO_ICMP, host, cip, icmp(11, ip4(udp, cip, natRIP, ports(40000, 53))))), true},
	{"about another port", eth4(ip4(unix.IPPROTO_ICMP, natRIP, cip, icmp(3, ip4(udp, cip, natRIP, ports(40000, 54))))), false},
	{"an echo", eth4(ip4(unix.IPPROTO_ICMP, natRIP, cip, icmp(0, ip4(udp, cip, natRIP, ports(40000, 53))))), false},
	{"about the host's own", eth4(ip4(unix.IPPROTO_ICMP, natRIP, cip, icmp(3, ip4(udp, natRIP, cip, ports(53, 40000))))), false},
	{"ICMPv6", eth6(ip6(unix.IPPROTO_ICMPV6, natRIP6, cip6, icmp(1, ip6(udp, cip6, natRIP6, ports(40000, 53))))), true},
	{"echo by ICMPv6", eth6(ip6(unix.IPPROTO_ICMPV6, natRIP6, cip6, icmp(129, ip6(udp, cip6, natRIP6, ports(40000, 53))))), false},
	{"ICMP in IPv6", eth6(ip6(unix.IPPROTO_ICMP, natRIP6, cip6, icmp(3, ip4(udp, cip, natRIP, ports(40000, 53))))), false},
	{"ICMPv6 in IPv4", eth4(ip4(unix.IPPROTO_ICMPV6, natRIP, cip, icmp(1, ip6(udp, cip6, natRIP6, ports(40000, 53))))), false},
	{"ARP", eth(unix.ETH_P_ARP, make([]byte, 28)), false},
}

// answered is the plain twin of sluice_answers.
func answered(locals []Local, frame []byte) bool {
	h, v6, ok := opened(frame[14:])
	if !ok || h.portless {
		return ok && len(h.body) > 0 && slices.ContainsFunc(locals, func(l Local) bool { return l.Addr == h.src && int(l.Proto) == h.proto })
	}
	if served(uint8(h.proto)) {
		return len(h.body) >= 4 && isLocal(locals, h.src, binary.BigEndian.Uint16(h.body), h.proto)
	}
	want := map[bool]int{false: unix.IPPROTO_ICMP, true: unix.IPPROTO_ICMPV6}
	if h.proto != want[v6] || len(h.body) < 8 || v6 && h.body[0] >= 128 || !v6 && !slices.Contains([]byte{3, 4, 11}, h.body[0]) {
		return false
	}
	q, quoted6, ok := opened(h.body[8:])
	return ok && quoted6 == v6 && !q.portless && len(q.body) >= 4 && isLocal(locals, q.dst, binary.BigEndian.Uint16(q.body[2:]), q.proto)
}

// opened reads the headers of a packet; its lengths are not looked at.
func opened(b []byte) (p modelPacket, v6, ok bool) {
	if p, ok = modelIP4(b, false); ok || len(b) < 40 || b[0]>>4 != 6 {
		return p, false, ok
	}
	p = modelPacket{src: Addr(b[8:]), dst: Addr(b[24:]), proto: int(b[6]), v6: true, body: b[40:]}
	for range 4 {
		if !modelExtension(p.proto) && p.proto != fragment {
			break
		}
		if len(p.body) < 4 {
			return p, true, false
		}
		length := int(p.body[1])*8 + 8
		if p.proto == fragment {
			length, p.portless = 8, p.body[2] != 0 || p.body[3]&0xf9 != 0
		}
		p.proto, p.body = int(p.body[0]), p.body[min(length, len(p.body)):]
	}
	return p, true, true
}

func isLocal(locals []Local, a Addr, port uint16, proto int) bool {
	return slices.ContainsFunc(locals, func(l Local) bool {
		return l.Addr == a && int(l.Proto) == proto && (l.Port == port || l.Port == 0)
	})
}

// loadAnswered returns Answers with locals that are attached nowhere.
func loadAnswered(t *testing.T, locals []Local) *Answers {
	t.Helper()
	testnet.NeedRoot(t)
	a := NewAnswers(1, nil)
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := a.Update(locals); err != nil {
		t.Fatal(err)
	}
	return a
}

// turned says whether the program turns a frame round.
func (a *Answers) turned(t *testing.T, frame []byte) bool {
	t.Helper()
	verdict, err := a.loaded.Local.Run(&ebpf.RunOptions{Data: frame})
	if err != nil {
		t.Fatalf("%x: %v", frame, err)
	}
	const redirect, unspec = 7, 0xffffffff // of linux/pkt_cls.h
	if verdict != redirect && verdict != unspec {
		t.Fatalf("verdict %d", verdict)
	}
	return verdict == redirect
}

func TestAnswers(t *testing.T) {
	a := loadAnswered(t, here())
	for _, tt := range sent {
		if got := a.turned(t, tt.frame); got != tt.want {
			t.Errorf("%s: turned round: %v", tt.name, got)
		}
		if got := answered(here(), tt.frame); got != tt.want {
			t.Errorf("%s: the twin says %v", tt.name, got)
		}
	}
	// What a killed process leaves: an empty map of programs.
	if err := a.loaded.Program.Delete(uint32(0)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range sent {
		if a.turned(t, tt.frame) {
			t.Errorf("%s: turned round by nobody", tt.name)
		}
	}
}

// The program and its plain twin agree on frames that nobody thought of.
func TestAnswersMutations(t *testing.T) {
	a := loadAnswered(t, here())
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	seen := map[bool]int{}
	for i := range 10000 {
		frame := bytes.Clone(sent[rng.IntN(len(sent))].frame)
		for range rng.IntN(4) {
			switch at := rng.IntN(len(frame)); rng.IntN(4) {
			case 0:
				frame[at] = byte(rng.Uint32())
			case 1:
				frame[at] ^= 1 << rng.IntN(8)
			case 2: // another packet's bytes in the same place
				copy(frame[at:], sent[rng.IntN(len(sent))].frame[min(at, 20):])
			case 3:
				frame = frame[:max(14+20, len(frame)-rng.IntN(12))]
			}
		}
		copy(frame, sent[0].frame[:12]) // the kernel's own
		if binary.BigEndian.Uint16(frame[12:]) == unix.ETH_P_IPV6 && len(frame) < 14+40 {
			frame = append(frame, make([]byte, 14+40-len(frame))...) // BPF_PROG_TEST_RUN refuses less
		}
		got, want := a.turned(t, frame), answered(here(), frame)
		if got != want {
			t.Fatalf("seed %d, frame %d: %x: turned round %v, want %v", seed, i, frame, got, want)
		}
		seen[got]++
	}
	if seen[true] < 1000 || seen[false] < 1000 {
		t.Errorf("seed %d: turned round %v", seed, seen)
	}
}

// The filter is on the NICs while there are local servers. A qdisc that was
// there before stays, and so does one that somebody else uses by now.
func TestAnswersComeAndGo(t *testing.T) {
	n := testnet.New(t, testnet.Plan{Links: []testnet.Link{
		{A: testnet.End{In: "director", Name: "eth0"}, B: testnet.End{In: "client", Name: "eth0"}},
		{A: testnet.End{In: "director", Name: "eth1"}, B: testnet.End{In: "client", Name: "eth1"}},
	}})
	host := n.In("director")
	h := host.Netlink()
	var nics []int
	var links []netlink.Link
	for _, name := range []string{"eth0", "eth1"} {
		l, err := h.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		nics, links = append(nics, l.Attrs().Index), append(links, l)
	}
	clsact := func(index int) *netlink.GenericQdisc {
		return &netlink.GenericQdisc{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}, QdiscType: "clsact",
		}
	}
	if err := h.QdiscAdd(clsact(nics[1])); err != nil {
		t.Fatal(err)
	}
	state := func() (s [2]struct{ qdisc, filter bool }) {
		t.Helper()
		for i, l := range links {
			qdiscs, err := h.QdiscList(l)
			filters, more := h.FilterList(l, netlink.HANDLE_MIN_EGRESS)
			if err := errors.Join(err, more); err != nil {
				t.Fatal(err)
			}
			s[i].qdisc = slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "clsact" })
			s[i].filter = len(filters) > 0
		}
		return s
	}
	type states = [2]struct{ qdisc, filter bool }
	update := func(a *Answers, locals []Local, want states) {
		t.Helper()
		if err := host.Do(func() error { return a.Update(locals) }); err != nil {
			t.Fatal(err)
		}
		if got := state(); got != want {
			t.Errorf("%d local servers: eth0 and eth1 have {qdisc filter} %v, want %v", len(locals), got, want)
		}
	}
	a := NewAnswers(1, nics)
	none, both := states{1: {qdisc: true}}, states{{true, true}, {true, true}}
	update(a, nil, none)
	update(a, here(), both)
	update(a, here()[:1], both)
	update(a, nil, none)
	update(a, here(), both)

	// A second one, as after kill -9, takes over what the first has left.
	b := NewAnswers(1, nics)
	update(b, here(), both)
	foreign := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: nics[0], Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 7},
		Fd:          b.loaded.Local.FD(), Name: "somebody", DirectAction: true,
	}
	if err := h.FilterReplace(foreign); err != nil {
		t.Fatal(err)
	}
	if err := host.Do(b.Close); err != nil {
		t.Error(err)
	}
	if got, want := state(), (states{{qdisc: true}, {qdisc: true}}); got != want {
		t.Errorf("closed: eth0 and eth1 have {qdisc filter} %v, want %v", got, want)
	}
	if err := host.Do(a.Close); err != nil {
		t.Errorf("close with the filters gone: %v", err)
	}
	if got := state(); !got[0].qdisc {
		t.Error("a qdisc that somebody uses was removed")
	}
}

// What the host sends out of one NIC arrives at the tap device, finished as on a wire; what it forwards does not.
func TestAnswersTurnRound(t *testing.T) {
	n := testnet.New(t, testnet.Plan{
		Links: []testnet.Link{
			{A: testnet.End{In: "director", Name: "eth0", Addrs: []string{"10.9.0.1/24"}}, B: testnet.End{In: "client", Name: "eth0", Addrs: []string{"10.9.0.2/24"}}},
			{A: testnet.End{In: "director", Name: "tap"}, B: testnet.End{In: "client", Name: "tap"}},
			{A: testnet.End{In: "director", Name: "eth1", Addrs: []string{"10.9.1.1/24"}}, B: testnet.End{In: "server", Name: "eth0", Addrs: []string{"10.9.1.2/24"}}},
		},
		Routes:  []testnet.Route{{In: "server", To: "default", Via: "10.9.1.1"}},
		Sysctls: []testnet.Sysctl{{In: "director", Key: "net.ipv4.ip_forward", Value: "1"}},
	})
	host := n.In("director")
	index := func(name string) int {
		l, err := host.Netlink().LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return l.Attrs().Index
	}
	if err := host.EnableOffloads("eth0"); err != nil {
		t.Fatal(err)
	}
	a := NewAnswers(index("tap"), []int{index("eth0")})
	if err := host.Do(func() error { return a.Update([]Local{{udp, addr("10.9.0.1"), 53}, {udp, addr("10.9.1.2"), 53}}) }); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := host.Do(a.Close); err != nil {
			t.Error(err)
		}
	}()
	raw, err := n.In("client").OpenRaw("tap")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	client, err := n.In("client").ListenPacket("udp", "10.9.0.2:4000")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, from := range []struct{ in, addr string }{{"server", "10.9.1.2:53"}, {"director", "10.9.0.1:53"}} {
		c, err := n.In(from.in).ListenPacket("udp", from.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.WriteTo([]byte(from.in), &net.UDPAddr{IP: net.IPv4(10, 9, 0, 2), Port: 4000}); err != nil {
			t.Fatal(err)
		}
	}
	b := make([]byte, 100)
	_ = client.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, _, err := client.ReadFrom(b); err != nil || string(b[:n]) != "server" {
		t.Errorf("the client got %q (%v), want what is forwarded", b[:n], err)
	}
	for {
		f, err := raw.Receive(5 * time.Second)
		if err != nil {
			t.Fatalf("what the host sent did not come to the tap: %v", err)
		}
		if bytes.HasSuffix(f.Bytes, []byte("director")) {
			if f.Unfinished {
				t.Error("its checksum is not computed")
			}
			return
		}
	}
}

func TestAnswersRefuse(t *testing.T) {
	a := loadAnswered(t, here())
	if err := a.Update([]Local{{Proto: unix.IPPROTO_ICMP}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a protocol without ports: %v, want ErrInvalid", err)
	}
	many := make([]Local, MaxLocals+1) // the most entries: each has an address of its own
	for i := range many {
		many[i] = Local{Proto: tcp, Addr: Addr{14: byte(i >> 8), 15: byte(i)}, Port: 80}
	}
	if err := a.Update(many); !errors.Is(err, ErrTooManyEntries) {
		t.Errorf("%d servers: %v, want ErrTooManyEntries", len(many), err)
	}
	if err := a.Update(many[1:]); err != nil {
		t.Errorf("%d servers: %v, want room", MaxLocals, err)
	}
}
