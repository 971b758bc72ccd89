package lb

import (
	"sync/atomic"

	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/lb/sched"
)

// NoReal is the real ID of connections without a server.
const NoReal = ^uint32(0)

// NoService is the slot of removed real servers: they belong to no service,
// and nothing is counted for them (K-STAT-1).
const NoService = ^uint32(0)

// Snapshot is what workers read: immutable, but for the Rows and overload
// flags that it gives access to. What did not change since the last one is
// shared with it.
type Snapshot struct {
	Generation uint64     // counts changes, from 1 for the empty start
	Services   []*Service // by slot; nil: a free slot. A service that did not change keeps its pointer
	Reals      []Real     // by real ID; removed ones stay while connections may point at them (K-DST-8)
	Timeouts   conn.Timeouts
	Sysctl     Sysctl
	Marks      *MarkTable // nil: no mark rules

	lookup
	rows     []*Rows
	overload []*[chunkRows]atomic.Bool
	born     uint64 // the last generation in which a slot or ID got a new holder
}

// lookup is what a snapshot's searches read.
type lookup struct {
	services index // slot by protocol, address and port
	marked   index // slot by mark and family
	vips     index // addresses of services
	natReals index // NAT servers by protocol (0: any), address and port
	reals    index // addresses of real servers, removed ones too
	tunnels  index // real ID of TUN servers by outer protocol, address and GUE's port
	ftp, any bool  // there are services of port 21, of port 0 (K-SVC-1)
}

// Service is a virtual service as workers read it. It is immutable.
type Service struct {
	Slot        uint32
	Name        string
	Key         ServiceKey
	Addr        flow.Addr // of a mark service: zero
	Port        uint16    // 0: every port
	Proto       uint8     // of a mark service: 0
	Mark        uint32
	V6          bool
	Scheduler   string
	Flags       sched.Flags
	OnePacket   bool
	MSS         MSS
	Persistence *Persistence
	ClientMask  flow.Addr    // of a persistent service: Persistence.Netmask
	Dests       []sched.Dest // newest first, weight 0 too; the same slice while no server changes
	Plan        any          // sched.Plan of Dests
	Spec        *ServiceSpec // what it was made of, every default filled in
	Born        uint64       // generation in which it got its slot
}

// Real is a real server as workers read it.
type Real struct {
	ID           uint32 // NoReal: nobody has this ID now
	Service      uint32 // slot; NoService once it was removed
	Addr         flow.Addr
	Port         uint16 // 0: keep the packet's
	Forward      Forward
	Available    bool // false: removed, or its service was (K-SVC-8)
	V6           bool
	Tunnel       Tunnel
	Weight       int32
	Upper, Lower uint32
	Path         *Path  // of its address
	Born         uint64 // generation in which it got its ID
	Of           uint64 // Born of its service; a server may come back to one that was made again (K-DST-8)
	Added        uint64 // how manieth server it was to be added
	Edits        uint64 // how often it was added or edited: each time it forgets its way (K-DST-10)
}

// Find returns the service that a packet is for, or nil. In the order of
// K-SVC-1: mark, exact port, the FTP service for data connections, port 0.
func (s *Snapshot) Find(proto uint8, addr *flow.Addr, port uint16, mark uint32) *Service {
	if mark != 0 {
		var key flow.Addr
		if slot, ok := s.marked.find(0, markKey(&key, mark, !addr.Is4()), 0); ok {
			return s.Services[slot]
		}
	}
	slot, ok := s.services.find(proto, addr, port)
	if !ok && s.ftp && proto == ProtoTCP && (port == ftpPort-1 || port >= unprivilegedPort) {
		slot, ok = s.services.find(proto, addr, ftpPort)
	}
	if !ok && s.any {
		slot, ok = s.services.find(proto, addr, 0)
	}
	if !ok {
		return nil
	}
	return s.Services[slot]
}

// unprivilegedPort is the kernel's ip_unprivileged_port_start by default.
const unprivilegedPort = 1024

// markKey writes a mark and a family into an address, to file them by.
func markKey(key *flow.Addr, mark uint32, v6 bool) *flow.Addr {
	*key = flow.Addr{byte(mark >> 24), byte(mark >> 16), byte(mark >> 8), byte(mark), byte(b2i(v6))}
	return key
}

// IsVIP says whether any service, marks aside, has this address.
func (s *Snapshot) IsVIP(addr *flow.Addr) bool {
	_, ok := s.vips.find(0, addr, 0)
	return ok
}

// IsReal says whether a real server has this address, a removed one too as
// long as connections may point at it.
func (s *Snapshot) IsReal(addr *flow.Addr) bool {
	_, ok := s.reals.find(0, addr, 0)
	return ok
}

// FindNATReal returns the NAT server that packets from here are taken to be
// of (K-DST-9): of several services' the one that was added last. A mark
// service's server speaks any protocol.
func (s *Snapshot) FindNATReal(proto uint8, addr *flow.Addr, port uint16) (real uint32, ok bool) {
	real, ok = s.natReals.find(proto, addr, port)
	if marked, also := s.natReals.find(0, addr, port); also && (!ok || s.Reals[marked].Added > s.Reals[real].Added) {
		return marked, true
	}
	return real, ok
}

// FindTunnel returns the real server that packets of this outer protocol to
// this address, and of GUE's UDP to this port, are tunnelled to (K-DST-9): by
// the kind of tunnel of the one with that address that was added last.
func (s *Snapshot) FindTunnel(proto uint8, addr *flow.Addr, port uint16) (real uint32, ok bool) {
	if proto == protoIPv6 {
		proto = protoIPv4
	}
	real, ok = s.tunnels.find(0, addr, port)
	return real, ok && s.Reals[real].Tunnel.proto() == proto
}

// Rows returns the running counts of a worker. Its atomic fields may be read
// by everyone, the rest by that worker alone.
func (s *Snapshot) Rows(worker int) *Rows { return s.rows[worker] }

// Adopt returns the rows of the worker that calls it and takes s after old
// (nil: s is its first), the counters cleared of those slots and IDs that have
// passed to another service or server meanwhile.
func (s *Snapshot) Adopt(worker int, old *Snapshot) *Rows {
	rows, since := s.rows[worker], uint64(0)
	if old != nil {
		since = old.Generation
	}
	if s.born <= since {
		return rows
	}
	for _, svc := range s.Services {
		if svc != nil && svc.Born > since {
			rows.Service(svc.Slot).Counters = Counters{}
		}
	}
	for i := range s.Reals {
		if r := &s.Reals[i]; r.ID != NoReal && r.Born > since {
			rows.Real(r.ID).Counters = Counters{}
		}
	}
	return rows
}
