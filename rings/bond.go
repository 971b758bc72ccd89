package rings

import (
	"encoding/binary"
	"math/bits"
)

// A Bond is the Port of a bond: its members' queues as one. Frames come in by all
// of them; each leaves by one of those that Use names, a flow's always by the same.
// How members come and go is in members.go.
type Bond struct {
	*UMEM
	name    string
	members []*Queue
	send    []*Queue  // of these
	lanes   [][]Frame // scratch of Transmit, by place in send
	turn    int       // whose place it is to be first
	waits   int       // epoll descriptor of the members' sockets
	gone    PortStats // of members that left
}

// Receive takes what has arrived, from all members in turns: see Port.
func (p *Bond) Receive(b []Frame) (n int) {
	p.turn++
	for i := range p.members {
		n += p.members[(p.turn+i)%len(p.members)].Receive(b[n:])
	}
	return n
}

// Transmit sorts the frames by the members that they leave by: see Port. What is
// not taken is moved behind what is.
func (p *Bond) Transmit(b []Frame) (sent int) {
	switch len(p.send) {
	case 0:
		return 0
	case 1:
		return p.send[0].Transmit(b)
	}
	for i := range p.lanes {
		p.lanes[i] = p.lanes[i][:0]
	}
	for i := range b {
		lane := &p.lanes[spread(b[i].Data())>>32*uint64(len(p.lanes))>>32]
		*lane = append(*lane, b[i])
	}
	rest := len(b)
	for i, lane := range p.lanes {
		n := p.send[i].Transmit(lane)
		sent += n
		rest -= copy(b[rest-(len(lane)-n):], lane[n:])
	}
	return sent
}

// Reclaim takes back what was sent, refills and wakes: see Port.
func (p *Bond) Reclaim() (n int) {
	for _, q := range p.members {
		n += q.Reclaim()
	}
	return n
}

// Pending is the number of frames in the tx rings that wait: see Port.
func (p *Bond) Pending() (n int) {
	for _, q := range p.members {
		n += q.Pending()
	}
	return n
}

// FD is readable when a member's socket is.
func (p *Bond) FD() int { return p.waits }

// spread hashes a frame's flow: IP addresses, and the ports of TCP, UDP and SCTP
// unless it is a fragment; of what is not IP the MAC addresses. So does bonding
// with xmit_hash_policy layer3+4.
func spread(b []byte) uint64 {
	at := 14
	for at < 22 && len(b) >= at+4 && (b[at-2] == 0x81 && b[at-1] == 0 || b[at-2] == 0x88 && b[at-1] == 0xa8) {
		at += 4
	}
	if len(b) < at+20 {
		return 0
	}
	word := binary.NativeEndian.Uint64
	x, y, ip, ports, proto := word(b), word(b[4:]), b[at:], 0, uint8(0)
	switch binary.BigEndian.Uint16(b[at-2:]) {
	case 0x0800:
		x, y, proto = word(ip[12:]), 0, ip[9]
		if binary.BigEndian.Uint16(ip[6:])&0x3fff == 0 {
			ports = int(ip[0]&15) * 4
		}
	case 0x86dd:
		if len(ip) < 40 {
			return 0
		}
		x, y = word(ip[8:])+bits.RotateLeft64(word(ip[24:]), 21), word(ip[16:])+bits.RotateLeft64(word(ip[32:]), 43)
		ports, proto = 40, ip[6]
	}
	if ports > 0 && (proto == 6 || proto == 17 || proto == 132) && len(ip) >= ports+4 {
		y += uint64(binary.NativeEndian.Uint32(ip[ports:])) << 8
	}
	hi, lo := bits.Mul64(x^0x9e3779b97f4a7c15, (y+uint64(proto))^0xd1b54a32d192ed03)
	return hi ^ lo
}
