package wire

import (
	"fmt"
	"net/netip"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
)

// Names of subjects.
const (
	Sluice     = "sluice"        // in scenarios where it has one way to forward
	Conntrack  = "nftables-dnat" // in those of connections
	IPVS       = "ipvs"
	SluiceNAT  = "sluice-nat"
	SluiceDR   = "sluice-dr"
	SluiceIPIP = "sluice-ipip"
	L2fwd      = "l2fwd"          // our own forwarder in C on AF_XDP, of bench/peers
	Testpmd    = "dpdk-testpmd"   // Debian's, on net_af_xdp
	Forward    = "kernel-forward" // ip_forward
	NftDNAT    = "nft-dnat"       // nftables DNAT with conntrack
	NftDR      = "nft-dr"         // nftables on netdev ingress, without states
	// The same three in NAPI threads on the worker's CPU, not in the sender's softirq.
	ForwardThreaded = Forward + "-threaded"
	NftDNATThreaded = NftDNAT + "-threaded"
	NftDRThreaded   = NftDR + "-threaded"

	IPVSNAT   = "kernel-ipvs-nat"
	IPVSDR    = "kernel-ipvs-dr"
	IPVSIPIP  = "kernel-ipvs-ipip"
	Generator = "generator" // alone: what the others can at most receive
)

// subjects are all that get the loads, in the order in which they take turns.
func subjects() []subject {
	toVIP := netip.MustParseAddrPort(fmt.Sprintf("%s:%d", vip, vport))
	toServer := netip.MustParseAddrPort(fmt.Sprintf("%s:%d", serverAddr, rport))
	return []subject{
		{name: SluiceNAT, start: startSluice("udp", "nat", rport), want: toServer, forwarded: forwardedNAT},
		{name: L2fwd, lacks: lacksL2fwd, start: startL2fwd, want: toVIP, forwarded: forwardedL2},
		{name: NftDNAT, lacks: needs("ethtool", "nft"), start: startNftDNAT(inline), want: toServer, forwarded: forwardedNAT},
		{name: NftDNATThreaded, lacks: needs("ethtool", "nft"), start: startNftDNAT(threaded), want: toServer, forwarded: forwardedNAT},
		{name: Forward, lacks: needs("ethtool"), start: startForward(inline), want: toVIP, forwarded: forwardedL3},
		{name: ForwardThreaded, lacks: needs("ethtool"), start: startForward(threaded), want: toVIP, forwarded: forwardedL3},
		{name: Testpmd, lacks: lacksTestpmd, start: startTestpmd, want: toVIP, forwarded: forwardedL2},
		{name: SluiceDR, start: startSluice("udp", "dr", vport), want: toVIP, forwarded: forwardedDR, direct: true},
		{name: NftDR, lacks: needs("ethtool", "nft"), start: startNftDR(inline), want: toVIP, forwarded: forwardedL2, direct: true},
		{name: NftDRThreaded, lacks: needs("ethtool", "nft"), start: startNftDR(threaded), want: toVIP, forwarded: forwardedL2, direct: true},
		{name: SluiceIPIP, start: startSluice("udp", "tun", vport), want: toVIP, forwarded: forwardedIPIP, direct: true},
		{name: IPVSNAT, lacks: needsIPVS, start: startIPVS(inline, "-u", "-m", rport), want: toServer, forwarded: forwardedNAT},
		{name: IPVSDR, lacks: needsIPVS, start: startIPVS(inline, "-u", "-g", vport), want: toVIP, forwarded: forwardedDR, direct: true},
		{name: IPVSIPIP, lacks: needsIPVS, start: startIPVS(inline, "-u", "-i", vport), want: toVIP, forwarded: forwardedIPIP, direct: true},
		{name: Generator, want: toVIP},
	}
}

// forwardedNAT, and those that follow, are what a forwarder of that kind makes of a request.
func forwardedNAT(s Shape, sport uint16) []byte {
	return packettest.Eth(serverMAC, backMAC).IP4(clientAddr, serverAddr).TTL(63).UDP(sport, rport).Payload(s.payload()).Bytes()
}

func forwardedL2(s Shape, sport uint16) []byte {
	return packettest.Eth(serverMAC, backMAC).IP4(clientAddr, vip).UDP(sport, vport).Payload(s.payload()).Bytes()
}

func forwardedL3(s Shape, sport uint16) []byte {
	return packettest.Eth(serverMAC, backMAC).IP4(clientAddr, vip).TTL(63).UDP(sport, vport).Payload(s.payload()).Bytes()
}

func forwardedDR(s Shape, sport uint16) []byte { return forwardedL3(s, sport) }

func forwardedIPIP(s Shape, sport uint16) []byte {
	inner := packettest.Eth(serverMAC, backMAC).IP4(clientAddr, vip).TTL(63).UDP(sport, vport).Payload(s.payload())
	return packettest.Eth(serverMAC, backMAC).IP4("10.0.2.1", serverAddr).TTL(63).Encap(inner).Bytes()
}
