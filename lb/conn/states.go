package conn

// State is a connection's state in the kernel's numbering for its protocol;
// 0 is every protocol's first.
type State uint8

// States of TCP (K-PROTO-TCP).
const (
	TCPNone State = iota
	TCPEstablished
	TCPSynSent
	TCPSynRecv
	TCPFinWait
	TCPTimeWait
	TCPClose
	TCPCloseWait
	TCPLastAck
	TCPListen
	TCPSynAck
)

// States of SCTP (K-PROTO-SCTP).
const (
	SCTPNone State = iota
	SCTPInit1
	SCTPInit
	SCTPCookieSent
	SCTPCookieReplied
	SCTPCookieWait
	SCTPCookie
	SCTPCookieEchoed
	SCTPEstablished
	SCTPShutdownSent
	SCTPShutdownReceived
	SCTPShutdownAckSent
	SCTPRejected
	SCTPClosed
)

// UDPNormal is UDP's only state; templates are NONE until a connection of
// theirs was seen in both directions (K-CONN-14).
const (
	UDPNormal       State = 0
	TemplateNone    State = 0
	TemplateAssured State = 1
)

// Direction is the way of the packet that moves a connection on.
type Direction uint8

// Requests, replies, and requests of a connection whose replies are not seen
// (NoOutput: DR, TUN, local).
const (
	Input Direction = iota
	Output
	InputOnly
)

// Protocol numbers (IANA).
const (
	protoTCP  = 6
	protoUDP  = 17
	protoSCTP = 132
)

// NextTCP returns the state that a packet with event ev in direction d moves s
// to; secure selects the table of secure_tcp (K-DEF-4). A packet with none of
// the four flags closes, as does anything outside the tables.
func NextTCP(secure bool, d Direction, s State, ev uint8) State {
	t := &tcpNormal
	if secure {
		t = &tcpSecure
	}
	return t[d&3][ev&15][s&15]
}

// NextSCTP returns the state that a packet with event ev in direction d moves
// s to. Anything outside the table closes.
func NextSCTP(d Direction, s State, ev uint8) State {
	return sctp[d&3][ev&15][s&15]
}

// Active reports whether a connection in state s counts as ActiveConn of its
// server (K-CONN-7); templates are counted apart.
func Active(proto uint8, s State) bool {
	switch proto {
	case protoTCP:
		return s == TCPEstablished || s == TCPSynSent || s == TCPSynRecv || s == TCPSynAck
	case protoSCTP:
		return s == SCTPEstablished
	}
	return false
}
