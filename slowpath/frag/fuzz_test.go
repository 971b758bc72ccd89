package frag

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
)

// twin is a Reassembler by the book: of each datagram a list of fragments and a map of
// bytes, without bounds.
type twin struct {
	datagrams map[key]*twinDatagram
	seen      map[string]uint32
	did       []string
}

type twinDatagram struct {
	born    int64
	v6      bool
	parts   int
	bytes   map[uint32]byte
	runs    [][2]uint32 // what came in order, the last one last
	size    uint32
	ended   bool
	ecn     [4]bool
	seen    uint32
	largest uint32
	df      bool
}

func (x *twin) say(format string, args ...any) { x.did = append(x.did, fmt.Sprintf(format, args...)) }

func (x *twin) end(k key, why Reason) {
	x.say("%s %d", names[why], x.datagrams[k].parts)
	delete(x.datagrams, k)
}

// peers returns whether another datagram of a source waits.
func (x *twin) peers(k key) bool {
	for other := range x.datagrams {
		if other.src == k.src {
			return true
		}
	}
	return false
}

func (x *twin) add(frame []byte, now int64) {
	var in packet.Info
	packet.Parse(frame, &in)
	var p piece
	why, alone, ok := read(frame, &in, &p)
	source := fmt.Sprint(p.src)
	if !x.peers(p.key) {
		x.seen[source] = 0
	}
	d := x.datagrams[p.key]
	if d != nil {
		if in.Family == 4 && x.seen[source]+1-d.seen > 64 {
			x.end(p.key, Stale)
			d = nil
		} else {
			x.seen[source]++
			d.seen = x.seen[source]
		}
	}
	if d != nil && ok {
		there := 0
		for i := p.off; i < p.end; i++ {
			if _, has := d.bytes[i]; has {
				there++
			}
		}
		switch {
		case d.ended && p.end > d.size, !p.more && p.end < d.size:
			why, alone, ok = Malformed, in.Family == 6, false
		case slices.ContainsFunc(d.runs, func(r [2]uint32) bool { return r[0] <= p.off && p.end <= r[1] }):
			why, alone, ok = Duplicate, true, false
		case there > 0:
			why, alone, ok = Overlap, false, false
		}
	}
	if !ok {
		if d != nil && !alone {
			x.end(p.key, why)
		}
		x.say("%s 1", names[why])
		return
	}
	if d == nil {
		if !x.peers(p.key) {
			x.seen[source] = 0
		}
		x.seen[source]++
		d = &twinDatagram{born: now, v6: in.Family == 6, bytes: map[uint32]byte{}, seen: x.seen[source]}
		x.datagrams[p.key] = d
	}
	for i := p.off; i < p.end; i++ {
		d.bytes[i] = frame[p.body+i-p.off]
	}
	last := len(d.runs) - 1
	switch {
	case last >= 0 && d.runs[last][1] == p.off:
		d.runs[last][1] = p.end
	case last >= 0 && p.off < d.runs[last][0]:
		d.runs = slices.Insert(d.runs, 0, [2]uint32{p.off, p.end})
	default:
		d.runs = append(d.runs, [2]uint32{p.off, p.end})
	}
	d.parts++
	d.size, d.ended, d.ecn[p.ecn] = max(d.size, p.end), d.ended || !p.more, true
	if p.length > d.largest {
		d.largest, d.df = p.length, false
	}
	d.df = d.df || p.length == d.largest && p.df
	if !d.ended || len(d.bytes) != int(d.size) {
		return
	}
	delete(x.datagrams, p.key)
	if d.ecn[0] && (d.ecn[1] || d.ecn[2] || d.ecn[3]) {
		x.say("malformed %d", d.parts)
		return
	}
	body := make([]byte, d.size)
	for i := range body {
		body[i] = d.bytes[uint32(i)]
	}
	x.say("whole %d parts %d %t %t: %s", d.parts, d.largest, d.df, d.ecn[3], hex.EncodeToString(body))
}

// expire ends what is due.
func (x *twin) expire(now int64) {
	for k, d := range x.datagrams {
		due := d.born + 30*second
		if d.v6 {
			due += 30 * second
		}
		if due > now {
			continue
		}
		if _, first := d.bytes[0]; first {
			x.say("answered")
		}
		x.end(k, Expired)
	}
}

// FuzzReassembler holds the Reassembler against its twin. Each six bytes of the input
// are a fragment, see scripted.
func FuzzReassembler(f *testing.F) {
	const v6, more, df, tcp, congested, late = 1, 1, 0x40, 0x80, 0x30, 0xe0
	for _, script := range [][]byte{
		{0, 0, 0, 80, more, 0, 0, 0, 10, 80, more, 9, 0, 0, 20, 33, 0, 1},           // in order
		{v6, 0, 20, 33, 0, 1, v6, 0, 10, 80, more, 9, v6, 0, 0, 80, more, 0},        // backwards
		{0, 0, 0, 80, more, 0, 0, 0, 10, 80, more, 9, 0, 0, 5, 80, more, 9},         // over two
		{0, 0, 0, 80, more, 0, 0, 0, 5, 80, more, 9},                                // overlap
		{0, 0, 20, 33, 0, 1, 0, 0, 10, 33, 0, 1},                                    // two ends
		{0, tcp, 0, 8, more, 0, 0, tcp, 1, 80, 0, 0},                                // tiny
		{0, df, 0, 80, more, 0, 0, 0, 10, 88, 0, 0},                                 // DF in the smaller
		{0, 0x10, 0, 80, more, 0, 0, congested, 10, 88, 0, 0},                       // congestion
		{0, 0, 0, 80, more, 0, 0, congested, 10, 88, 0, 0},                          // of one that knows no ECN
		slices.Repeat([]byte{late, 0, 0, 80, more, 0}, 6),                           // in time
		slices.Repeat([]byte{late, 0, 1, 80, more, 0, v6, 0, 0, 80, more, 0}, 6),    // and not
		slices.Repeat([]byte{0, 0, 0, 80, more, 0, 4, 0, 0, 80, more, 0}, 70),       // too far apart
		{0, 0, 0, 80, 0x81, 0, v6, 0, 0, 80, 0x80, 0, v6, 0, 10, 0, 0, 0, 0, 0, 10}, // beyond the end, and empty
	} {
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		x := &twin{datagrams: map[key]*twinDatagram{}, seen: map[string]uint32{}}
		var got []string
		r := New(Limits{Memory: 1 << 20, Share: 100}, func(why Reason, n int) {
			got = append(got, fmt.Sprintf("%s %d", names[why], n))
		})
		compare := func(what string) {
			t.Helper()
			slices.Sort(got) // what expires together does so in any order
			slices.Sort(x.did)
			if !slices.Equal(got, x.did) {
				t.Fatalf("%s: %q, want %q", what, got, x.did)
			}
			got, x.did = nil, nil
		}
		now := int64(0)
		for step := 0; len(script) >= 6 && step < 300; step++ {
			now += int64(script[0]>>5) * second
			r.Expire(now, 1000, func(Origin, []byte) { got = append(got, "answered") })
			x.expire(now)
			compare(fmt.Sprintf("step %d, at %d s", step, now/second))

			frame := scripted(script)
			script = script[6:]
			var in packet.Info
			if packet.Parse(frame, &in) != packet.Fragment {
				continue
			}
			x.add(frame, now)
			if id, whole := r.Add(frame, &in, Origin{}, now); whole {
				got = append(got, told(t, r, id))
				r.Release(id)
			}
			compare(fmt.Sprintf("step %d, %s", step, packettest.Describe(frame)))
		}
		r.Expire(now+1000*second, 1<<20, func(Origin, []byte) {})
		(&bench{Reassembler: r, t: t}).empty("afterwards")
	})
}

// scripted makes six bytes a fragment: of two sources, both families, four idents.
func scripted(s []byte) []byte {
	p := packettest.Eth(nic, router)
	if s[0]&1 == 0 {
		p = p.IP4("10.0.1."+fmt.Sprint(1+s[0]>>1&1), vip)
	} else {
		p = p.IP6("fd00::"+fmt.Sprint(1+s[0]>>1&1), vip6)
	}
	proto := uint8(packet.ProtoUDP)
	if s[1]&0x80 != 0 {
		proto = packet.ProtoTCP
	}
	if s[1]&0x40 != 0 {
		p = p.DF()
	}
	off, n := int(s[2])*8, int(s[3])
	if s[4]&0x80 != 0 {
		off = 65536 - 8 - off
	}
	return p.TOS(s[1]>>4&3).Fragment(off, s[4]&1 != 0, uint32(s[0]>>2&7)).Proto(proto).Payload(data[int(s[5]):][:n]).Bytes()
}

// told says what a complete datagram is, as the twin does.
func told(t *testing.T, r *Reassembler, id int) string {
	t.Helper()
	dst := make([]byte, packet.MaxFrame)
	n := r.Assemble(id, dst)
	var in packet.Info
	if result := packet.Parse(dst[:n], &in); result == packet.Fragment || result == packet.BadChecksum || int(in.End) != n {
		t.Errorf("assembled to %v: %s", result, packettest.Describe(dst[:n]))
	}
	header := int(in.L3) + map[uint8]int{4: packet.IPv4Len, 6: packet.IPv6Len}[in.Family]
	w := r.Of(id)
	return fmt.Sprintf("whole %d parts %d %t %t: %s", w.Parts, w.Largest, w.DF, in.TOS&3 == 3, hex.EncodeToString(dst[header:n]))
}

// FuzzFrames gives the Reassembler whatever frames there are, and cuts what it puts
// together: put together again it has to be the same.
func FuzzFrames(f *testing.F) {
	for _, p := range []packettest.Packet{
		v4, v6, v4.VLAN(7).Options(0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0), v6.HopByHop(6).Routing(), v6.DestOpts(14), t4, t6,
	} {
		parts := p.Payload(data[:200]).Parts(77, 120)
		f.Add(parts[0].Bytes(), parts[1].Bytes(), uint16(100), false)
		f.Add(parts[1].Bytes(), parts[0].Bytes(), uint16(300), true)
	}
	f.Add(v6.Payload(data[:100]).Fragment(0, false, 77).Bytes(), []byte{}, uint16(90), false)
	f.Fuzz(func(t *testing.T, a, b []byte, limit uint16, keep bool) {
		r := New(Limits{Memory: 1 << 20, Share: 100}, func(Reason, int) {})
		for _, frame := range [][]byte{a, b} {
			var in packet.Info
			if packet.Parse(frame, &in) != packet.Fragment {
				continue
			}
			id, whole := r.Add(frame, &in, Origin{}, 0)
			if !whole {
				continue
			}
			chunk := make([]byte, 8+packet.MaxFrame)
			n := r.Assemble(id, chunk[8:])
			cut := Cut{Limit: int(limit)}
			if keep {
				cut.Sizes = r.Sizes(id, nil)
			}
			want := bytes.Clone(chunk[8 : 8+n])
			if result := packet.Parse(want, &in); result.Malformed() && result != packet.Truncated || result == packet.Fragment || int(in.End) != n {
				t.Fatalf("assembled to %v: %s", result, packettest.Describe(want))
			}
			if frames, ok := cutUp(want, 8, cut); ok && in.L4 > 0 && len(frames) <= maxParts {
				for _, f := range frames {
					var piece packet.Info
					if packet.Parse(f, &piece); piece.Len() > int(limit) {
						t.Errorf("limit %d: %s", limit, packettest.Describe(f))
					}
				}
				checkSame(t, frames, want)
			}
			r.Release(id)
		}
		r.Expire(1000*second, 1<<20, func(Origin, []byte) {})
		(&bench{Reassembler: r, t: t}).empty("afterwards")
	})
}

// checkSame puts fragments together. Those with a tiny first one are dropped, that
// is all that may differ.
func checkSame(t *testing.T, frames [][]byte, want []byte) {
	t.Helper()
	tiny := false
	r := New(Limits{Memory: 8 << 20, Share: 100}, func(why Reason, _ int) { tiny = tiny || why == Tiny })
	var in packet.Info
	if len(frames) == 1 && packet.Parse(frames[0], &in) != packet.Fragment {
		if !bytes.Equal(frames[0], want) {
			t.Errorf("whole, but %s", packettest.Describe(frames[0]))
		}
		return
	}
	for _, f := range frames {
		packet.Parse(f, &in)
		if id, whole := r.Add(f, &in, Origin{}, 0); whole {
			dst := make([]byte, packet.MaxFrame)
			if got := dst[:r.Assemble(id, dst)]; !bytes.Equal(got, want) {
				t.Errorf("together again: %x, want %x", got, want)
			}
			return
		}
	}
	if !tiny {
		t.Errorf("%d fragments are not a datagram again", len(frames))
	}
}
