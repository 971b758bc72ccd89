package xdpprog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/internal/testnet"
)

const (
	tcp  = unix.IPPROTO_TCP
	udp  = unix.IPPROTO_UDP
	sctp = unix.IPPROTO_SCTP
)

// Who is who in the packets below. VIPs: .10 has tcp/80, .20 every tcp port.
const (
	cip, cip6     = "172.16.5.1", "2001:db8:5::1"
	vip, vip6     = "203.0.113.10", "2001:db8::10"
	anyVIP        = "203.0.113.20"
	echoVIP       = "203.0.113.30" // the host does not own it
	echoVIP6      = "2001:db8::30"
	natRIP        = "10.0.1.11" // tcp/8080
	natRIP6       = "fd00::11"  // tcp/8443
	natAnyRIP     = "10.0.1.20" // every tcp port
	tunRIP        = "10.0.1.12" // by GUE to port 6080, and by others
	tunRIP6       = "fd00::12"
	marked        = "198.51.100.7" // tcp/80-443 from 172.16.0.0/12
	marked6       = "2001:db8:7::7"
	host, another = "203.0.113.1", "192.0.2.99"
)

// hosts are flows that were learnt.
var hosts = []Flow{
	{tcp, addr(natRIP), addr(another), 8080, 9000},
	{tcp, addr(natRIP6), addr(cip6), 8443, 9000},
	{tcp, addr(natAnyRIP), addr(another), 31337, 9000},
	{tcp, addr(vip), addr(another), 80, 9000},
	{tcp, addr(natRIP), addr(vip), 8080, 80},
	{tcp, addr(cip), addr(another), 1, 2},
}

// returned is the source address of frames that were handed back.
var returned = [6]byte{2, 0, 0, 0, 0, 9}

func addr(s string) Addr { return netip.MustParseAddr(s).As16() }

func steered() Want {
	return Want{
		Services: []ServiceKey{
			{tcp, addr(vip), 80},
			{udp, addr(vip), 53},
			{sctp, addr(vip), 3868},
			{tcp, addr(anyVIP), 0},
			{tcp, addr(vip6), 443},
			{tcp, addr(echoVIP), 80},
			{tcp, addr(echoVIP6), 80},
		},
		Reals: []RealKey{
			{tcp, addr(natRIP), 8080},
			{tcp, addr(natRIP6), 8443},
			{tcp, addr(natAnyRIP), 0},
		},
		Tunnels: []TunnelKey{{addr(tunRIP), 6080}, {addr(tunRIP), 0}, {addr(tunRIP6), 0}},
		Marks: []MarkRule{
			{Proto: tcp, Source: netip.MustParsePrefix("172.16.0.0/12"), Destination: netip.MustParsePrefix("198.51.100.0/24"), PortLow: 80, PortHigh: 443},
			{Destination: netip.MustParsePrefix("2001:db8:7::/48")},
			{Proto: tcp, Destination: netip.MustParsePrefix("2001:db8:8::/48")},
			{Ifindex: 4242, Destination: netip.MustParsePrefix("192.0.2.0/24")},
			{Proto: sctp, Source: netip.MustParsePrefix("0.0.0.0/0"), PortLow: 6000, PortHigh: 6000},
		},
		IPsec: []Addr{addr(anyVIP), addr(natAnyRIP)},
		Echo:  []Addr{addr(echoVIP), addr(echoVIP6)},
	}
}

var (
	moreFragments = set(6, 0x20)
	laterFragment = set(6, 0x00, 0xb9)
	dontFragment  = set(6, 0x40)
)

const (
	icmp4, icmp6  = unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6
	hop, fragment = unix.IPPROTO_HOPOPTS, unix.IPPROTO_FRAGMENT
	dest, routing = unix.IPPROTO_DSTOPTS, unix.IPPROTO_ROUTING
	qtag, adtag   = unix.ETH_P_8021Q, unix.ETH_P_8021AD
)

var packets = []struct {
	name  string // what is at stake
	frame []byte
	want  Reason
}{
	// Requests.
	{"a SYN to a service", eth4(ip4(tcp, cip, vip, ports(40000, 80), dontFragment)), ToService},
	{"UDP to a service", eth4(ip4(udp, cip, vip, ports(40000, 53))), ToService},
	{"SCTP to a service", eth4(ip4(sctp, cip, vip, ports(40000, 3868))), ToService},
	{"IPv6 to a service", eth6(ip6(tcp, cip6, vip6, ports(40000, 443))), ToService},
	{"ssh on the VIP stays with the host", eth4(ip4(tcp, cip, vip, ports(40000, 22))), Other},
	{"a service's port of another protocol", eth4(ip4(udp, cip, vip, ports(40000, 80))), Other},
	{"port 0 of a service without port 0", eth4(ip4(tcp, cip, vip, ports(40000, 0))), Other},
	{"a port-0 service: any port", eth4(ip4(tcp, cip, anyVIP, ports(40000, 31337))), ToService},
	{"a port-0 service: its protocol only", eth4(ip4(udp, cip, anyVIP, ports(40000, 31337))), Other},
	{"a service's port on another address", eth4(ip4(tcp, cip, host, ports(40000, 80))), Other},
	{"another IPv6 address", eth6(ip6(tcp, cip6, "2001:db8::11", ports(40000, 443))), Other},
	{"ping to a VIP: the host answers", eth4(ip4(icmp4, cip, vip, icmp(8, nil))), Other},
	{"IPv6 ping to a VIP", eth6(ip6(icmp6, cip6, vip6, icmp(128, nil))), Other},
	{"ping to a VIP that the host does not own", eth4(ip4(icmp4, cip, echoVIP, icmp(8, nil))), Echo},
	{"its reply, and other messages, are not", eth4(ip4(icmp4, cip, echoVIP, icmp(0, nil))), Other},
	{"an ICMPv6 type is not an ICMP type", eth4(ip4(icmp4, cip, echoVIP, icmp(128, nil))), Other},
	{"ping from it is none of ours", eth4(ip4(icmp4, echoVIP, cip, icmp(8, nil))), Other},
	{"errors to it are errors", eth4(ip4(icmp4, another, echoVIP, icmp(3, nil))), ICMPError},
	{"IPv6 ping to such a VIP", eth6(ip6(icmp6, cip6, echoVIP6, icmp(128, nil))), Echo},
	{"IPv6 ping behind an extension header", eth6(ip6(hop, cip6, echoVIP6, ext(icmp6, icmp(128, nil)))), Echo},
	{"neighbour solicitation for such a VIP", eth6(ip6(icmp6, cip6, echoVIP6, icmp(135, nil))), Other},
	{"neighbour solicitation for a VIP", eth6(ip6(icmp6, cip6, vip6, icmp(135, nil))), Other},
	{"a protocol without ports to a VIP", eth4(ip4(unix.IPPROTO_GRE, cip, vip, ports(40000, 80))), Other},

	// Frames around them.
	{"ARP", eth(unix.ETH_P_ARP, make([]byte, 28)), Other},
	{"VLAN", eth(qtag, tag(7, unix.ETH_P_IP, ip4(tcp, cip, vip, ports(40000, 80)))), ToService},
	{"QinQ", eth(adtag, tag(7, qtag, tag(8, unix.ETH_P_IPV6, ip6(tcp, cip6, vip6, ports(40000, 443))))), ToService},
	{"a third tag is not looked behind", eth(adtag, tag(7, qtag, tag(8, qtag, tag(9, unix.ETH_P_IP, ip4(tcp, cip, vip, ports(40000, 80)))))), Other},
	{"broadcast on the link", eth(unix.ETH_P_IP, ip4(tcp, cip, vip, ports(40000, 80)), set(0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)), Group},
	{"handed back to the host", eth(unix.ETH_P_IP, ip4(tcp, cip, vip, ports(40000, 80)), set(6, returned[:]...)), Returned},
	{"from a neighbour of like address", eth(unix.ETH_P_IP, ip4(tcp, cip, vip, ports(40000, 80)), set(6, 2, 0, 0, 0, 0, 8)), ToService},
	{"multicast on the link", eth(unix.ETH_P_IP, ip4(udp, cip, vip, ports(40000, 53)), set(0, 0x01, 0, 0x5e)), Group},
	{"Ethernet padding", append(eth4(ip4(tcp, cip, vip, ports(40000, 80)[:4])), make([]byte, 22)...), ToService},
	{"IPv4 options", eth4(ip4options([]byte{7, 7, 4, 0, 0, 0, 0, 0}, tcp, cip, vip, ports(40000, 80))), ToService},
	{"40 bytes of IPv4 options", eth4(ip4options(make([]byte, 40), tcp, cip, vip, ports(40000, 80))), ToService},

	// IPv6 extension headers.
	{"hop-by-hop", eth6(ip6(hop, cip6, vip6, ext(tcp, ports(40000, 443)))), ToService},
	{"routing, destination", eth6(ip6(routing, cip6, vip6, ext(dest, ext(tcp, ports(40000, 443))))), ToService},
	{"a header of 32 bytes", eth6(ip6(dest, cip6, vip6, append(ext(tcp, make([]byte, 24), set(1, 3)), ports(40000, 443)...))), ToService},
	{"eight headers", eth6(ip6(dest, cip6, vip6, chain(8, tcp, ports(40000, 443)))), ToService},
	{"nine headers are too many", eth6(ip6(dest, cip6, vip6, chain(9, tcp, ports(40000, 443)))), Malformed},
	{"no next header", eth6(ip6(unix.IPPROTO_NONE, cip6, vip6, nil)), Other},
	{"a header longer than the packet", eth6(ip6(dest, cip6, vip6, ext(tcp, ports(40000, 443), set(1, 200)))), Malformed},

	// Replies.
	{"a NAT server's reply", eth4(ip4(tcp, natRIP, cip, ports(8080, 40000))), NATReply},
	{"an IPv6 NAT server's reply", eth6(ip6(tcp, natRIP6, cip6, ports(8443, 40000))), NATReply},
	{"a NAT server's ssh", eth4(ip4(tcp, natRIP, cip, ports(22, 40000))), Other},
	{"a NAT server's other protocol", eth4(ip4(udp, natRIP, cip, ports(8080, 40000))), Other},
	{"a NAT server of a port-0 service", eth4(ip4(tcp, natAnyRIP, cip, ports(31337, 40000))), NATReply},
	{"to a NAT server, not from it", eth4(ip4(tcp, cip, natRIP, ports(40000, 8080))), Other},
	{"from a TUN server's own address", eth4(ip4(tcp, tunRIP, cip, ports(80, 40000))), Other},
	{"a DR reply that comes through (K-CONN-4)", eth4(ip4(tcp, vip, cip, ports(80, 40000))), Direct},
	{"a flow of the host's from there", eth4(ip4(tcp, natRIP, another, ports(8080, 9000))), Learnt},
	{"in IPv6", eth6(ip6(tcp, natRIP6, cip6, ports(8443, 9000))), Learnt},
	{"of a server of every port", eth4(ip4(tcp, natAnyRIP, another, ports(31337, 9000))), Learnt},
	{"from a service", eth4(ip4(tcp, vip, another, ports(80, 9000))), Learnt},
	{"another of its ports", eth4(ip4(tcp, natRIP, another, ports(8080, 9001))), NATReply},
	{"a fragment of it", eth4(ip4(tcp, natRIP, another, ports(8080, 9000), moreFragments)), Fragment},
	{"the other direction is not meant", eth4(ip4(tcp, another, vip, ports(9000, 80))), ToService},
	{"nor what goes to a service, whatever was learnt", eth4(ip4(tcp, natRIP, vip, ports(8080, 80))), ToService},
	{"a DR reply of a port-0 service", eth4(ip4(tcp, anyVIP, cip, ports(31337, 40000))), Direct},
	{"from a VIP, but no service's port", eth4(ip4(tcp, vip, cip, ports(22, 40000))), Other},

	// Marks.
	{"a marked destination, first port", eth4(ip4(tcp, cip, marked, ports(40000, 80))), Marked},
	{"a marked destination, last port", eth4(ip4(tcp, cip, marked, ports(40000, 443))), Marked},
	{"below the rule's ports", eth4(ip4(tcp, cip, marked, ports(40000, 79))), Other},
	{"above the rule's ports", eth4(ip4(tcp, cip, marked, ports(40000, 444))), Other},
	{"not the rule's protocol", eth4(ip4(udp, cip, marked, ports(40000, 80))), Other},
	{"not from the rule's source", eth4(ip4(tcp, "172.32.0.1", marked, ports(40000, 80))), Other},
	{"not to the rule's destination", eth4(ip4(tcp, cip, "198.51.101.7", ports(40000, 80))), Other},
	{"a rule for every protocol and port", eth6(ip6(sctp, cip6, marked6, ports(1, 0))), Marked},
	{"IPVS serves no GRE, marked or not", eth6(ip6(unix.IPPROTO_GRE, cip6, marked6, ports(1, 0))), Other},
	{"nor ping", eth6(ip6(icmp6, cip6, marked6, icmp(128, nil))), Other},
	{"a rule of another interface", eth4(ip4(tcp, cip, another, ports(40000, 80))), Other},
	{"0.0.0.0/0 is all of IPv4", eth4(ip4(sctp, another, host, ports(1, 6000))), Marked},
	{"0.0.0.0/0 is nothing of IPv6", eth6(ip6(sctp, cip6, "2001:db8::1", ports(1, 6000))), Other},

	// ICMP errors (K-ICMP-1 to K-ICMP-6).
	{"unreachable to a VIP", eth4(ip4(icmp4, another, vip, icmp(3, ip4(tcp, vip, cip, ports(80, 40000)[:8])))), ICMPError},
	{"source quench to a VIP", eth4(ip4(icmp4, another, vip, icmp(4, ip4(tcp, vip, cip, ports(80, 40000)[:8])))), ICMPError},
	{"time exceeded to a VIP, nothing quoted", eth4(ip4(icmp4, another, vip, icmp(11, nil))), ICMPError},
	{"redirect to a VIP: the host's", eth4(ip4(icmp4, another, vip, icmp(5, ip4(tcp, vip, cip, ports(80, 40000)[:8])))), Other},
	{"parameter problem to a VIP", eth4(ip4(icmp4, another, vip, icmp(12, ip4(tcp, vip, cip, ports(80, 40000)[:8])))), Other},
	{"a quote from a VIP", eth4(ip4(icmp4, another, host, icmp(3, ip4(tcp, vip, cip, ports(80, 40000)[:8])))), ICMPError},
	{"a NAT server refuses a client's packet", eth4(ip4(icmp4, natRIP, cip, icmp(3, ip4(tcp, cip, natRIP, ports(40000, 8080)[:8])))), ICMPError},
	{"a router on the way to a NAT server", eth4(ip4(icmp4, another, cip, icmp(11, ip4(tcp, cip, natRIP, ports(40000, 8080)[:8])))), ICMPError},
	{"about our IPIP packet", eth4(ip4(icmp4, another, host, icmp(3, ip4(unix.IPPROTO_IPIP, host, tunRIP, ip4(tcp, cip, vip, ports(40000, 80)))))), ICMPError},
	{"about our GUE packet", eth4(ip4(icmp4, another, host, icmp(3, ip4(udp, host, tunRIP, ports(50000, 6080))))), ICMPError},
	{"about our GRE packet", eth4(ip4(icmp4, another, host, icmp(3, ip4(unix.IPPROTO_GRE, host, tunRIP, []byte{0, 0, 8, 0})))), ICMPError},
	{"about our 6in4 packet", eth4(ip4(icmp4, another, host, icmp(3, ip4(unix.IPPROTO_IPV6, host, tunRIP, nil)))), ICMPError},
	{"about a later fragment of our tunnel's packet", eth4(ip4(icmp4, another, host, icmp(3, ip4(udp, host, tunRIP, make([]byte, 8), laterFragment)))), ICMPError},
	{"about the host's DNS at a TUN server", eth4(ip4(icmp4, another, host, icmp(3, ip4(udp, host, tunRIP, ports(50000, 53))))), Other},
	{"about the host's ssh to a TUN server", eth4(ip4(icmp4, another, host, icmp(3, ip4(tcp, host, tunRIP, ports(50000, 22))))), Other},
	{"about the host's TCP to GUE's port", eth4(ip4(icmp4, another, host, icmp(3, ip4(tcp, host, tunRIP, ports(50000, 6080))))), Other},
	{"about the host's ping to a TUN server", eth4(ip4(icmp4, another, host, icmp(3, ip4(icmp4, host, tunRIP, icmp(8, nil))))), Other},
	{"about a tunnel of the host's, to another", eth4(ip4(icmp4, another, host, icmp(3, ip4(unix.IPPROTO_IPIP, host, another, nil)))), Other},
	{"about a tunnel of the host's to a NAT server", eth4(ip4(icmp4, another, host, icmp(3, ip4(unix.IPPROTO_GRE, host, natRIP, nil)))), Other},
	{"about the host's ssh to a NAT server", eth4(ip4(icmp4, another, host, icmp(3, ip4(tcp, host, natRIP, ports(50000, 22))))), Other},
	{"about UDP to a NAT server's port", eth4(ip4(icmp4, another, host, icmp(3, ip4(udp, host, natRIP, ports(50000, 8080))))), Other},
	{"about a NAT server of every port", eth4(ip4(icmp4, another, cip, icmp(3, ip4(tcp, cip, natAnyRIP, ports(40000, 31337))))), ICMPError},
	{"about ESP to a NAT server of IPsec", eth4(ip4(icmp4, another, cip, icmp(3, ip4(unix.IPPROTO_ESP, cip, natAnyRIP, make([]byte, 8))))), ICMPError},
	{"about ESP to another", eth4(ip4(icmp4, another, cip, icmp(3, ip4(unix.IPPROTO_ESP, cip, natRIP, make([]byte, 8))))), Other},
	{"about a packet to a NAT server, without ports", eth4(ip4(icmp4, another, cip, icmp(3, ip4(tcp, cip, natRIP, nil)))), Other},
	{"about the host's own packet", eth4(ip4(icmp4, another, host, icmp(3, ip4(udp, host, another, ports(50000, 53))))), Other},
	{"a quote cut short", eth4(ip4(icmp4, another, host, icmp(3, ip4(tcp, vip, cip, nil)[:19]))), Other},
	{"a quote of another version", eth4(ip4(icmp4, another, host, icmp(3, ip6(tcp, vip6, cip6, ports(443, 1))))), Other},
	{"a quote with a lying header length", eth4(ip4(icmp4, another, host, icmp(3, ip4(tcp, vip, cip, nil, set(0, 0x44))))), Other},
	{"a quote whose length lies", eth4(ip4(icmp4, another, host, icmp(3, ip4(tcp, vip, cip, ports(80, 40000), set(2, 0, 0))))), ICMPError},
	{"about a reply of a marked service", eth4(ip4(icmp4, another, marked, icmp(3, ip4(tcp, marked, cip, ports(80, 40000)[:8])))), ICMPError},
	{"about another reply of a marked address", eth4(ip4(icmp4, another, marked, icmp(3, ip4(tcp, marked, cip, ports(22, 40000)[:8])))), Other},
	{"about a later fragment of a marked service", eth4(ip4(icmp4, another, marked, icmp(3, ip4(tcp, marked, cip, make([]byte, 8), laterFragment)))), ICMPError},
	{"a marked quote without ports", eth4(ip4(icmp4, another, marked, icmp(3, ip4(tcp, marked, cip, nil)))), Other},
	{"too big to a VIP", eth6(ip6(icmp6, cip6, vip6, icmp(2, ip6(tcp, vip6, cip6, ports(443, 40000))))), ICMPError},
	{"ICMPv6 behind an extension header", eth6(ip6(hop, cip6, vip6, ext(icmp6, icmp(2, ip6(tcp, vip6, cip6, ports(443, 40000)))))), ICMPError},
	{"IPv6 quote of a packet to a NAT server", eth6(ip6(icmp6, natRIP6, cip6, icmp(1, ip6(tcp, cip6, natRIP6, ports(40000, 8443))))), ICMPError},
	{"IPv6 quote of our tunnel packet", eth6(ip6(icmp6, cip6, "2001:db8::1", icmp(2, ip6(unix.IPPROTO_IPV6, "2001:db8::1", tunRIP6, nil)))), ICMPError},
	{"IPv6 quote of the host's packet", eth6(ip6(icmp6, cip6, "2001:db8::1", icmp(1, ip6(udp, "2001:db8::1", cip6, ports(1, 53))))), Other},
	{"IPv6 quote of a marked service's reply", eth6(ip6(icmp6, cip6, "2001:db8::1", icmp(1, ip6(dest, marked6, cip6, ext(tcp, nil))))), ICMPError},
	{"ICMPv6 in IPv4", eth4(ip4(icmp6, another, vip, icmp(1, nil))), Other},
	{"ICMP in IPv6", eth6(ip6(icmp4, cip6, vip6, icmp(3, nil))), Other},
	{"half an ICMP header", eth4(ip4(icmp4, another, vip, icmp(3, nil)[:7])), Malformed},

	// Fragments (K-PATH-7).
	{"first fragment to a VIP", eth4(ip4(udp, cip, vip, ports(40000, 53), moreFragments)), Fragment},
	{"later fragment to a VIP", eth4(ip4(udp, cip, vip, make([]byte, 8), laterFragment)), Fragment},
	{"a fragment of 0 bytes", eth4(ip4(udp, cip, vip, nil, laterFragment)), Fragment},
	{"a NAT server's fragment", eth4(ip4(udp, natRIP, cip, make([]byte, 8), laterFragment)), Fragment},
	{"a TUN server's fragment", eth4(ip4(udp, tunRIP, cip, make([]byte, 8), laterFragment)), Other},
	{"a fragment from a VIP: accounting is not worth it", eth4(ip4(udp, vip, cip, make([]byte, 8), laterFragment)), Other},
	{"a fragment of nobody's", eth4(ip4(udp, cip, host, make([]byte, 8), laterFragment)), Other},
	{"a fragment to a marked address shows no port", eth4(ip4(tcp, cip, marked, make([]byte, 8), laterFragment)), Fragment},
	{"a marked fragment of another protocol", eth4(ip4(udp, cip, marked, make([]byte, 8), laterFragment)), Other},
	{"a big ping to a VIP, first", eth4(ip4(icmp4, cip, vip, icmp(8, nil), moreFragments)), Fragment},
	{"a big ping to a VIP, or an ICMP error: a later fragment tells nothing", eth4(ip4(icmp4, cip, vip, make([]byte, 8), laterFragment)), Fragment},
	{"an ICMP fragment of a NAT server's", eth4(ip4(icmp4, natRIP, cip, make([]byte, 8), laterFragment)), Fragment},
	{"an ICMP fragment of nobody's", eth4(ip4(icmp4, another, cip, make([]byte, 8), laterFragment)), Other},
	{"a big ping to a VIP that the host does not own, first", eth4(ip4(icmp4, cip, echoVIP, icmp(8, nil), moreFragments)), Fragment},
	{"a big ping to a VIP that the host does not own, later", eth4(ip4(icmp4, cip, echoVIP, make([]byte, 8), laterFragment)), Fragment},
	{"IPv6 fragment of a ping to such a VIP", eth6(ip6(fragment, cip6, echoVIP6, ext(icmp6, make([]byte, 8), set(3, 1)))), Fragment},
	{"GRE fragment to a VIP", eth4(ip4(unix.IPPROTO_GRE, cip, vip, make([]byte, 8), laterFragment)), Other},
	{"IPv6 first fragment to a VIP", eth6(ip6(fragment, cip6, vip6, ext(tcp, ports(40000, 443), set(3, 1)))), Fragment},
	{"IPv6 later fragment to a VIP", eth6(ip6(fragment, cip6, vip6, ext(tcp, make([]byte, 8), set(2, 5, 0xa8)))), Fragment},
	{"IPv6 fragment behind hop-by-hop", eth6(ip6(hop, cip6, vip6, ext(fragment, ext(tcp, nil, set(3, 1))))), Fragment},
	{"IPv6 fragment of an extension header", eth6(ip6(fragment, cip6, vip6, ext(dest, make([]byte, 8), set(2, 5, 0xa8)))), Fragment},
	{"IPv6 NAT server's fragment", eth6(ip6(fragment, natRIP6, cip6, ext(tcp, make([]byte, 8), set(3, 1)))), Fragment},
	{"IPv6 fragment to a marked address", eth6(ip6(fragment, cip6, marked6, ext(hop, nil, set(3, 1)))), Fragment},
	{"a marked fragment that hides its protocol", eth6(ip6(fragment, cip6, "2001:db8:8::8", ext(hop, nil, set(3, 1)))), Fragment},
	{"a marked fragment of another IPv6 protocol", eth6(ip6(fragment, cip6, "2001:db8:8::8", ext(udp, nil, set(3, 1)))), Other},
	{"IPv6 fragment of nobody's", eth6(ip6(fragment, cip6, "2001:db8::1", ext(tcp, nil, set(3, 1)))), Other},
	{"IPv6 big ping to a VIP", eth6(ip6(fragment, cip6, vip6, ext(icmp6, nil, set(3, 1)))), Fragment},
	{"IPv6 fragment header cut short", eth6(ip6(fragment, cip6, vip6, ext(tcp, nil)[:7])), Malformed},

	// AH and ESP (K-PROTO-AH/ESP).
	{"ESP to a VIP", eth4(ip4(unix.IPPROTO_ESP, cip, vip, make([]byte, 16))), Other},
	{"ESP to a flagged VIP", eth4(ip4(unix.IPPROTO_ESP, cip, anyVIP, make([]byte, 16))), IPsec},
	{"AH to a flagged VIP", eth4(ip4(unix.IPPROTO_AH, cip, anyVIP, make([]byte, 16))), IPsec},
	{"ESP fragment to a flagged VIP", eth4(ip4(unix.IPPROTO_ESP, cip, anyVIP, make([]byte, 16), laterFragment)), IPsec},
	{"ESP from a NAT server", eth4(ip4(unix.IPPROTO_ESP, natRIP, cip, make([]byte, 16))), Other},
	{"ESP from a flagged NAT server", eth4(ip4(unix.IPPROTO_ESP, natAnyRIP, cip, make([]byte, 16))), IPsec},
	{"ESP to a flagged NAT server", eth4(ip4(unix.IPPROTO_ESP, cip, natAnyRIP, make([]byte, 16))), Other},

	// Lies.
	{"IPv4 of version 5", eth4(ip4(tcp, cip, vip, ports(40000, 80), set(0, 0x55))), Malformed},
	{"an IPv4 header of 16 bytes", eth4(ip4(tcp, cip, vip, ports(40000, 80), set(0, 0x44))), Malformed},
	{"a header longer than the datagram", eth4(ip4(tcp, cip, vip, nil, set(0, 0x46))), Malformed},
	{"a datagram longer than the frame", eth4(ip4(tcp, cip, vip, ports(40000, 80), set(2, 0, 41))), Malformed},
	{"a datagram of 64 kB", eth4(ip4(tcp, cip, vip, ports(40000, 80), set(2, 0xff, 0xff))), Malformed},
	{"ports in the padding", eth4(ip4(tcp, cip, vip, ports(40000, 80), set(2, 0, 23))), Malformed},
	{"IPv6 of version 4", eth6(ip6(tcp, cip6, vip6, ports(40000, 443), set(0, 0x40))), Malformed},
	{"an IPv6 payload longer than the frame", eth6(ip6(tcp, cip6, vip6, ports(40000, 443), set(4, 0, 21))), Malformed},
	{"an IPv6 payload of 0 bytes", eth6(ip6(tcp, cip6, vip6, ports(40000, 443), set(4, 0, 0))), Malformed},
	{"IPv4's service in IPv6 clothes", eth6(ip6(tcp, cip6, "::ffff:"+vip, ports(40000, 80))), Malformed},
	{"IPv4's server in IPv6 clothes", eth6(ip6(tcp, "::ffff:"+natRIP, cip6, ports(8080, 40000))), Malformed},
	{"IPv4 under IPv6's type", eth6(ip4(tcp, cip, vip, ports(40000, 80))), Malformed},
}

// load returns a Steer with w and an instance of the program that is attached
// nowhere and runs by BPF_PROG_TEST_RUN.
func load(t *testing.T, opts Options, w Want) (*Steer, *Attachment) {
	t.Helper()
	testnet.NeedRoot(t)
	opts.Returned = returned
	s, err := Load(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	a, err := s.instance(0, Generic)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() {
		if err := a.release(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Update(w); err != nil {
		t.Fatal(err)
	}
	for _, f := range hosts {
		if err := s.Learn(f, s.Generation().Load()); err != nil {
			t.Fatal(err)
		}
	}
	return s, a
}

// giveSocket puts an AF_XDP socket into the map. It need not be bound: in
// BPF_PROG_TEST_RUN nothing goes there, but the verdict is XDP_REDIRECT.
func giveSocket(t *testing.T, a *Attachment, queue int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := a.SetSocket(queue, fd); err != nil {
		t.Fatal(err)
	}
}

// probe shows what the program does with a frame: the verdict that the kernel
// saw, and the one reason whose count rose by one.
type probe struct {
	a    *Attachment
	last [Reasons]uint64
}

func (p *probe) run(frame []byte) (redirected bool, r Reason, err error) {
	verdict, err := p.a.loaded.Program.Run(&ebpf.RunOptions{Data: frame})
	if err != nil {
		return false, 0, err
	}
	if verdict != 4 && verdict != 2 { // XDP_REDIRECT, XDP_PASS
		return false, 0, fmt.Errorf("verdict %d", verdict)
	}
	rows, err := p.a.counts()
	if err != nil {
		return false, 0, err
	}
	if len(rows) != 1 || rows[0].Queue != 0 {
		return false, 0, fmt.Errorf("counts %+v, want queue 0's only", rows)
	}
	r = Reasons
	for i, n := range rows[0].ByReason {
		switch n - p.last[i] {
		case 0:
		case 1:
			if r != Reasons {
				return false, 0, fmt.Errorf("counted as %v and as %v", r, Reason(i))
			}
			r = Reason(i)
		default:
			return false, 0, fmt.Errorf("counted %d times", n-p.last[i])
		}
	}
	if r == Reasons {
		return false, 0, errors.New("not counted")
	}
	p.last = rows[0].ByReason
	return verdict == 4, r, nil
}

func TestVerdicts(t *testing.T) {
	_, a := load(t, Options{Queues: 1}, steered())
	giveSocket(t, a, 0)
	p := probe{a: a}
	for _, tt := range packets {
		redirected, r, err := p.run(tt.frame)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if r != tt.want || redirected != tt.want.Redirects() {
			t.Errorf("%s: redirected %v as %v, want %v", tt.name, redirected, r, tt.want)
		}
	}
}

// The twin is only worth comparing with if it agrees with people first.
func TestModelVerdicts(t *testing.T) {
	w := steered()
	for _, tt := range packets {
		if r := model(&w, tt.frame); r != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, r, tt.want)
		}
	}
}

// A queue without a socket, and tables without entries, change nothing for
// the host.
func TestPassesWithoutSocket(t *testing.T) {
	_, a := load(t, Options{Queues: 1}, steered())
	p := probe{a: a}
	for _, tt := range packets {
		want := tt.want
		if want.Redirects() {
			want = NoSocket
		}
		if redirected, r, err := p.run(tt.frame); err != nil || redirected || r != want {
			t.Errorf("%s: redirected %v as %v, %v, want %v", tt.name, redirected, r, err, want)
		}
	}
}

func TestPassesWithoutEntries(t *testing.T) {
	_, a := load(t, Options{Queues: 1}, Want{})
	giveSocket(t, a, 0)
	p := probe{a: a}
	for _, tt := range packets {
		if redirected, r, err := p.run(tt.frame); err != nil || redirected || r.Redirects() {
			t.Errorf("%s: redirected %v as %v, %v", tt.name, redirected, r, err)
		}
	}
}

// A frame that ends before its datagram does is never ours.
func TestPrefixes(t *testing.T) {
	_, a := load(t, Options{Queues: 1}, steered())
	giveSocket(t, a, 0)
	p, w := probe{a: a}, steered()
	for _, tt := range packets {
		for n := 14; n < len(tt.frame); n++ { // the kernel gives the program no less
			redirected, r, err := p.run(tt.frame[:n])
			if err != nil {
				t.Fatalf("%s: first %d bytes: %v", tt.name, n, err)
			}
			if want := model(&w, tt.frame[:n]); r != want || redirected != want.Redirects() {
				t.Errorf("%s: first %d bytes: redirected %v as %v, want %v", tt.name, n, redirected, r, want)
			}
			if r.Redirects() && tt.name != "Ethernet padding" && tt.name != "ports in the padding" {
				t.Errorf("%s: first %d bytes of %d redirected as %v", tt.name, n, len(tt.frame), r)
			}
		}
	}
}

// The program and its plain twin agree on frames that nobody thought of.
func TestMutations(t *testing.T) {
	_, a := load(t, Options{Queues: 1}, steered())
	giveSocket(t, a, 0)
	p, w := probe{a: a}, steered()
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	seen := map[Reason]int{}
	for i := range 10000 {
		frame := mutate(rng, packets[rng.IntN(len(packets))].frame)
		redirected, r, err := p.run(frame)
		if err != nil {
			t.Fatalf("seed %d: %x: %v", seed, frame, err)
		}
		if want := model(&w, frame); r != want || redirected != want.Redirects() {
			t.Fatalf("seed %d, frame %d: %x: redirected %v as %v, want %v", seed, i, frame, redirected, r, want)
		}
		seen[r]++
	}
	for r := range Reasons {
		if seen[r] == 0 && r != NoSocket {
			t.Errorf("seed %d: no frame counted as %v: %v", seed, r, seen)
		}
	}
}

func mutate(rng *rand.Rand, frame []byte) []byte {
	frame = bytes.Clone(frame)
	for range rng.IntN(4) {
		switch at := rng.IntN(len(frame)); rng.IntN(6) {
		case 0:
			frame[at] = byte(rng.Uint32())
		case 1:
			frame[at] ^= 1 << rng.IntN(8)
		case 2:
			frame[at] = []byte{0, 1, tcp, udp, 41, hop, routing, fragment, dest, icmp6, 0xff}[rng.IntN(11)]
		case 3:
			frame = append(frame, make([]byte, rng.IntN(12))...)
		case 4: // another packet's bytes in the same place
			copy(frame[at:], packets[rng.IntN(len(packets))].frame[min(at, 20):])
		case 5:
			frame = frame[:max(14, len(frame)-rng.IntN(12))]
		}
	}
	return frame
}

// Frames of each queue go to that queue's socket and into its counts.
func TestQueues(t *testing.T) {
	net := testnet.New(t, testnet.Plan{Links: []testnet.Link{{
		A: testnet.End{In: "director", Name: "in", RxQueues: 4, TxQueues: 4}, B: testnet.End{In: "client", Name: "out", RxQueues: 4, TxQueues: 4},
	}}})
	nic, err := net.In("director").Netlink().LinkByName("in")
	if err != nil {
		t.Fatal(err)
	}
	ifindex := nic.Attrs().Index
	w := steered()
	w.Marks[3].Ifindex = ifindex // now it does match
	s, a := load(t, Options{Queues: 3}, w)
	giveSocket(t, a, 1)
	giveSocket(t, a, 2)
	if err := a.RemoveSocket(2); err != nil {
		t.Fatal(err)
	}
	if err := a.RemoveSocket(2); err != nil {
		t.Errorf("a second removal: %v", err)
	}
	for _, q := range []int{-1, 3} {
		if err := a.SetSocket(q, 0); err == nil {
			t.Errorf("a socket for queue %d of 3 is accepted", q)
		}
	}
	frame := eth4(ip4(tcp, cip, another, ports(40000, 80)))
	for queue := range 4 {
		type xdpMD struct{ Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32 }
		in := xdpMD{DataEnd: uint32(len(frame)), IngressIfindex: uint32(ifindex), RxQueueIndex: uint32(queue)}
		verdict, err := uint32(0), error(nil)
		err = errors.Join(net.In("director").Do(func() error {
			verdict, err = a.loaded.Program.Run(&ebpf.RunOptions{Data: frame, Context: in})
			return err
		}))
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]uint32{true: 4, false: 2}[queue == 1]; verdict != want {
			t.Errorf("queue %d: verdict %d, want %d", queue, verdict, want)
		}
	}
	s.attachments = append(s.attachments, a) // as if it were attached
	rows, err := s.Counts()
	s.attachments = nil
	if err != nil {
		t.Fatal(err)
	}
	want := []Count{{Queue: -1, Passed: 1}, {Queue: 0, Passed: 1}, {Queue: 1, Redirected: 1}, {Queue: 2, Passed: 1}}
	want[0].ByReason[NoSocket], want[1].ByReason[NoSocket], want[2].ByReason[Marked], want[3].ByReason[NoSocket] = 1, 1, 1, 1
	if fmt.Sprint(rows) != fmt.Sprint(want) {
		t.Errorf("counts\n%+v, want\n%+v", rows, want)
	}
}

func TestReasonNames(t *testing.T) {
	for r := range Reasons {
		if r.String() == "" {
			t.Errorf("reason %d has no name", r)
		}
	}
	if got := Reasons.String(); got != "reason 14" || Reasons.Redirects() {
		t.Errorf("the number of reasons is %q, redirects %v", got, Reasons.Redirects())
	}
}

func TestMain(m *testing.M) {
	if role := os.Getenv("XDPPROG_CHILD"); role != "" {
		child(role)
		return
	}
	os.Exit(m.Run())
}
