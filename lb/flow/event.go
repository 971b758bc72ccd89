package flow

// Events of TCP packets, which move a connection's state: of the flags that are
// set the first of RST, SYN, FIN, ACK decides (K-PROTO-TCP).
const (
	EventSYN uint8 = iota
	EventFIN
	EventACK
	EventRST
	EventNone
)

// Events of SCTP packets: what the first chunk is (K-PROTO-SCTP).
const (
	EventData uint8 = iota // DATA and whatever moves no state
	EventInit
	EventInitAck
	EventCookieEcho
	EventCookieAck
	EventShutdown
	EventShutdownAck
	EventShutdownComplete
	EventError
	EventAbort
)
