package conn

import (
	"fmt"
	"strings"

	"github.com/sluice-lb/sluice/internal/clock"
)

// What follows is made at start, or when the operator changes it: the transitions of
// the protocols' states, their names, and timeouts.

var (
	tcpNames = strings.Fields("NONE ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT TIME_WAIT" +
		" CLOSE CLOSE_WAIT LAST_ACK LISTEN SYNACK")
	sctpNames = strings.Fields("NONE INIT1 INIT C-SENT C-REPLIED C-WAIT COOKIE C-ECHOED ESTABLISHED" +
		" S-SENT S-RECEIVED S-ACK-SENT REJECTED CLOSED")
)

// StateName returns the kernel's display name of a state, "ERR!" if the
// protocol has no such state. A protocol without states is always in NONE.
func StateName(proto uint8, template bool, s State) string {
	names := []string{"NONE"}
	switch {
	case template:
		names = []string{"NONE", "ASSURED"}
	case proto == protoTCP:
		names = tcpNames
	case proto == protoSCTP:
		names = sctpNames
	case proto == protoUDP:
		names = []string{"UDP"}
	}
	if int(s) >= len(names) {
		return "ERR!"
	}
	return names[s]
}

// transitions is a table [direction][event][state], its sides rounded up to
// powers of two so that any input stays inside.
type transitions [4][16][16]State

// Each text below has a line of column names, one a state in order, then a
// line for each direction and event in order; a cell is the state that the
// column's state becomes.
var (
	tcpNormal = parse(TCPClose, `
		NO ES SS SR FW TW CL CW LA LI SA
		IN  syn SR ES ES SR SR SR SR SR SR SR SR
		IN  fin CL CW SS TW TW TW CL CW LA LI TW
		IN  ack ES ES SS ES FW TW CL CW CL LI ES
		IN  rst CL CL CL SR CL CL CL CL LA LI SR
		OUT syn SS ES SS SR SS SS SS SS SS LI SR
		OUT fin TW FW SS TW FW TW CL TW LA LI TW
		OUT ack ES ES SS ES FW TW CL CW LA ES ES
		OUT rst CL CL SS CL CL TW CL CL CL CL CL
		INO syn SR ES ES SR SR SR SR SR SR SR SR
		INO fin CL FW SS TW FW TW CL CW LA LI TW
		INO ack ES ES SS ES FW TW CL CW CL LI ES
		INO rst CL CL CL SR CL CL CL CL LA LI CL`)
	tcpSecure = parse(TCPClose, `
		NO ES SS SR FW TW CL CW LA LI SA
		IN  syn SR ES ES SR SR SR SR SR SR SR SA
		IN  fin CL CW SS TW TW TW CL CW LA LI SA
		IN  ack ES ES SS SR FW TW CL CW CL LI SA
		IN  rst CL CL CL SR CL CL CL CL LA LI CL
		OUT syn SS ES SS SA SS SS SS SS SS LI SA
		OUT fin TW FW SS TW FW TW CL TW LA LI TW
		OUT ack ES ES SS ES FW TW CL CW LA ES ES
		OUT rst CL CL SS CL CL TW CL CL CL CL CL
		INO syn SA ES ES SR SA SA SA SA SA SA SA
		INO fin CL FW SS TW FW TW CL CW LA LI TW
		INO ack ES ES SS ES FW TW CL CW CL LI ES
		INO rst CL CL CL SR CL CL CL CL LA LI CL`)
	sctp = parse(SCTPClosed, `
		NO I1 IN CS CR CW CO CE ES SS SR SA RJ CL
		IN  d  ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL
		IN  i  I1 IN IN CS CR CW CO CE ES SS SR SA IN IN
		IN  ia CW CW CW CS CR CO CO CE ES SS SR SA RJ CL
		IN  ce CR IN IN CR CR CW CO CE ES SS SR SA RJ CL
		IN  ca ES I1 IN CS CR CW CO ES ES SS SR SA RJ CL
		IN  s  SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL
		IN  sa CL IN IN CS CR CW CO CE ES CL SR CL RJ CL
		IN  sc CL CL CL CS CR CW CO CE ES SS SR CL RJ CL
		IN  er CL I1 IN CS CR CW CO CL ES SS SR SA RJ CL
		IN  ab CL CL CL CL CL RJ CL CL CL CL CL CL CL CL
		OUT d  ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL
		OUT i  CW CW CW CW CW CW CW CW ES CW CW CW CW CW
		OUT ia CS CS CS CS CR CW CO CE ES SS SR SA RJ CL
		OUT ce CE CE CE CE CE CE CE CE ES SS SR SA RJ CL
		OUT ca ES ES ES ES ES ES ES ES ES SS SR SA RJ CL
		OUT s  SS SS SS SS SS SS SS SS SS SS SR SA RJ CL
		OUT sa SA SA SA SA SA CW CO CE ES SA SA SA RJ CL
		OUT sc CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL
		OUT er CL CL CL CL CL CW CO CE ES SS SR SA RJ CL
		OUT ab CL RJ CL CL CL CL CL CL CL CL CL CL CL CL
		INO d  ES I1 IN CS CR ES CO CE ES SS SR SA RJ CL
		INO i  I1 IN IN IN IN IN CO CE ES SS SR SA IN IN
		INO ia CE CE CE CE CE CE CO CE ES SS SR SA RJ CL
		INO ce ES ES ES ES ES ES CO CE ES SS SR SA RJ CL
		INO ca ES I1 IN ES ES CW ES ES ES SS SR SA RJ CL
		INO s  SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL
		INO sa CL IN IN CS CR CW CO CE CL CL SR CL RJ CL
		INO sc CL CL CL CL CL CW CO CE ES SS CL CL RJ CL
		INO er CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL
		INO ab CL CL CL CL CL RJ CL CL CL CL CL CL CL CL`)
)

// parse reads the text of a table; cells that it does not name become other.
// It panics on a text that is not of the form above.
func parse(other State, text string) (t transitions) {
	for i := range len(t) * len(t[0]) * len(t[0][0]) {
		t[i/256][i/16%16][i%16] = other
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	columns := map[string]State{}
	for i, name := range strings.Fields(lines[0]) {
		columns[name] = State(i)
	}
	perDirection := (len(lines) - 1) / 3
	for i, line := range lines[1:] {
		row := strings.Fields(line)[2:]
		for s, name := range row {
			next, known := columns[name]
			if !known || len(row) != len(columns) {
				panic(fmt.Sprintf("conn: bad transition line %q", line))
			}
			t[i/perDirection][i%perDirection][s] = next
		}
	}
	return t
}

// DefaultTimeouts returns the kernel's timeouts (K-PROTO-TCP, -UDP, -SCTP).
func DefaultTimeouts() Timeouts {
	t := Timeouts{
		tcp: [...]clock.Ticks{
			TCPNone:        2 * second,
			TCPEstablished: 900 * second,
			TCPSynSent:     120 * second,
			TCPSynRecv:     60 * second,
			TCPFinWait:     120 * second,
			TCPTimeWait:    120 * second,
			TCPClose:       10 * second,
			TCPCloseWait:   60 * second,
			TCPLastAck:     30 * second,
			TCPListen:      120 * second,
			TCPSynAck:      120 * second,
		},
		udp: 300 * second,
	}
	for s := range t.sctp {
		t.sctp[s] = 61 * second
	}
	t.sctp[SCTPNone] = 2 * second
	t.sctp[SCTPInit1] = 4 * second
	t.sctp[SCTPRejected] = 4 * second
	t.sctp[SCTPEstablished] = 900 * second
	return t
}

// Set changes what `ipvsadm --set tcp tcpfin udp` changes: the timeouts of
// ESTABLISHED, FIN_WAIT and UDP, no others. 0 keeps; more than MaxTimeout
// counts as that.
func (t *Timeouts) Set(tcp, tcpFin, udp clock.Ticks) {
	set := func(at *clock.Ticks, to clock.Ticks) {
		if to != 0 {
			*at = min(to, MaxTimeout)
		}
	}
	set(&t.tcp[TCPEstablished], tcp)
	set(&t.tcp[TCPFinWait], tcpFin)
	set(&t.udp, udp)
}
