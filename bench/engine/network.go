package engine

import (
	"fmt"
	"net/netip"

	"github.com/sluice-lb/sluice/bench/pktgen"
	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/flow"
)

// TCP flags of the packets.
const (
	syn = packettest.SYN
	ack = packettest.ACK
)

const (
	vport   = 80
	rport   = 8080 // of NAT servers
	guePort = 6080
)

// MAC addresses: the director's two, the router to the clients, the servers.
var (
	frontMAC  = [6]byte{2, 0, 0, 0, 0, 1}
	backMAC   = [6]byte{2, 0, 0, 0, 0, 2}
	routerMAC = [6]byte{2, 0, 0, 0, 1, 0xfe}
)

func serverMAC(i int) [6]byte { return [6]byte{2, 0, 0, 2, byte(i >> 8), byte(i)} }

// network is a director between a router, behind which all clients are, and
// its servers. Of what there is for each family the first is IPv4's.
type network struct {
	scenario Scenario
	families []int                // those whose packets there are, as indexes
	vips     [2][]pktgen.Endpoint // of each service
	servers  [2][]pktgen.Endpoint
}

func newNetwork(s Scenario) *network {
	n := &network{scenario: s, families: map[Family][]int{V4: {0}, V6: {1}, Mixed: {0, 1}}[s.Family]}
	nServices, nServers := s.Scale.Sizes()
	for f := range n.vips {
		for i := range nServices {
			n.vips[f] = append(n.vips[f], pktgen.Endpoint{Addr: flow.FromNetip(addr(f, virtual, i)), Port: vport})
		}
		for i := range nServers {
			n.servers[f] = append(n.servers[f], pktgen.Endpoint{Addr: flow.FromNetip(addr(f, serverSubnet, firstServer+i)), Port: n.serverPort()})
		}
	}
	return n
}

// family returns the family of a flow's packets.
func (n *network) family(flow int) int {
	return n.families[flow%len(n.families)]
}

// vip returns the service that a flow is to.
func (n *network) vip(flow int) *pktgen.Endpoint {
	vips := n.vips[n.family(flow)]
	return &vips[flow/len(n.families)%len(vips)]
}

// Subnets, /16 and /64, and the first server in its own.
const (
	clientSubnet = 1 // of the clients' router
	serverSubnet = 2
	virtual      = 3

	firstServer = 10
)

// addr is a host's address in a subnet.
func addr(family, subnet, host int) netip.Addr {
	if family == 1 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:%d::%x", subnet, host))
	}
	return netip.AddrFrom4([4]byte{10, byte(subnet), byte(host >> 8), byte(host)})
}

func (n *network) serverPort() uint16 {
	if n.scenario.Method == NATIn || n.scenario.Method == NATOut {
		return rport
	}
	return vport
}

// services are the virtual services with their servers, for each family.
func (n *network) services() (all []lb.ServiceSpec) {
	forward := map[Method]lb.Forward{NATIn: lb.NAT, NATOut: lb.NAT, DR: lb.DR, IPIP: lb.TUN, GUE: lb.TUN}[n.scenario.Method]
	tunnel := lb.Tunnel{}
	if n.scenario.Method == GUE {
		tunnel = lb.Tunnel{Type: lb.GUE, Port: guePort}
	}
	for _, f := range n.families {
		for i, vip := range n.vips[f] {
			s := lb.ServiceSpec{
				Key:       lb.ServiceKey{Proto: lb.ProtoTCP, Addr: vip.Addr.Netip(), Port: vport},
				Scheduler: n.scenario.Mix.scheduler(),
			}
			for j := i % len(n.servers[f]); j < len(n.servers[f]); j += len(n.vips[f]) {
				e := &n.servers[f][j]
				s.Servers = append(s.Servers, lb.RealSpec{
					Key: lb.RealKey{Addr: e.Addr.Netip(), Port: e.Port}, Weight: int32(1 + j%5), Forward: forward, Tunnel: tunnel,
				})
			}
			all = append(all, s)
		}
	}
	return all
}

// routes is the director's next-hop table.
func (n *network) routes() (*nexthop.Table, error) {
	var b nexthop.Builder
	for i, mac := range [][6]byte{frontMAC, backMAC} {
		b.AddInterface(nexthop.Interface{
			Name: fmt.Sprint("eth", i), Port: i, MAC: mac, MTU: 1500, Up: true,
			Addrs: []netip.Prefix{netip.PrefixFrom(addr(0, clientSubnet+i, 1), 16), netip.PrefixFrom(addr(1, clientSubnet+i, 1), 64)},
		})
	}
	for f, everyone := range []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
		router := addr(f, clientSubnet, 254)
		if err := b.AddNeighbor(router, routerMAC, clientSide); err != nil {
			return nil, err
		}
		if err := b.AddRoute(everyone, router, clientSide, netip.Addr{}, 0); err != nil {
			return nil, err
		}
		for i, e := range n.servers[f] {
			if err := b.AddNeighbor(e.Addr.Netip(), serverMAC(i), serverSide); err != nil {
				return nil, err
			}
		}
	}
	return b.Build(1), nil
}

// minFrame is Ethernet's shortest frame in bytes, without its checksum.
const minFrame = 60

// request is a packet of a family from the client of flow 0, with those TCP flags.
func (n *network) request(family int, flags uint8) []byte {
	return frame(frontMAC, routerMAC, pktgen.Client(0, family == 1), n.vips[family][0], flags)
}

// reply is a packet from the family's first server to the client of flow 0.
func (n *network) reply(family int) []byte {
	return frame(backMAC, serverMAC(0), n.servers[family][0], pktgen.Client(0, family == 1), ack)
}

// frame builds a packet without payload.
func frame(to, from [6]byte, src, dst pktgen.Endpoint, flags uint8) []byte {
	p := packettest.Eth(mac(to), mac(from))
	if !src.Addr.Is4() {
		p = p.IP6(src.Addr.String(), dst.Addr.String())
	} else {
		p = p.IP4(src.Addr.String(), dst.Addr.String())
	}
	frame := p.TCP(src.Port, dst.Port, flags).Bytes()
	return append(frame, make([]byte, max(0, minFrame-len(frame)))...)
}

func mac(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}
