package testnet

import (
	"math/rand/v2"
	"net"
)

const ethernetBytes = 14

// Least and greatest frame that a veth of MTU 1500 takes from a packet socket.
const (
	leastFrame    = ethernetBytes
	greatestFrame = ethernetBytes + 1500
)

type garbage struct {
	rnd  *rand.Rand
	to   net.HardwareAddr
	good []byte
}

// Garbage returns a maker of broken frames to a MAC, numbered from 0: it starts
// from a good frame and cuts it, overwrites bytes of its headers, where lengths,
// versions, fragments and offsets stand, or fills it with noise. The same seed
// gives the same frames; the memory of one is used again for the next.
func Garbage(seed uint64, to net.HardwareAddr, good []byte) func(i int) []byte {
	g := garbage{rnd: rand.New(rand.NewPCG(seed, 0)), to: to, good: good}
	buf := make([]byte, greatestFrame)
	return func(i int) []byte { return g.make(buf, i) }
}

func (g *garbage) make(buf []byte, i int) []byte {
	n := copy(buf, g.good)
	switch i % 3 {
	case 0: // cut short, often within a header
		n = leastFrame + g.rnd.IntN(max(1, min(n, 80)-leastFrame))
	case 1: // one to four bytes of the headers changed
		for range 1 + g.rnd.IntN(4) {
			buf[12+g.rnd.IntN(max(1, min(n, 80)-12))] = byte(g.rnd.Uint32())
		}
	case 2: // noise behind an EtherType that is looked at
		n = leastFrame + g.rnd.IntN(greatestFrame-leastFrame+1)
		for k := range buf[:n] {
			buf[k] = byte(g.rnd.Uint32())
		}
		etherTypes := [...][2]byte{{0x08, 0x00}, {0x86, 0xdd}, {0x81, 0x00}, {0x88, 0xa8}}
		copy(buf[12:], etherTypes[g.rnd.IntN(len(etherTypes))][:])
	}
	copy(buf, g.to)
	buf[6] &^= 1 // a sender is no group
	return buf[:n]
}
