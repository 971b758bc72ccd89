package frag

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
)

const (
	nic, router  = "02:00:00:00:00:01", "02:00:00:00:01:fe"
	client, vip  = "10.0.1.10", "10.0.1.100"
	client6      = "fd00:1::10"
	vip6         = "fd00:1::100"
	second       = int64(time.Second)
	datagramSize = 2008 // of the tests' datagrams, without their IP header
)

var (
	names = [Reasons]string{
		Malformed: "malformed", Tiny: "tiny", Overlap: "overlap", Duplicate: "duplicate", Stale: "stale", Expired: "expired", Crowded: "crowded",
	}
	data = func() []byte {
		b := make([]byte, 70_000)
		for i := range b {
			b[i] = byte(i ^ i>>8)
		}
		return b
	}()
	v4 = packettest.Eth(nic, router).IP4(client, vip).UDP(1000, 53).Payload(data[:datagramSize-8])
	v6 = packettest.Eth(nic, router).IP6(client6, vip6).UDP(1000, 53).Payload(data[:datagramSize-8])
	t4 = packettest.Eth(nic, router).IP4(client, vip).TCP(1000, 80, packettest.SYN).Payload(data[:datagramSize-20])
	t6 = packettest.Eth(nic, router).IP6(client6, vip6).TCP(1000, 80, packettest.SYN).Payload(data[:datagramSize-20])
)

// bench is a Reassembler under test, and what it did, in words.
type bench struct {
	*Reassembler
	t     *testing.T
	now   int64
	did   []string
	ready []int // complete, not released
}

func reassembler(t *testing.T, l Limits) *bench {
	t.Helper()
	b := &bench{t: t}
	b.Reassembler = New(l, func(why Reason, n int) { b.say("%s %d", names[why], n) })
	return b
}

func (b *bench) say(format string, args ...any) { b.did = append(b.did, fmt.Sprintf(format, args...)) }

// add gives it packets, each "whole" when it completes a datagram.
func (b *bench) add(packets ...packettest.Packet) {
	b.t.Helper()
	for _, p := range packets {
		b.addFrame(p.Bytes())
	}
}

func (b *bench) addFrame(frame []byte) {
	b.t.Helper()
	var in packet.Info
	if r := packet.Parse(frame, &in); r != packet.Fragment {
		b.t.Fatalf("%s: Parse says %v", packettest.Describe(frame), r)
	}
	if id, whole := b.Add(frame, &in, Origin{Cause: uint64(len(b.did))}, b.now); whole {
		b.say("whole")
		b.ready = append(b.ready, id)
	}
}

// expire lets the time come, and says which first fragments are answered.
func (b *bench) expire(now int64) {
	b.now = now
	b.Expire(now, 1000, func(_ Origin, first []byte) { b.say("answer %d", len(first)) })
}

// check compares what was done since the last check.
func (b *bench) check(stake, want string) {
	b.t.Helper()
	if got := strings.Join(b.did, ", "); got != want {
		b.t.Errorf("%s: %s, want %s", stake, got, want)
	}
	b.did = nil
}

// empty checks that all memory has come back.
func (b *bench) empty(stake string) {
	b.t.Helper()
	if b.store.free != len(b.parts) || b.Waiting() != 0 || b.waiting != [2]list{emptyList, emptyList} {
		b.t.Errorf("%s: %d of %d blocks are free, %d fragments wait", stake, b.store.free, len(b.parts), b.Waiting())
	}
	n := 0
	for i := b.sources.first; i != none; i = b.sources.all[i].chain {
		n++
	}
	for _, bucket := range slices.Concat(b.buckets, b.sources.buckets) {
		if bucket != none {
			b.t.Fatalf("%s: something is left in a bucket", stake)
		}
	}
	if n != len(b.sources.all) {
		b.t.Errorf("%s: %d of %d sources are free", stake, n, len(b.sources.all))
	}
}

// TestAdd: what is put together and what is dropped. Kernel means that the row was
// asked of Linux 6.1.
func TestAdd(t *testing.T) {
	part := func(p packettest.Packet, from, to int, more bool) packettest.Packet {
		seg := p.Datagram()
		header := 20
		if seg[0]>>4 == 6 {
			header = 40
		}
		proto := map[int]uint8{20: seg[9], 40: seg[6]}[header]
		return p.Fragment(from, more, 77).Proto(proto).Payload(append(slices.Clone(seg), data...)[header+from : header+to])
	}
	p4 := func(from, to int, more bool) packettest.Packet { return part(v4, from, to, more) }
	p6 := func(from, to int, more bool) packettest.Packet { return part(v6, from, to, more) }
	order := func(p packettest.Packet, at ...int) (out []packettest.Packet) {
		for _, i := range at {
			out = append(out, p.Parts(77, 600, 1600)[i])
		}
		return out
	}
	others := func(n int) (out []packettest.Packet) {
		for i := range n {
			out = append(out, v4.Parts(uint32(1000+i), 800)[0])
		}
		return out
	}
	ecn := func(a, b uint8) []packettest.Packet {
		return []packettest.Packet{v4.TOS(a).Parts(77, 600)[0], v4.TOS(b).Parts(77, 600)[1]}
	}
	for _, row := range []struct {
		stake string
		in    []packettest.Packet
		want  string
	}{
		{"in order", order(v4, 0, 1, 2), "whole"},
		{"backwards", order(v4, 2, 1, 0), "whole"},
		{"in any order", order(v4, 1, 2, 0), "whole"},
		{"IPv6", order(v6, 1, 2, 0), "whole"},
		{"each twice (kernel)", order(v4, 0, 0, 1, 1, 2), "duplicate 1, duplicate 1, whole"},
		{"again when it is complete: another's beginning (kernel)", order(v4, 0, 1, 2, 2), "whole"},
		{"part of what is there (kernel)", []packettest.Packet{p4(0, 800, true), p4(8, 80, true), p4(800, 2008, false)}, "duplicate 1, whole"},
		{"over two that are there (kernel)", []packettest.Packet{p4(0, 800, true), p4(800, 1600, true), p4(80, 1000, true), p4(1600, 2008, false)}, "duplicate 1, whole"},
		{"over two that did not come in order (kernel)", []packettest.Packet{p4(800, 1600, true), p4(0, 800, true), p4(80, 1000, true)}, "overlap 2, overlap 1"},
		{"overlap with the one before (kernel)", []packettest.Packet{p4(0, 800, true), p4(600, 1600, true)}, "overlap 1, overlap 1"},
		{"with the one behind", []packettest.Packet{p4(800, 1600, true), p4(0, 808, true)}, "overlap 1, overlap 1"},
		{"with a gap's both ends", []packettest.Packet{p4(0, 80, true), p4(160, 240, true), p4(72, 168, true)}, "overlap 2, overlap 1"},
		{"over the gap", []packettest.Packet{p4(160, 240, true), p4(0, 400, true)}, "overlap 1, overlap 1"},
		{"what comes after an overlap is another datagram (kernel)", append([]packettest.Packet{p4(0, 800, true), p4(600, 1600, true)}, order(v4, 0, 1, 2)...), "overlap 1, overlap 1, whole"},
		{"IPv6: overlap (RFC 5722, kernel)", []packettest.Packet{p6(0, 800, true), p6(600, 1600, true)}, "overlap 1, overlap 1"},
		{"IPv6: duplicate (kernel)", []packettest.Packet{p6(0, 800, true), p6(0, 800, true), p6(800, 2008, false)}, "duplicate 1, whole"},
		{"two ends (kernel)", []packettest.Packet{p4(1600, 3008, false), p4(1600, 2008, false)}, "malformed 1, malformed 1"},
		{"two ends of IPv6: the first counts (kernel)", []packettest.Packet{p6(1600, 2008, false), p6(1600, 3008, false), p6(0, 800, true), p6(800, 1600, true)}, "malformed 1, whole"},
		{"an end in the middle (kernel)", []packettest.Packet{p4(0, 800, true), p4(800, 1600, true), p4(1000, 1200, false)}, "malformed 2, malformed 1"},
		{"more behind the end (kernel)", []packettest.Packet{p4(1600, 2008, false), p4(2008, 3008, true)}, "malformed 1, malformed 1"},
		{"not of 8 bytes: the rest is cut off (kernel)", []packettest.Packet{p4(0, 803, true), p4(800, 2008, false)}, "whole"},
		{"not of 8 bytes in IPv6", []packettest.Packet{p6(0, 803, true), p6(0, 800, true), p6(800, 2008, false)}, "malformed 1, whole"},
		{"nothing in it (kernel)", []packettest.Packet{p4(0, 800, true), p4(800, 800, true)}, "malformed 1, malformed 1"},
		{"nothing in it, the last (kernel)", []packettest.Packet{p4(0, 800, true), p4(800, 800, false)}, "malformed 1, malformed 1"},
		{"nothing in IPv6's", []packettest.Packet{p6(0, 800, true), p6(800, 800, false), p6(800, 2008, false)}, "malformed 1, whole"},
		{"beyond 64 KiB (kernel)", []packettest.Packet{p4(0, 800, true), v4.Fragment(65520, false, 77).Proto(17).Payload(data[:800])}, "malformed 1, malformed 1"},
		{"beyond 64 KiB in IPv6", []packettest.Packet{v6.Fragment(65528, false, 77).Proto(17).Payload(data[:16])}, "malformed 1"},
		{"TCP's flags cut off (RFC 1858)", []packettest.Packet{part(t4, 0, 8, true), part(t4, 8, 2008, false)}, "tiny 1, tiny 1"},
		{"TCP's flags just there (kernel)", []packettest.Packet{part(t4, 0, 16, true), part(t4, 16, 2008, false)}, "whole"},
		{"UDP's header alone (kernel)", []packettest.Packet{p4(0, 8, true), p4(8, 2008, false)}, "whole"},
		{"TCP's header in two of IPv6 (RFC 8200, kernel)", []packettest.Packet{part(t6, 0, 16, true), part(t6, 16, 2008, false)}, "tiny 1"},
		{"TCP's header and 4 bytes (kernel)", []packettest.Packet{part(t6, 0, 24, true), part(t6, 24, 2008, false)}, "whole"},
		{"64 others in between: restart (kernel)", slices.Concat(order(v4, 0), others(64), order(v4, 1)), "stale 1"},
		{"63 others in between (kernel)", slices.Concat(order(v4, 0), others(63), order(v4, 1, 2)), "whole"},
		{"ECN by some only (RFC 3168, kernel)", ecn(0, 1), "malformed 2"},
		{"congestion, of none that knows ECN (kernel)", ecn(3, 0), "malformed 2"},
		{"congestion of some (kernel)", ecn(2, 3), "whole"},
		{"two kinds of ECN (kernel)", ecn(2, 1), "whole"},
		{"another ident", []packettest.Packet{p4(0, 800, true), v4.Parts(78, 800)[1]}, ""},
		{"another protocol's", []packettest.Packet{p4(0, 800, true), p4(800, 2008, false).Proto(6)}, ""},
		{"IPv6 knows no protocol behind the first (kernel)", []packettest.Packet{p6(800, 2008, false).Proto(6), p6(0, 800, true)}, "whole"},
	} {
		b := reassembler(t, Limits{})
		b.add(row.in...)
		b.check(row.stake, row.want)
		for _, id := range b.ready {
			b.Release(id)
		}
		b.expire(61 * second)
		b.empty(row.stake)
	}
}

// TestAssemble: the datagram is as it was sent.
func TestAssemble(t *testing.T) {
	for _, row := range []struct {
		stake   string
		p       packettest.Packet
		at      []int
		want    packettest.Packet
		df      bool
		largest uint32
	}{
		{"IPv4", v4.ID(77), []int{600, 1600}, v4.ID(77), false, 1020},
		{"behind a tag", v4.VLAN(7).ID(77), []int{1000}, v4.VLAN(7).ID(77), false, 1028},
		{"with options", v4.ID(77).Options(0x94, 4, 0, 0), []int{1000}, v4.ID(77).Options(0x94, 4, 0, 0), false, 1032},
		{"DF in all (kernel)", v4.ID(77).DF(), []int{1000}, v4.ID(77).DF(), true, 1028},
		{"IPv6: the fragment header goes", v6, []int{600, 1600}, v6, false, 1048},
		{"IPv6: others stay", v6.HopByHop(6).Routing(), []int{1000}, v6.HopByHop(6).Routing(), false, 40 + 16 + 8 + 1008},
		{"in as many pieces as there may be", v4.ID(77), evenly(8, datagramSize), v4.ID(77), false, 28},
		{"the largest of IPv4", v4.ID(77).Payload(data[:65535-28]), evenly(1480, 65515), v4.ID(77).Payload(data[:65535-28]), false, 1500},
		{"the largest of IPv6", v6.Payload(data[:65535-8]), evenly(1448, 65535), v6.Payload(data[:65535-8]), false, 1496},
	} {
		b := reassembler(t, Limits{})
		parts, arrival := row.p.Parts(77, row.at...), []packettest.Packet(nil)
		for i := range parts { // odd ones first
			arrival = append(arrival, parts[(2*i+1)%(len(parts)|1)%len(parts)])
			b.add(arrival[i])
		}
		b.check(row.stake, "whole")
		if t.Failed() {
			return
		}
		id, dst := b.ready[0], make([]byte, packet.MaxFrame)
		got, want := dst[:b.Assemble(id, dst)], row.want.Bytes()
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %s, want %s", row.stake, packettest.Describe(got), packettest.Describe(want))
		}
		if w := b.Of(id); w.DF != row.df && row.p.Datagram()[0]>>4 == 4 || w.Largest != row.largest || w.Parts != len(parts) {
			t.Errorf("%s: %+v, want %d parts, the largest of %d, DF %t", row.stake, w, len(parts), row.largest, row.df)
		}
		i := 0
		b.Fragments(id, func(_ Origin, frame []byte) {
			if !bytes.Equal(frame, arrival[i].Bytes()) {
				t.Errorf("%s: fragment %d is now %s", row.stake, i, packettest.Describe(frame))
			}
			i++
		})
		b.Release(id)
		b.empty(row.stake)
	}
}

// evenly returns the multiples of n below size.
func evenly(n, size int) (at []int) {
	for off := n; off < size; off += n {
		at = append(at, off)
	}
	return at
}

// TestHeader: where fragments differ, the first one's header counts, congestion
// anybody's, and DF that of the largest (kernel).
func TestHeader(t *testing.T) {
	whole := func(a, b packettest.Packet, at int) string {
		x := reassembler(t, Limits{})
		x.add(b.Parts(77, at)[1], a.Parts(77, at)[0])
		dst := make([]byte, packet.MaxFrame)
		return packettest.Describe(dst[:x.Assemble(x.ready[0], dst)])
	}
	for _, row := range []struct {
		stake    string
		a, b     packettest.Packet
		at       int
		has, not string
	}{
		{"TTL", v4.TTL(9), v4.TTL(1), 600, "ttl=9", ""},
		{"TOS", v4.TOS(0x20), v4.TOS(0x40), 600, "tos=0x20", ""},
		{"congestion", v4.TOS(1), v4.TOS(3), 600, "tos=0x03", ""},
		{"congestion, IPv6", v6.TOS(2), v6.TOS(3), 600, "tc=0x03", ""},
		{"DF in the largest, the last", v4, v4.DF(), 600, " DF", ""},
		{"in the smaller", v4.DF(), v4, 600, "", " DF"},
		{"in the largest, the first", v4.DF(), v4, 1600, " DF", ""},
	} {
		got := whole(row.a, row.b, row.at)
		if !strings.Contains(got, row.has) || row.not != "" && strings.Contains(got, row.not) || strings.Contains(got, "BAD") {
			t.Errorf("%s: %s, want%s, not %q", row.stake, got, row.has, row.not)
		}
	}
}

// TestExpire: 30 s and 60 s as in Linux; the sender is answered if the first
// fragment is there.
func TestExpire(t *testing.T) {
	b := reassembler(t, Limits{})
	b.add(v4.Parts(1, 600)[0], v6.Parts(2, 608)[0], v4.Parts(3, 600)[1])
	b.now = second
	b.add(v4.Parts(1, 600, 1600)[1]) // does not put it off
	if due, ok := b.NextDue(); !ok || due != 30*second {
		t.Errorf("due at %d %t, want 30 s", due, ok)
	}
	b.expire(30*second - 1)
	b.check("just before", "")
	b.expire(30 * second)
	b.check("IPv4, of one without its first", "answer 634, expired 2, expired 1")
	b.add(v4.Parts(4, 600)[0])
	b.expire(59 * second)
	b.check("nothing is due", "")
	b.expire(90 * second)
	b.check("both, in their order", "answer 634, expired 1, answer 670, expired 1")
	b.empty("all over")
	if _, ok := b.NextDue(); ok {
		t.Error("something is due with nothing there")
	}
	for i := range 5 {
		b.add(v4.Parts(uint32(i), 600)[1])
	}
	b.Expire(1000*second, 3, nil)
	b.check("a bounded number at once", "expired 1, expired 1, expired 1")
}

// TestCrowded: memory is bounded, the oldest goes first, and a source that has its share
// pays itself.
func TestCrowded(t *testing.T) {
	b := reassembler(t, Limits{Memory: 32 << 10, Share: 50})
	n := len(b.parts)
	if n < 30 || n*blockBytes >= 32<<10 {
		t.Fatalf("%d blocks of 32 KiB", n)
	}
	small := v4.Payload(data[:400])
	from := func(source, id int) packettest.Packet {
		return small.IP4(fmt.Sprintf("10.0.1.%d", source), vip).Parts(uint32(id), 200)[0]
	}
	for i := range n/2 + 3 {
		b.add(from(7, i))
	}
	b.check("more than a source's share", "crowded 1, crowded 1, crowded 1")
	b.add(from(8, 1))
	b.now = 1
	b.add(v6.Parts(1, 256)[0])
	for i := 9; b.store.free > 0; i++ {
		b.add(from(i, 1))
	}
	b.check("others have room", "")
	b.add(from(200, 1))
	b.check("until the memory is used up: the oldest of all", "crowded 1")
	b.add(from(7, n/2+2).Fragment(200, false, uint32(n/2+2)).Proto(17).Payload(data[:208]))
	b.check("one that grows costs another", "crowded 1, whole")
	b.Release(b.ready[0])
	b.expire(61 * second)
	b.did = nil
	b.empty("afterwards")

	for i := range 100 {
		b.add(v4.Payload(data[:20_000]).Parts(7, evenly(200, 20_008)...)[i])
		if t.Failed() {
			return
		}
	}
	if got := strings.Join(b.did, " "); !strings.HasPrefix(got, fmt.Sprintf("crowded %d crowded 1", n/2)) {
		t.Errorf("a datagram larger than its source's share: %s", got)
	}
	b.expire(200 * second)
	b.did = nil
	b.empty("after that")

	// What is complete and not released keeps its memory.
	for i := range n {
		b.add(small.IP4(fmt.Sprintf("10.0.2.%d", i), vip).Parts(1, 200)...)
	}
	if len(b.ready)-1 != n/2 || b.did[len(b.did)-1] != "crowded 1" {
		t.Errorf("%d datagrams of two blocks are complete at once, then %q; there are %d blocks", len(b.ready)-1, b.did[len(b.did)-1], n)
	}
}

// TestTooManyParts: a datagram of very small fragments is given up.
func TestTooManyParts(t *testing.T) {
	b := reassembler(t, Limits{Share: 100})
	b.add(v4.Payload(data[:maxParts*8]).Parts(77, evenly(8, maxParts*8+8)...)[:maxParts+1]...)
	b.check("one fragment too many", fmt.Sprintf("malformed %d, malformed 1", maxParts))
}

func TestNoAllocation(t *testing.T) {
	r := New(Limits{Memory: 64 << 10}, func(Reason, int) {})
	frames, infos := make([][]byte, 0, 64), make([]packet.Info, 64)
	for i := range 16 {
		for _, p := range v4.Payload(data[:4000]).IP4(fmt.Sprintf("10.0.1.%d", i), vip).Parts(uint32(i), 1480, 2960) {
			frames = append(frames, p.Bytes())
		}
		frames = append(frames, v6.Parts(uint32(i), 600)[0].Bytes())
	}
	for i, f := range frames {
		packet.Parse(f, &infos[i])
	}
	now, dst := int64(0), make([]byte, packet.MaxFrame)
	cutter := NewCutter([32]byte{})
	emit := func([]byte) bool { return true }
	sizes := make([]uint16, 0, maxParts)
	var whole packet.Info
	if n := testing.AllocsPerRun(100, func() {
		for i, f := range frames {
			now += second
			if id, ok := r.Add(f, &infos[i], Origin{}, now); ok {
				n := r.Assemble(id, dst[64:])
				f := frameAt(dst, 64, n)
				packet.Parse(f.Chunk[f.Off:][:n], &whole)
				cutter.Do(&f, &whole, Cut{Limit: 1000, Sizes: r.Sizes(id, sizes)}, emit)
				r.Release(id)
			}
		}
		r.Expire(now, 100, func(Origin, []byte) {})
	}); n != 0 {
		t.Errorf("a flood of fragments allocates %v times a round, want 0", n)
	}
}
