package conn

import (
	"time"

	"github.com/sluice-lb/sluice/internal/clock"
)

// Timeouts that do not depend on the protocol.
const (
	// InitialTicks is a new connection's timeout until its first packet has
	// passed: 3 s (K-CONN-6).
	InitialTicks clock.Ticks = 3 * second
	// HeldTicks is by how much a connection that controls others outlives its
	// timeout, again and again: 60 s (K-CONN-6, K-CONN-13).
	HeldTicks clock.Ticks = 60 * second
	// MaxTimeout is the longest timeout, 246 days; longer ones count as this.
	// What remains up to clock.MaxTicks is how late, 46 hours, Advance may be.
	MaxTimeout = clock.MaxTicks - 1<<24
)

const second = clock.Ticks(time.Second / clock.TickNanos)

// Timeouts says for each protocol's states after how long without a packet a
// connection ends. It is a value, comparable.
type Timeouts struct {
	tcp  [TCPSynAck + 1]clock.Ticks
	sctp [SCTPClosed + 1]clock.Ticks
	udp  clock.Ticks
}

// Of returns the timeout of a connection of that protocol in state s. Protocols
// other than TCP and SCTP have UDP's; so has a state that does not exist.
func (t *Timeouts) Of(proto uint8, s State) clock.Ticks {
	switch {
	case proto == protoTCP && int(s) < len(t.tcp):
		return t.tcp[s]
	case proto == protoSCTP && int(s) < len(t.sctp):
		return t.sctp[s]
	}
	return t.udp
}
