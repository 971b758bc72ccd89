// Package conn is one worker's connection table: entries, index, timers, and
// the protocols' state machines.
//
// A Table belongs to the worker that made it: its methods run on that worker's
// goroutine and take no lock. All its memory is mapped at start, holds no Go
// pointer and never grows.
package conn

import (
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb/flow"
)

// ID names an entry of a Table, 1 to Max; 0 is none. A deleted entry's ID is
// used again.
type ID uint32

// Flags are a connection's properties. The low three bits are the forwarding
// method in the numbers of IP_VS_CONN_F_FWD_MASK (K-DST-4); the others have the
// kernel's meaning (K-CONN-5) but places of their own.
type Flags uint16

// FwdMask covers the forwarding method in the low bits: 0 NAT, 1 Local, 2 TUN, 3 DR, 4 Bypass.
const FwdMask Flags = 7

// One bit each.
const (
	NoOutput  Flags = 1 << (iota + 3) // no reply was seen: DR, TUN, local
	Inactive                          // counted in InActConn
	OutSeq                            // replies' sequence numbers are shifted
	InSeq                             // requests' sequence numbers are shifted
	NoCPort                           // the client's port is not known yet
	Template                          // persistence template
	OnePacket                         // scheduled for one packet only
	Synced                            // came from another director
	V6                                // the client's side is IPv6
	Assured                           // its template is known to be ASSURED
	Followed                          // a helper reads its payload (K-FTP-1)
)

// NoReal is the Real of a connection without a server.
const NoReal = ^uint32(0)

// Conn is a connection in 64 bytes, one cache line. Ports are in host order.
// The address of a NAT connection's server stands beside it, see RealAddr.
// Client, Virtual, their ports, RealPort and Proto are indexed: they do not
// change while the entry is in a table; Stamp and Timeout change through Touch
// and SetTimeout only. All else is the owner's to write.
type Conn struct {
	Client, Virtual                   flow.Addr
	ClientPort, VirtualPort, RealPort uint16
	Proto                             uint8
	State                             State // by Proto; of a template TemplateNone or TemplateAssured
	Flags                             Flags
	Note                              uint16      // Followed: where the helper keeps what it knows of it; else the fast path's way to the client (Stamp); 0: nothing yet
	Real                              uint32      // lb's real server ID: address and method; NoReal: none
	Stamp                             clock.Ticks // last re-armed; it expires at Stamp+Timeout
	Timeout                           clock.Ticks // at most MaxTimeout
	Packets                           uint32      // requests, the kernel's in_pkts
	Control                           ID          // the template it belongs to, or by the helper's name the connection that announced it
}

// ClientKey returns the key by which packets of the client's side find c.
func (c *Conn) ClientKey() flow.Key {
	return flow.Key{
		Client: c.Client, Local: c.Virtual,
		ClientPort: c.ClientPort, LocalPort: c.VirtualPort,
		Proto: c.Proto, Side: flow.ClientSide,
	}
}

// serverKey returns the key by which replies of the NAT server at real find c.
func (c *Conn) serverKey(real *flow.Addr) flow.Key {
	return flow.Key{
		Client: c.Client, Local: *real,
		ClientPort: c.ClientPort, LocalPort: c.RealPort,
		Proto: c.Proto, Side: flow.ServerSide,
	}
}
