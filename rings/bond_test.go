package rings_test

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/rings/ringstest"
)

// bonded is a bond of all ports of a kernel.
func bonded(t testing.TB, ports int, change func(*ringstest.Config)) (*ringstest.Kernel, *rings.Bond) {
	t.Helper()
	c := base(func(c *ringstest.Config) { c.Ports = ports })
	if change != nil {
		change(&c)
	}
	k := newKernel(t, c)
	return k, rings.NewBond(k.UMEM(), k.Ports()...)
}

// udp is a datagram of a flow that its source port tells, with a number in it.
func udp(port uint16, number uint32) []byte {
	return packettest.Eth("02:00:00:00:00:02", "02:00:00:00:00:01").IP4("10.0.0.1", "10.0.0.2").UDP(port, 80).
		Payload(binary.BigEndian.AppendUint32(nil, number)).Bytes()
}

// load fills frames of the UMEM with packets.
func load(t testing.TB, p *rings.Bond, packets ...[]byte) []rings.Frame {
	t.Helper()
	b := make([]rings.Frame, len(packets))
	if n := p.Alloc(b); n != len(b) {
		t.Fatalf("%d of %d frames are free", n, len(b))
	}
	for i := range b {
		b[i].Len = uint32(copy(b[i].Chunk[b[i].Off:], packets[i]))
	}
	return b
}

func TestBondTransmit(t *testing.T) {
	k, p := bonded(t, 3, nil)
	type sent struct {
		port   uint16
		number uint32
	}
	out := map[int][]sent{}
	k.Wire = func(member int, b []byte) {
		out[member] = append(out[member], sent{binary.BigEndian.Uint16(b[34:]), binary.BigEndian.Uint32(b[42:])})
	}
	round := func() {
		for number := range uint32(8) {
			var packets [][]byte
			for port := range uint16(20) {
				packets = append(packets, udp(port, number))
			}
			b := load(t, p, packets...)
			if n := p.Transmit(b); n != len(b) {
				t.Fatalf("%d of %d frames were taken", n, len(b))
			}
			for range 20 {
				k.Step()
				p.Reclaim()
			}
		}
	}
	members := func() (of map[uint16][]int) {
		of = map[uint16][]int{}
		for member, all := range out {
			last := map[uint16]uint32{}
			for _, s := range all {
				if !slices.Contains(of[s.port], member) {
					of[s.port] = append(of[s.port], member)
				} else if s.number <= last[s.port] {
					t.Errorf("flow %d: packet %d behind %d", s.port, s.number, last[s.port])
				}
				last[s.port] = s.number
			}
		}
		return of
	}
	round()
	for port, by := range members() {
		if len(by) != 1 {
			t.Errorf("flow %d leaves by members %v, want one", port, by)
		}
	}
	if len(out[0]) < 16 || len(out[1]) < 16 || len(out[2]) < 16 {
		t.Errorf("members sent %d, %d and %d packets, want each a share", len(out[0]), len(out[1]), len(out[2]))
	}
	clear(out)
	p.Use([]int{1}) // the active one of active-backup
	round()
	if len(out[0])+len(out[2]) > 0 || len(out[1]) != 160 {
		t.Errorf("members sent %d, %d and %d packets, want all by the one in use", len(out[0]), len(out[1]), len(out[2]))
	}
	p.Use(nil)
	b := load(t, p, udp(1, 1))
	if n := p.Transmit(b); n != 0 {
		t.Errorf("%d frames were taken by a bond with no member in use", n)
	}
	p.Release(b)
	settle(t, k, 512)
}

// What a full member does not take is the caller's, behind the rest; the other members
// take theirs.
func TestBondFull(t *testing.T) {
	k, p := bonded(t, 2, nil)
	k.SetLink(0, false) // takes nothing to send
	var packets [][]byte
	for port := range uint16(200) {
		packets = append(packets, udp(port, uint32(port)))
	}
	b := load(t, p, packets...)
	taken := p.Transmit(b)
	k.Step()
	p.Reclaim()
	one := k.Ports()[0].Stats()
	if one.TxPackets != 64 || taken != 128 || one.TxFull == 0 {
		t.Errorf("%d frames taken, %d of them by the member that is stuck, want 128 and a ring of 64", taken, one.TxPackets)
	}
	var left []uint32
	for _, f := range b[taken:] {
		left = append(left, binary.BigEndian.Uint32(f.Data()[42:]))
	}
	if len(left) != 200-128 || len(slices.Compact(slices.Sorted(slices.Values(left)))) != len(left) {
		t.Errorf("left are %v, want 72 packets, each once", left)
	}
	p.Release(b[taken:])
	settle(t, k, 512)
}

// Each member's packets come in, whatever the others bring.
func TestBondReceive(t *testing.T) {
	k, p := bonded(t, 3, nil)
	for i := range 60 {
		k.Arrive(0, udp(0, uint32(i)))
	}
	k.Arrive(2, udp(2, 7))
	for range 3 {
		k.Step()
	}
	seen := map[uint16]int{}
	b := make([]rings.Frame, 8)
	for round := range 30 {
		n := p.Receive(b)
		for _, f := range b[:n] {
			seen[binary.BigEndian.Uint16(f.Data()[34:])]++
		}
		p.Release(b[:n])
		p.Reclaim()
		if round == 2 && seen[2] != 1 {
			t.Errorf("after 3 rounds the third member's packet has not come in beside a busy one: %v", seen)
		}
	}
	if seen[0] != 60 || seen[2] != 1 {
		t.Errorf("received %v, want 60 by the first and 1 by the third", seen)
	}
	settle(t, k, 512)
}

// A member that leaves under traffic takes no frame along.
func TestBondMemberLeaves(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 30 {
		k, p := bonded(t, 3, func(c *ringstest.Config) { c.Seed, c.Delay, c.Loss, c.Short = seed, 7, 0.1, true })
		b := make([]rings.Frame, 32)
		turn := func(ports int) {
			for range 4 {
				k.Arrive(r.IntN(ports)+3-ports, udp(uint16(r.IntN(50)), 0))
			}
			k.Step()
			n := p.Receive(b[:1+r.IntN(32)])
			p.Release(b[p.Transmit(b[:n]):n])
			p.Reclaim()
		}
		for range 50 + r.IntN(100) {
			turn(3)
		}
		leaving := k.Ports()[0]
		before := p.Stats()
		p.Remove(leaving)
		if err := leaving.Close(); err != nil {
			t.Fatal(err)
		}
		had := leaving.Stats()
		if n := k.UMEM().Reclaim(leaving); n != had.InFill+had.InTx {
			t.Fatalf("seed %d: %d frames reclaimed, want the %d to be filled and %d being sent", seed, n, had.InFill, had.InTx)
		}
		after := p.Stats()
		if after.RxPackets+after.RxDropped < before.RxPackets+before.RxDropped || after.TxPackets != before.TxPackets {
			t.Fatalf("seed %d: the counters fell from %+v to %+v", seed, before, after)
		}
		for range 100 {
			turn(2)
		}
		sum := k.UMEM().Free() + p.Stats().InFill + p.Stats().InTx
		if err := k.Err(); err != nil || sum != 512 {
			t.Fatalf("seed %d: %d frames are accounted for, want 512; %v", seed, sum, err)
		}
	}
}

func TestSpread(t *testing.T) {
	eth := packettest.Eth("02:00:00:00:00:02", "02:00:00:00:00:01")
	v4, v6 := eth.IP4("10.0.0.1", "10.0.0.2"), eth.IP6("fd00::1", "fd00::2")
	for _, row := range []struct {
		stake string
		a, b  []byte
		same  bool
	}{
		{"packets of a flow", v4.UDP(1, 2).Bytes(), v4.TTL(3).ID(7).UDP(1, 2).Payload([]byte("x")).Bytes(), true},
		{"in another VLAN, too", v4.UDP(1, 2).Bytes(), eth.VLAN(7).VLAN(8).IP4("10.0.0.1", "10.0.0.2").UDP(1, 2).Bytes(), true},
		{"another source port", v4.TCP(1, 2, packettest.ACK).Bytes(), v4.TCP(3, 2, packettest.ACK).Bytes(), false},
		{"another destination port", v4.UDP(1, 2).Bytes(), v4.UDP(1, 3).Bytes(), false},
		{"another protocol", v4.UDP(1, 2).Bytes(), v4.TCP(1, 2, packettest.ACK).Bytes(), false},
		{"another address", v4.UDP(1, 2).Bytes(), eth.IP4("10.0.0.1", "10.0.0.3").UDP(1, 2).Bytes(), false},
		{"the addresses swapped", v4.UDP(1, 1).Bytes(), eth.IP4("10.0.0.2", "10.0.0.1").UDP(1, 1).Bytes(), false},
		{"ports that a tunnel hides", v4.Encap(v6.UDP(1, 2)).Bytes(), v4.Encap(v6.UDP(3, 2)).Bytes(), true},
		{"IPv6", v6.UDP(1, 2).Bytes(), v6.TTL(9).UDP(1, 2).Bytes(), true},
		{"IPv6, another port", v6.UDP(1, 2).Bytes(), v6.UDP(1, 3).Bytes(), false},
		{"IPv6, another address", v6.UDP(1, 2).Bytes(), eth.IP6("fd00::1", "fd00::3").UDP(1, 2).Bytes(), false},
		{"IPv6, the addresses swapped", v6.UDP(1, 1).Bytes(), eth.IP6("fd00::2", "fd00::1").UDP(1, 1).Bytes(), false},
		{"ARP from another station", arp(1), arp(2), false},
	} {
		if got := rings.Spread(row.a) == rings.Spread(row.b); got != row.same {
			t.Errorf("%s: the same is %t, want %t", row.stake, got, row.same)
		}
	}
	fragment := v4.UDP(1, 2).Bytes()
	fragment[20] |= 0x20 // more fragments
	later := v4.UDP(3, 4).Bytes()
	later[21] = 5
	if rings.Spread(fragment) != rings.Spread(later) {
		t.Error("fragments of a datagram go different ways")
	}
	var members [4]int
	for port := range uint16(10_000) {
		members[rings.Spread(v4.UDP(port, 80).Bytes())>>32*4>>32]++
	}
	if slices.Min(members[:]) < 2200 {
		t.Errorf("flows go by the members %v times, want about a quarter each", members)
	}
}

// arp is a frame that is not IP.
func arp(from byte) []byte {
	p := frame(0, 60)
	p[11] = from
	return p
}

// FuzzSpread: nothing is read past the frame, and what a flow's packets differ in
// changes nothing.
func FuzzSpread(f *testing.F) {
	eth := packettest.Eth("02:00:00:00:00:02", "02:00:00:00:00:01")
	f.Add(eth.IP4("10.0.0.1", "10.0.0.2").UDP(1, 2).Bytes(), uint8(9))
	f.Add(eth.VLAN(5).IP6("fd00::1", "fd00::2").TCP(1, 2, packettest.SYN).Bytes(), uint8(9))
	f.Fuzz(func(t *testing.T, b []byte, ttl uint8) {
		h := rings.Spread(slices.Clip(b))
		if len(b) > 34 && b[12] == 8 && b[13] == 0 {
			b = slices.Clone(b)
			b[22], b[24], b[25] = ttl, ttl, ttl // TTL and checksum
			if b[14]&15 >= 5 && rings.Spread(b) != h {
				t.Errorf("packets of a flow have hashes %x and %x", h, rings.Spread(b))
			}
		}
	})
}

func BenchmarkBondTransmit(b *testing.B) {
	k, p := bonded(b, 2, func(c *ringstest.Config) { c.Copy = true })
	var packets [][]byte
	for port := range uint16(64) {
		packets = append(packets, udp(port, 0))
	}
	frames := make([]rings.Frame, 64)
	for b.Loop() {
		p.Alloc(frames)
		for i := range frames {
			frames[i].Len = uint32(copy(frames[i].Chunk[frames[i].Off:], packets[i]))
		}
		p.Release(frames[p.Transmit(frames):])
		k.Step()
		p.Reclaim()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*64), "ns/pkt")
}

func TestBondAllocatesNothing(t *testing.T) {
	k, p := bonded(t, 2, func(c *ringstest.Config) { c.Copy = true })
	frames, packet := make([]rings.Frame, 64), udp(1, 0)
	if n := testing.AllocsPerRun(100, func() {
		n := p.Alloc(frames)
		for i := range frames[:n] {
			frames[i].Len = uint32(copy(frames[i].Chunk[frames[i].Off:], packet))
			frames[i].Chunk[frames[i].Off+35] = byte(i)
		}
		p.Release(frames[p.Transmit(frames[:n]):n])
		k.Step()
		p.Reclaim()
		p.Release(frames[:p.Receive(frames)])
	}); n != 0 {
		t.Errorf("a turn of a bond allocates %v times, want 0", n)
	}
}
