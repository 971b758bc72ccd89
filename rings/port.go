// Package rings moves frames between a worker and the NIC queues that it owns.
//
// A Port is one queue of one interface as a worker sees it: batches of frames
// come in, batches go out, and the frames of all ports of a worker live in one
// UMEM, so that a packet is forwarded from one interface to another without a
// copy. A Queue is the Port on an AF_XDP socket (address family XDP, Linux
// Documentation/networking/af_xdp.rst): four rings shared with the kernel.
//
// A UMEM and its ports belong to one worker: all methods run on that worker's
// goroutine and take no lock. Only Open, Check and the NIC functions, which
// work at start, may be called from elsewhere.
package rings

// Headroom is the number of bytes in front of a received packet in its chunk:
// XDP_PACKET_HEADROOM of the kernel. Alloc leaves as much, so that a tunnel
// header or VLAN tag always finds room.
const Headroom = 256

// A Frame is a chunk of UMEM and the packet in it: Chunk[Off:Off+Len], from
// the first byte of the Ethernet header. Chunk has the UMEM's frame size; the
// packet may be moved and resized within it. ID is the chunk's number in the
// UMEM and belongs to package rings.
type Frame struct {
	Chunk    []byte
	Off, Len uint32
	ID       uint32
}

// Data returns the frame's packet.
func (f *Frame) Data() []byte { return f.Chunk[f.Off : f.Off+f.Len] }

// A Port is one queue of one interface. Each frame has one owner at a time:
// what Receive and Alloc return is the caller's until it is given to Transmit
// or Release, of this port or any other on the same UMEM.
type Port interface {
	// Receive fills b with up to len(b) frames, in order of arrival, and
	// returns how many. They are the caller's.
	Receive(b []Frame) int
	// Transmit queues the first n frames of b, which are the port's from then
	// on, returns n, and wakes the kernel if that asks for it. n < len(b): the
	// queue is full; the rest stays the caller's. It may change their order, but
	// not within a flow.
	Transmit(b []Frame) int
	// Release gives frames back that are not sent.
	Release(b []Frame)
	// Alloc fills b with up to len(b) free frames for packets that start here
	// (Off is Headroom, Len 0) and returns how many.
	Alloc(b []Frame) int
	// Reclaim takes back what was sent, keeps the fill ring full and wakes the
	// kernel where it waits for that; a worker calls it once a turn. It
	// returns the number of frames that came back.
	Reclaim() int
	// Room is the number of frames that nobody has, neither a ring nor a packet,
	// and of all; the ports of a UMEM share them.
	Room() (free, frames int)
	// Pending is the number of frames to send that the kernel has not looked
	// at. While it is not 0 a worker should not sleep for long: Reclaim wakes
	// the kernel for them.
	Pending() int
	// FD is the descriptor to wait on with poll(2) and to put into an XSKMAP;
	// -1: none.
	FD() int
	// Stats returns the port's counters, including the kernel's.
	Stats() PortStats
	// Close gives the queue up. Frames of the UMEM must not be used after the
	// last of its ports is closed.
	Close() error
}

// PortStats are a port's counters since it was opened, in frames unless the
// name says otherwise. "kernel" marks those of XDP_STATISTICS.
type PortStats struct {
	RxPackets uint64 `json:"rx_packets"` // given to the worker
	RxBytes   uint64 `json:"rx_bytes"`   // given to the worker
	TxPackets uint64 `json:"tx_packets"` // taken from the worker
	TxBytes   uint64 `json:"tx_bytes"`   // taken from the worker

	RxDropped  uint64 `json:"rx_dropped"`   // kernel: dropped on arrival, say longer than a chunk
	RxInvalid  uint64 `json:"rx_invalid"`   // kernel: bad descriptors in the fill ring
	RxRingFull uint64 `json:"rx_ring_full"` // kernel: dropped, the worker did not keep up
	FillEmpty  uint64 `json:"fill_empty"`   // kernel: found no free frame in the fill ring
	TxInvalid  uint64 `json:"tx_invalid"`   // kernel: bad descriptors in the tx ring
	TxEmpty    uint64 `json:"tx_empty"`     // kernel: looked into an empty tx ring

	TxFull    uint64 `json:"tx_ring_full"` // not taken by Transmit, the tx ring was full
	TxRefused uint64 `json:"tx_refused"`   // freed by Transmit: empty, or not within its chunk

	RxKicks    uint64 `json:"rx_kicks"`    // calls that woke the kernel for the fill ring
	TxKicks    uint64 `json:"tx_kicks"`    // calls that woke the kernel for the tx ring
	KickBusy   uint64 `json:"kick_busy"`   // of these: the kernel was busy (EAGAIN, EBUSY, ENOBUFS, EINTR)
	KickErrors uint64 `json:"kick_errors"` // of these: link down or gone, or another error

	InFill int `json:"in_fill"` // frames that the kernel has now, to fill and to send
	InTx   int `json:"in_tx"`   // frames that the kernel has now, to fill and to send
	Free   int `json:"free"`    // free frames of the UMEM, which its ports share
}
