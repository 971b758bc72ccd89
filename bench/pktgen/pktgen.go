// Package pktgen makes the packets of measurements: one frame in as many flows
// as are wanted, right in every checksum.
//
// Everything here is a value or immutable after it was made, so it belongs to
// whoever holds it. What order there is comes from a seed.
package pktgen

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/sluice-lb/sluice/fastpath/csum"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/lb/flow"
)

var be = binary.BigEndian

// Endpoint is one end of a flow.
type Endpoint struct {
	Addr flow.Addr
	Port uint16
}

// Each client address opens portsPerClient flows, from firstPort on.
const (
	portsPerClient = 8
	firstPort      = 32768
)

// MaxClients is how many flows Client tells apart.
const MaxClients = 1 << 25

// Client returns the client of flow i, 0 to MaxClients-1: an endpoint in
// 100.64.0.0/10, or in fd64::/96.
func Client(i int, v6 bool) Endpoint {
	e := Endpoint{Port: uint16(firstPort + i%portsPerClient)}
	host := uint32(i / portsPerClient)
	if v6 {
		e.Addr = flow.Addr{0: 0xfd, 1: 0x64}
		be.PutUint32(e.Addr[12:], host)
		return e
	}
	var a [4]byte
	be.PutUint32(a[:], 100<<24|64<<16|host)
	e.Addr = flow.From4(a)
	return e
}

// Shuffled returns the numbers from 0 to n-1 in an order that the seed decides.
func Shuffled(n int, seed uint64) []uint32 {
	order := make([]uint32, n)
	for i := range order {
		order[i] = uint32(i)
	}
	r := rand.New(rand.NewPCG(seed, 0))
	r.Shuffle(n, func(i, j int) { order[i], order[j] = order[j], order[i] })
	return order
}

// Zipf returns n draws from the flows, in an order that the seed decides: the
// k-th flow comes once where the first comes k times.
func Zipf(flows []uint32, n int, seed uint64) []uint32 {
	sum := make([]float64, len(flows)) // of 1/k so far
	total := 0.0
	for i := range sum {
		total += 1 / float64(i+1)
		sum[i] = total
	}
	r := rand.New(rand.NewPCG(seed, 1))
	order := make([]uint32, n)
	for i := range order {
		at, _ := slices.BinarySearch(sum, r.Float64()*total)
		order[i] = flows[at]
	}
	return order
}

// Bytes returns n bytes that the seed decides.
func Bytes(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Template is a frame that is sent by many, to many: only its endpoints and
// the checksums over them differ.
type Template struct {
	frame               []byte
	info                packet.Info
	sum                 int // where the transport checksum is
	ipSum, transportSum uint16
}

// NewTemplate makes a template of a TCP or UDP frame with right checksums.
func NewTemplate(frame []byte) (*Template, error) {
	t := &Template{frame: frame}
	if r := packet.Parse(frame, &t.info); r != packet.Parsed {
		return nil, fmt.Errorf("template frame: %v", r)
	}
	switch t.info.Proto {
	case packet.ProtoTCP:
		t.sum = int(t.info.L4) + 16
	case packet.ProtoUDP:
		t.sum = int(t.info.L4) + 6
	default:
		return nil, fmt.Errorf("template frame: protocol %d is neither TCP nor UDP", t.info.Proto)
	}
	t.transportSum = be.Uint16(frame[t.sum:])
	if t.info.Family == 4 {
		t.ipSum = packet.IPv4(frame[t.info.L3:]).Checksum()
	}
	return t, nil
}

// Len is the frame's length in bytes.
func (t *Template) Len() int { return len(t.frame) }

// Write writes the frame from src to dst, of the template's family, into b,
// which is at least Len bytes long.
func (t *Template) Write(b []byte, src, dst *Endpoint) {
	in := &t.info
	copy(b, t.frame)
	change := csum.ChangeAddr(&in.Src, &src.Addr) + csum.ChangeAddr(&in.Dst, &dst.Addr)
	ip := b[in.L3:]
	if in.Family == 4 {
		copy(ip[12:], src.Addr[12:])
		copy(ip[16:], dst.Addr[12:])
		packet.IPv4(ip).SetChecksum(csum.Apply(t.ipSum, change))
	} else {
		copy(ip[8:], src.Addr[:])
		copy(ip[24:], dst.Addr[:])
	}
	change += csum.Change16(in.SrcPort, src.Port) + csum.Change16(in.DstPort, dst.Port)
	be.PutUint16(b[in.L4:], src.Port)
	be.PutUint16(b[in.L4+2:], dst.Port)
	sum := csum.Apply(t.transportSum, change)
	if in.Proto == packet.ProtoUDP {
		sum = csum.NonZero(sum)
	}
	be.PutUint16(b[t.sum:], sum)
}
