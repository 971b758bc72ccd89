package fastpath

import (
	"encoding/binary"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/lb/sched"
)

// New returns a Pipeline that has no services and no routes yet: Adopt and
// Routes give it both before the first Process.
func New(c Config) *Pipeline {
	p := &Pipeline{worker: c.Worker, conns: c.Conns, templates: c.Templates, steering: c.Steering, roles: c.Roles, icmp: c.ICMP, room: c.Room, maxLearnt: c.MaxLearnt, helper: c.Helper}
	p.learnt, p.random, p.tunnelSeed = make(map[flow.Key]struct{}, c.MaxLearnt), c.Random, flow.Seed{c.Random, ^c.Random}
	p.expireOne, p.expireOneTemplate = p.expire, p.expireTemplate
	return p
}

// sweepDelay is for how long connections of a removed server outlive it when
// expire_nodest_conn is set: what the kernel's work queue takes to get to them.
const sweepDelay = 2 // ticks

// Adopt makes s the services that the next batch sees. It is called between
// batches and may allocate: it follows a change by the operator.
func (p *Pipeline) Adopt(s *lb.Snapshot, now clock.Ticks) {
	p.now = now
	for len(p.scheds) < len(s.Services) {
		p.scheds = append(p.scheds, nil)
	}
	p.v4, p.v6 = false, false
	for slot, svc := range s.Services {
		p.adoptService(slot, svc)
	}
	for len(p.realHops) < len(s.Reals) {
		p.realHops = append(p.realHops, realHop{})
	}
	if s.Sysctl.ExpireNoDestConn != 0 && p.snap != nil && lostServer(p.snap, s) {
		p.sweep, p.sweepAt = 1, now+sweepDelay
		p.conns.Remind(p.sweepAt)
	}
	var was []lb.Real // whose ways still hold
	if p.snap != nil && p.snap.Sysctl.PMTUDisc == s.Sysctl.PMTUDisc {
		was = p.snap.Reals
	}
	for i := range s.Reals {
		if i < len(was) && was[i] == s.Reals[i] {
			continue
		}
		p.realHops[i] = realHop{encap: rewrite.NewEncap(&s.Reals[i], s.Sysctl.PMTUDisc != 0, p.tunnelSeed)}
	}
	p.rows = s.Adopt(p.worker, p.snap)
	p.snap = s
	p.loads.Adopt(s, p.rows)
	p.lanes = append(p.lanes, make([]lane, max(0, len(s.Reals)-len(p.lanes)))...)
	p.version++
	for state := range p.timeouts {
		p.timeouts[state] = s.Timeouts.Of(packet.ProtoTCP, conn.State(state))
	}
	p.listen()
	p.timeoutUDP = s.Timeouts.Of(packet.ProtoUDP, conn.UDPNormal)
	p.setDefence()
}

// lostServer says whether a server was removed between two snapshots.
func lostServer(was, is *lb.Snapshot) bool {
	for i := range was.Reals {
		if was.Reals[i].Available && !is.Reals[i].Available {
			return true
		}
	}
	return false
}

// adoptService brings the scheduler of one slot up to date with svc.
func (p *Pipeline) adoptService(slot int, svc *lb.Service) {
	if svc == nil {
		p.scheds[slot] = nil
		return
	}
	p.v4, p.v6 = p.v4 || !svc.V6, p.v6 || svc.V6
	var old *lb.Service
	if p.snap != nil && slot < len(p.snap.Services) {
		old = p.snap.Services[slot]
	}
	if old == svc {
		return
	}
	if old == nil || old.Key != svc.Key || old.Scheduler != svc.Scheduler || (old.Flags^svc.Flags)&sched.Heeds(svc.Scheduler) != 0 || p.scheds[slot] == nil {
		p.scheds[slot], _ = sched.New(svc.Scheduler, svc.Flags) // the director checked the name
	}
	if p.scheds[slot] != nil {
		p.scheds[slot].Adopt(svc.Dests, svc.Plan)
	}
}

// Routes makes t the next hops that the next batch sees.
func (p *Pipeline) Routes(t *nexthop.Table) {
	p.hops = t
	p.version++
	p.rerouted = p.now
	p.ways, p.wayOf = make([]header, 1, min(t.Len()+1, 1<<16)), make([]uint16, t.Len()) // as many as connections can note
	p.listen()
}

// listen says which frames may be plain: those to an interface's own address while
// there are services of IPv4.
func (p *Pipeline) listen() {
	p.macs = p.macs[:0]
	for i := range p.interfaces() {
		mac := binary.LittleEndian.Uint64(append([]byte{0, 0}, p.hops.Interfaces[i].MAC[:]...))
		if !p.v4 {
			mac = 1 // which no frame is compared with
		}
		p.macs = append(p.macs, mac)
	}
}

// interfaces is how many there are.
func (p *Pipeline) interfaces() int {
	if p.hops == nil {
		return 0
	}
	return len(p.hops.Interfaces)
}

// newLane makes the lane of a real server for the services and routes of now.
func (p *Pipeline) newLane(l *lane, real uint32) {
	r := &p.snap.Reals[real]
	*l = lane{version: p.version, how: never}
	if !r.Available || r.V6 || r.Forward != lb.NAT && r.Forward != lb.DR {
		return
	}
	if l.header = p.headerOf(p.way(&r.Addr, r.Forward)); l.mtu != 0 {
		l.how = conn.Flags(r.Forward)
	}
	l.addr = binary.LittleEndian.Uint32(r.Addr[12:])
	l.row, l.svc = p.rows.Real(real), p.rows.Service(r.Service)
}

// headerOf returns the header of a next hop.
func (p *Pipeline) headerOf(hop *nexthop.Hop) header {
	if hop.State != nexthop.Reachable || hop.VLANs != 0 {
		return header{}
	}
	iface := &p.hops.Interfaces[hop.Iface]
	if iface.Port < 0 || !iface.Up {
		return header{}
	}
	var b [16]byte
	copy(b[:], hop.DstMAC[:])
	copy(b[6:], hop.SrcMAC[:])
	return header{
		dst: binary.LittleEndian.Uint64(b[:]), src: binary.LittleEndian.Uint32(b[8:]),
		mtu: hop.MTU, out: uint16(iface.Port),
	}
}

// stays has, by secure_tcp, direction and state, a bit for each combination of the TCP
// flags FIN, SYN, RST and ACK that leaves a connection in its state and opens nothing.
var stays = func() (t [2][4][16]uint32) {
	for flags := range uint8(32) { // FIN, SYN, RST, PSH and ACK: PSH says nothing
		for i := range 2 * 4 * 16 {
			secure, d, s := i>>6, i>>4&3, i&15
			if flags&packet.SYN == 0 && conn.NextTCP(secure == 1, conn.Direction(d), conn.State(s), packet.TCPEvent(flags)) == conn.State(s) {
				t[secure][d][s] |= 1 << flags
			}
		}
	}
	return t
}()
