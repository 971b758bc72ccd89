package fastpath

// Verdict is a packet's fate. Every packet that a worker receives ends with
// exactly one, and each has a counter of its own.
type Verdict uint8

// Verdicts, each with its counter in names.
const (
	// Forward sends it to the tx ring of the packet's Out interface.
	Forward Verdict = iota
	// Pass gives what is not ours after all to the host's stack.
	Pass
	// Hold has the slow path keep it until the next hop's address is known.
	Hold
	// Handoff gives it to the worker that owns its connection. That worker counts the
	// packet's end; this one only the hand-over.
	Handoff
	// Gather is a fragment: the slow path puts it together with others. The worker that
	// gets the datagram counts its end.
	Gather
	// Split has the slow path send it in fragments.
	Split
	// Related is an ICMP error that concerns a connection; see Pipeline.Related.
	Related

	// DropTTL and the verdicts up to DropEcho drop the packet and ask the slow
	// path to answer it with an ICMP message.
	DropTTL
	DropTooBig   // larger than the path's MTU and not to be fragmented (K-FWD-MTU)
	DropNoServer // no server of the service takes it (K-PATH-6)
	DropNATReply // a NAT server's packet without a connection, nat_icmp_send (K-PATH-4)
	DropNoRoute  // nothing leads to its next hop
	// DropTunnelError is an ICMP error about a packet in a tunnel of ours; the
	// answer is one to the packet's client (K-ICMP-5).
	DropTunnelError
	DropEcho // an echo request to a service: answered with the reply

	DropTruncated    // the frame ends before its headers do
	DropMalformed    // a header contradicts itself or the frame
	DropIPChecksum   // IPv4 header checksum wrong
	DropICMPChecksum // K-ICMP-8
	DropICMPBudget   // an ICMP error, and there were too many of them
	DropOtherHost    // the destination MAC is not the interface's (K-PATH-3, step 2)
	DropServerGone   // the connection's server was removed (K-CONN-10)
	DropTableFull    // connections.max is reached
	DropDefence      // drop_packet is at work (K-DEF-3)
	DropLocalServer  // to a server that is the director itself, but by an address nobody outside may use, or from it by no interface of the node's (K-PATH-9)
	DropHelper       // its helper refuses it (K-FTP-*)
	DropNoCallID     // the persistence engine finds no Call-ID in it (K-PE-2)
	DropSmallMTU     // the way to the server has less than IP's smallest MTU (K-FWD-MTU)
	DropHeadroom     // no room in the frame for a tunnel's header
	DropLinkDown     // the outgoing interface is down or not one of the node's
	DropTxFull       // the tx ring stayed full
	DropInboxFull    // the owner's inbox, or this worker's frames for it, ran out
	DropSlowPath     // to be passed or held, and the slow path had no room or tokens left for its class
	Verdicts         // how many there are
)

// names are the counters' names in the API, in STATE.json and in OPERATING.md.
var names = [Verdicts]string{
	Forward: "transmitted", Pass: "passed", Hold: "held", Handoff: "handed_over", Gather: "fragment", Split: "oversize", Related: "related",
	DropTTL: "ttl_exceeded", DropTooBig: "too_big", DropNoServer: "no_server",
	DropNATReply: "nat_reply_without_connection", DropNoRoute: "no_route", DropTunnelError: "tunnel_error", DropEcho: "echo",
	DropTruncated: "truncated", DropMalformed: "malformed", DropIPChecksum: "ip_checksum",
	DropICMPChecksum: "icmp_checksum", DropICMPBudget: "icmp_over_budget", DropOtherHost: "other_host", DropServerGone: "server_gone", DropTableFull: "table_full",
	DropDefence: "drop_packet", DropLocalServer: "local_server", DropHelper: "helper", DropNoCallID: "no_call_id", DropSmallMTU: "small_mtu", DropHeadroom: "no_headroom",
	DropLinkDown: "link_down", DropTxFull: "tx_full", DropInboxFull: "inbox_full", DropSlowPath: "slow_path_refused",
}

// String returns the verdict's counter name.
func (v Verdict) String() string {
	if v < Verdicts {
		return names[v]
	}
	return "unknown"
}

// Drops says whether a packet of this verdict goes no further.
func (v Verdict) Drops() bool { return v >= DropTTL && v < Verdicts }

// Answered says whether the slow path is asked to answer with an ICMP message.
func (v Verdict) Answered() bool { return v >= DropTTL && v <= DropEcho }

// Counters counts the packets of each verdict; the index is the Verdict.
type Counters [Verdicts]uint64
