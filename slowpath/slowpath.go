// Package slowpath handles what the fast path gives away: packets for the
// host's stack, packets to answer with an ICMP error, packets that wait for a
// neighbour's address.
//
// A Path belongs to one goroutine, off the workers' CPUs. Packets reach it
// through an Intake from each worker, which has a ring and a rate for each class of
// them, and leave it through functions that its Config names, so it touches no NIC. Everything in
// it is bounded, and each packet is counted under exactly one Fate.
package slowpath

import (
	"sync/atomic"
	"time"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/slowpath/frag"
)

// Kind is what is asked for a packet.
type Kind uint8

// Kinds.
const (
	Nothing         Kind = iota // a Datagram that is dropped: its memory is all
	Host                        // hand it to the host's stack, as received
	TimeExceeded                // answer: its TTL ran out (K-PATH-8)
	TooBig                      // answer: it does not fit its way, and must not be fragmented (K-FWD-MTU)
	PortUnreachable             // answer: no server is available (K-PATH-6), or a server's packet has no connection (K-PATH-4)
	HostUnreachable             // answer: no route leads to its server
	TunnelError                 // an ICMP error about a packet in a tunnel: answer the sender of that (K-ICMP-5)
	Echo                        // answer: an echo request to a virtual service
	NoNeighbour                 // keep it until its next hop's address is known
	Fragment                    // put it together with others (K-PATH-7)
	Oversize                    // send it in fragments (K-FWD-MTU)
	Elsewhere                   // give it to the worker that owns its connection; if that is who sent it here, once what was learnt is forgotten
	Kinds                       // how many there are
)

var kindNames = [Kinds]string{
	Host: "host", TimeExceeded: "time_exceeded", TooBig: "too_big", PortUnreachable: "port_unreachable",
	HostUnreachable: "host_unreachable", TunnelError: "tunnel_error", Echo: "echo", NoNeighbour: "no_neighbour",
	Fragment: "fragment", Oversize: "oversize", Nothing: "nothing", Elsewhere: "elsewhere",
}

// String returns the kind's name, as in counters.
func (k Kind) String() string {
	if k < Kinds {
		return kindNames[k]
	}
	return "unknown"
}

// Meta goes with a packet to the slow path; it is the value of the rings' slots.
type Meta struct {
	Target flow.Addr // NoNeighbour, Oversize: what the way was looked up for: the real server, or the client
	Flow   uint64    // NoNeighbour, Oversize: nexthop.FlowHash of its connection, if there are several ways
	// Virtual is the virtual service that the client addressed: an error comes
	// from it. Of a kept packet that was translated (NAT) or is in a tunnel, an
	// error also quotes it as its destination, with VirtualPort. Zero: the error
	// comes from the director's address on the way back, as of kept DR packets.
	Virtual     flow.Addr
	VirtualPort uint16 // host order; 0: leave the quote's port
	Worker      uint16 // who sent the packet here
	Owner       uint16 // Elsewhere: the worker that is to have it
	Iface       uint16 // index in nexthop.Table of the interface that it came in by
	MTU         uint16 // TooBig: what would fit, Oversize: what fits, in bytes of IP; TunnelError: of the tunnel's packet, 0 if it is about something else
	Inner       uint16 // NoNeighbour, Oversize, TunnelError: bytes from the first IP header to that of the client's packet; 0: it is the first
	Learn       uint32 // Host: its flow may be learnt under this number; 0: not
	Kind        Kind
	Direct      bool // NoNeighbour, Oversize: the way is Table.OnLink's (DR), not Table.Lookup's
	Silent      bool // NoNeighbour, Oversize: no error if it fails, as of replies
	Own         bool // the host's own stack sent it
	frames      int  // how many frames received it stands for
}

// Out goes with a frame that is to be sent.
type Out struct {
	Worker uint16 // by whom: the worker that sent the packet here
	Iface  uint16 // index in nexthop.Table of the interface
	Timer  bool   // its moment was a timer's, not a packet's
}

// HostSink gives frames to the host's stack.
type HostSink interface {
	// Inject hands over a frame, as it came in by the interface of that index in
	// nexthop.Table. It does not keep or change the frame.
	Inject(iface int, frame []byte) error
}

// Learner knows flows that look like replies and are the host's.
type Learner interface {
	// Learn has packets like this one pass from now on without being seen here,
	// unless number is not that of the present any more.
	Learn(number uint32, in *packet.Info)
	// Forget makes all void; false: it could not.
	Forget() bool
	// Return gives a frame that came in by the interface of that index in
	// nexthop.Table back to its worker; false: it has no room.
	Return(worker, iface int, frame []byte) bool
}

// Config is what a Path works with; its functions are called on the Path's
// goroutine.
type Config struct {
	Tables  func() *nexthop.Table               // the current one
	Emit    func(m *Out, frame []byte) bool     // has a finished Ethernet frame sent; false: it cannot take it now
	Host    HostSink                            // takes what is the host's
	Resolve func(iface uint16, addr *flow.Addr) // asks for a neighbour's address, without waiting for it; nil: nobody to ask
	Learner Learner                             // nil: workers have nothing learnt
	Now     func() int64                        // clock.Clock's, nanoseconds
	Deliver func(worker uint16, d *Datagram)    // lends a worker a datagram; there is always room
	// Answered is told of each ICMP error that a worker's packet is answered with, an IP
	// datagram. May be nil.
	Answered func(worker uint16, message []byte)
	Seed     [32]byte // a secret: what idents of IPv6 fragments follow from
	// In a replay: Cause is the number of the packet being handled, and Part is told which
	// packet the frame is that Host is given next. May be nil.
	Cause  func() uint64
	Part   func(o *frag.Origin, arrived []byte)
	Limits Limits
}

// Limits bound a Path's work and memory. The zero Limits are without bounds
// on rates, and with the default sizes: a replay's.
type Limits struct {
	ICMP       ICMPLimits
	HoldFrames int           // packets kept in all; 0: 1024. Of ICMP messages of our own a quarter as many
	HoldEach   int           // packets kept for one next hop; 0: 101, Linux's unres_qlen
	HoldTime   time.Duration // how long a next hop may take; 0: 3 s, as Linux tries
	FrameBytes int           // longest frame that is kept; 0: 2048
	Fragments  frag.Limits
}

// withDefaults returns l with its sizes filled in.
func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		n    *int
		size int
	}{{&l.HoldFrames, 1024}, {&l.HoldEach, 101}, {&l.FrameBytes, 2048}} {
		if *d.n <= 0 {
			*d.n = d.size
		}
	}
	if l.HoldTime <= 0 {
		l.HoldTime = 3 * time.Second
	}
	return l
}

// Path is the slow path of a node. Its methods belong to one goroutine, but for
// Wake and Counters.
type Path struct {
	cfg    Config
	limits *limits

	packets  hold // those that wait for a neighbour
	messages hold // ICMP messages of our own that do
	frags    fragments

	answer  []byte      // an ICMP message under construction
	scratch []byte      // a frame with headroom, for one that need not wait after all
	out     Out         // goes with the frame that is being sent
	flow    packet.Info // of the packet that is being learnt
	ident   uint16      // of the last IPv4 message
	version uint64      // of the table that the kept packets were last looked at with
	inTimer bool        // Tick runs

	wake   chan struct{}
	asleep atomic.Bool
	counts counts
}

// New returns a Path. Its memory is made here: 5/4 of HoldFrames times FrameBytes, that of
// Fragments, 65 datagrams of 64 KiB, and 100 KB.
func New(c Config) *Path {
	c.Limits = c.Limits.withDefaults()
	if c.Resolve == nil {
		c.Resolve = func(uint16, *flow.Addr) {}
	}
	if c.Cause == nil {
		c.Cause = func() uint64 { return 0 }
	}
	messages := c.Limits
	messages.HoldFrames = max(1, messages.HoldFrames/4)
	p := &Path{
		cfg:     c,
		packets: newHold(c.Limits, false), messages: newHold(messages, true),
		limits:  newLimits(c.Limits.ICMP),
		answer:  make([]byte, 0, headroom+packet.MaxFrame),
		scratch: make([]byte, headroom+c.Limits.FrameBytes),
		wake:    make(chan struct{}, 1),
	}
	p.frags = p.newFragments()
	return p
}

// Handle takes one packet: the whole frame, Ethernet header first, which may be
// changed. It is done with it when it returns.
func (p *Path) Handle(m *Meta, frame []byte) {
	now := p.cfg.Now()
	m.frames = 1
	switch m.Kind {
	case Host:
		p.count(Host, p.toHost(m, frame))
	case NoNeighbour:
		p.keep(&p.packets, m, frame, now)
	case Fragment:
		p.gather(m, frame, now)
	case Oversize:
		p.splitFrame(m, frame)
	case Elsewhere:
		p.giveBack(m, frame)
	default:
		p.count(m.Kind, p.reply(m, frame, now))
	}
}

// toHost hands a packet to the host's stack, before its flow is learnt: it goes
// before those that then pass without us.
func (p *Path) toHost(m *Meta, frame []byte) Fate {
	if err := p.cfg.Host.Inject(int(m.Iface), frame); err != nil {
		return HostRefused
	}
	if m.Learn != 0 && packet.Parse(frame, &p.flow) == packet.Parsed {
		p.cfg.Learner.Learn(m.Learn, &p.flow)
	}
	return Passed
}

// giveBack returns a packet to its worker when nothing is learnt any more, which
// then counts its end.
func (p *Path) giveBack(m *Meta, frame []byte) {
	if !p.cfg.Learner.Forget() || !p.cfg.Learner.Return(int(m.Worker), int(m.Iface), frame) {
		p.count(Elsewhere, HoldLost)
	}
}
