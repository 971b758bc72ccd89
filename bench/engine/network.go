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

// servers is how many real servers the virtual service has.
const servers = 100

const (
	vport = 80
	rport = 8080 // of NAT servers
)

// MAC addresses: the director's two, the router to the clients, the servers.
var (
	frontMAC  = [6]byte{2, 0, 0, 0, 0, 1}
	backMAC   = [6]byte{2, 0, 0, 0, 0, 2}
	routerMAC = [6]byte{2, 0, 0, 0, 1, 0xfe}
)

func serverMAC(i int) [6]byte { return [6]byte{2, 0, 0, 0, 2, byte(i)} }

// network is a director between a router, behind which all clients are, and
// its servers.
type network struct {
	scenario Scenario
	vip      pktgen.Endpoint
	servers  []pktgen.Endpoint
}

func newNetwork(s Scenario) *network {
	n := &network{scenario: s}
	n.vip = pktgen.Endpoint{Addr: flow.FromNetip(n.addr(1, 100)), Port: vport}
	for i := range servers {
		n.servers = append(n.servers, pktgen.Endpoint{Addr: flow.FromNetip(n.addr(2, 10+i)), Port: n.serverPort()})
	}
	return n
}

// addr is a host's address in a subnet: 1 the clients' router's, 2 the servers'.
func (n *network) addr(subnet, host int) netip.Addr {
	if n.scenario.V6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:%d::%d", subnet, host))
	}
	return netip.AddrFrom4([4]byte{10, 0, byte(subnet), byte(host)})
}

func (n *network) serverPort() uint16 {
	if n.scenario.Method == NATIn || n.scenario.Method == NATOut {
		return rport
	}
	return vport
}

// service is the virtual service with its servers.
func (n *network) service() lb.ServiceSpec {
	forward := map[Method]lb.Forward{NATIn: lb.NAT, NATOut: lb.NAT, DR: lb.DR, IPIP: lb.TUN}[n.scenario.Method]
	s := lb.ServiceSpec{
		Key:       lb.ServiceKey{Proto: lb.ProtoTCP, Addr: n.vip.Addr.Netip(), Port: n.vip.Port},
		Scheduler: n.scenario.Mix.scheduler(),
	}
	for i, e := range n.servers {
		s.Servers = append(s.Servers, lb.RealSpec{
			Key: lb.RealKey{Addr: e.Addr.Netip(), Port: e.Port}, Weight: int32(1 + i%5), Forward: forward,
		})
	}
	return s
}

// routes is the director's next-hop table.
func (n *network) routes() (*nexthop.Table, error) {
	var b nexthop.Builder
	bits := map[bool]int{false: 24, true: 64}[n.scenario.V6]
	for i, mac := range [][6]byte{frontMAC, backMAC} {
		b.AddInterface(nexthop.Interface{
			Name: fmt.Sprint("eth", i), Port: i, MAC: mac, MTU: 1500, Up: true,
			Addrs: []netip.Prefix{netip.PrefixFrom(n.addr(1+i, 1), bits)},
		})
	}
	router := n.addr(1, 254)
	everyone := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if n.scenario.V6 {
		everyone = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	if err := b.AddNeighbor(router, routerMAC, clientSide); err != nil {
		return nil, err
	}
	if err := b.AddRoute(everyone, router, clientSide, netip.Addr{}, 0); err != nil {
		return nil, err
	}
	for i, e := range n.servers {
		if err := b.AddNeighbor(e.Addr.Netip(), serverMAC(i), serverSide); err != nil {
			return nil, err
		}
	}
	return b.Build(1), nil
}

// minFrame is Ethernet's shortest frame in bytes, without its checksum.
const minFrame = 60

// request is a packet from the client of flow 0, with those TCP flags.
func (n *network) request(flags uint8) []byte {
	client := pktgen.Client(0, n.scenario.V6)
	return n.frame(frontMAC, routerMAC, client, n.vip, flags)
}

// reply is a packet from the first server to the client of flow 0.
func (n *network) reply() []byte {
	client := pktgen.Client(0, n.scenario.V6)
	return n.frame(backMAC, serverMAC(0), n.servers[0], client, ack)
}

// frame builds a packet without payload.
func (n *network) frame(to, from [6]byte, src, dst pktgen.Endpoint, flags uint8) []byte {
	p := packettest.Eth(mac(to), mac(from))
	if n.scenario.V6 {
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
