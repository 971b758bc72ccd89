package frag

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
)

func frameAt(chunk []byte, off, n int) rewrite.Frame {
	return rewrite.Frame{Chunk: chunk, Off: uint32(off), Len: uint32(n)}
}

// cutUp returns the fragments of a frame.
func cutUp(frame []byte, room int, cut Cut) (frames [][]byte, ok bool) {
	chunk := append(make([]byte, room), frame...)
	f := frameAt(chunk, room, len(frame))
	var in packet.Info
	packet.Parse(frame, &in)
	ok = NewCutter([32]byte{1}).Do(&f, &in, cut, func(frame []byte) bool {
		frames = append(frames, bytes.Clone(frame))
		return true
	})
	return frames, ok
}

func TestCut(t *testing.T) {
	rr := []byte{0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0} // router alert, copied; record route, not
	for _, row := range []struct {
		stake string
		p     packettest.Packet
		cut   Cut
		want  string
	}{
		{"to an MTU (kernel: dr-mtu)", v4.ID(7), Cut{Limit: 1300}, "0+1280 1280.728"},
		{"the last may be longer than a multiple of 8", v4.Payload(data[:2547]), Cut{Limit: 1299}, "0+1272 1272+1272 2544.11"},
		{"and just fill it", v4.Payload(data[:1272+1279-8]), Cut{Limit: 1299}, "0+1272 1272.1279"},
		{"it fits", v4, Cut{Limit: 2028}, "whole"},
		{"by one byte not", v4, Cut{Limit: 2027}, "0+2000 2000.8"},
		{"as it came, though it fits (kernel)", v4, Cut{Limit: 3000, Sizes: []uint16{600, 1000, 408}}, "0+600 600+1000 1600.408"},
		{"what came does not fit", v4, Cut{Limit: 1000, Sizes: []uint16{600, 1000, 408}}, "0+976 976+976 1952.56"},
		{"what came is of another length", v4, Cut{Limit: 1000, Sizes: []uint16{600, 608}}, "0+976 976+976 1952.56"},
		{"what came is not of 8 bytes", v4, Cut{Limit: 1500, Sizes: []uint16{604, 1404}}, "0+1480 1480.528"},
		{"IPv6", v6, Cut{Limit: 1280}, "0+1232 1232.776"},
		{"IPv6 that fits", v6, Cut{Limit: 2048}, "whole"},
		{"IPv6 as it came (kernel)", v6, Cut{Limit: 1500, Sizes: []uint16{600, 1000, 408}}, "0+600 600+1000 1600.408"},
		{"behind headers that routers look at", v6.HopByHop(6).Routing(), Cut{Limit: 1280}, "0+1216 1216.792"},
		{"but not those of the destination", v6.Routing().DestOpts(6), Cut{Limit: 1280}, "0+1224 1224.792"},
		{"behind a tag", v4.VLAN(7), Cut{Limit: 1300}, "0+1280 1280.728"},
		{"the largest", v4.Payload(data[:65535-28]), Cut{Limit: 40_000}, "0+39976 39976.25539"},
		{"options", v4.Options(rr...), Cut{Limit: 1300}, "0+1264 1264.744"},
		{"no room for payload", v4, Cut{Limit: 27}, "no"},
		{"none in IPv6", v6, Cut{Limit: 55}, "no"},
	} {
		frame := row.p.Bytes()
		frames, ok := cutUp(frame, 8, row.cut)
		got := ""
		for _, f := range frames {
			var in packet.Info
			if r := packet.Parse(f, &in); in.Len() > row.cut.Limit || strings.Contains(packettest.Describe(f), "ipcsum=BAD") {
				t.Errorf("%s: %v %s", row.stake, r, packettest.Describe(f))
			}
			var p piece
			switch _, _, ok := readFragment(f, &p); {
			case !ok:
				got += " whole"
			case p.more:
				got += fmt.Sprintf(" %d+%d", p.off, p.end-p.off)
			default:
				got += fmt.Sprintf(" %d.%d", p.off, p.end-p.off)
			}
		}
		if !ok {
			got += " no"
		}
		if got != " "+row.want {
			t.Errorf("%s:%s, want %s", row.stake, got, row.want)
		}
		if again := together(t, frames); ok && !bytes.Equal(again, frame) {
			t.Errorf("%s: together they are %s", row.stake, packettest.Describe(again))
		}
	}
	if _, ok := cutUp(v6.Bytes(), 7, Cut{Limit: 1280}); ok {
		t.Error("IPv6's fragment header found room where there is none")
	}
}

// readFragment reads a frame; false: it is none.
func readFragment(frame []byte, p *piece) (Reason, bool, bool) {
	var in packet.Info
	if packet.Parse(frame, &in) != packet.Fragment {
		return 0, false, false
	}
	return read(frame, &in, p)
}

// together puts the fragments of a datagram together, the last first.
func together(t *testing.T, frames [][]byte) []byte {
	t.Helper()
	if len(frames) == 1 {
		return frames[0]
	}
	r := New(Limits{Memory: 8 << 20, Share: 100}, func(why Reason, n int) { t.Errorf("lost %d: %s", n, names[why]) })
	for _, f := range slices.Backward(frames) {
		var in packet.Info
		packet.Parse(f, &in)
		if id, ok := r.Add(f, &in, Origin{}, 0); ok {
			dst := make([]byte, packet.MaxFrame)
			return dst[:r.Assemble(id, dst)]
		}
	}
	return nil
}

// TestCutHeaders: what the fragments' headers say besides their place.
func TestCutHeaders(t *testing.T) {
	copied, not := []byte{0x94, 4, 0, 0}, []byte{7, 7, 4, 0, 0, 0, 0, 0}
	for _, row := range []struct {
		stake string
		p     packettest.Packet
		df    bool
		both  string // in the first and in others
		later string // in others
		never string
	}{
		{"ident, TTL and TOS stay", v4.ID(0x4d).TTL(9).TOS(0xb8), false, "ttl=9 id=0x004d tos=0xb8", "", " DF"},
		{"DF of the datagram is not heeded (kernel: ICMP errors)", v4.DF(), false, "", "", " DF"},
		{"but that of the fragments received (kernel)", v4, true, " DF", "", ""},
		{"options that are not copied are gone from later ones (kernel)", v4.Options(slices.Concat(copied, not)...), false, "opts=94040000", "opts=940400000101010101010100", ""},
		{"options that end early", v4.Options(0, 7, 7, 4), false, "opts=00070704", "", ""},
		{"an option longer than the header", v4.Options(7, 99, 1, 1), false, "opts=07630101", "", ""},
		{"hop limit and label stay", v6.TTL(9).FlowLabel(0x12345), false, "hlim=9", "", ""},
	} {
		frames, ok := cutUp(row.p.Bytes(), 8, Cut{Limit: 1300, DF: row.df})
		if !ok || len(frames) != 2 {
			t.Fatalf("%s: %d fragments, %t", row.stake, len(frames), ok)
		}
		for i, f := range frames {
			got := packettest.Describe(f)
			if !strings.Contains(got, row.both) || i > 0 && !strings.Contains(got, row.later) || row.never != "" && strings.Contains(got, row.never) {
				t.Errorf("%s: fragment %d is %s", row.stake, i, got)
			}
		}
	}
	a, _ := cutUp(v6.Bytes(), 8, Cut{Limit: 1300})
	b, _ := cutUp(v6.Bytes(), 8, Cut{Limit: 1300})
	var x, y, z piece
	readFragment(a[0], &x)
	readFragment(a[1], &y)
	if x.id != y.id || x.id == 0 {
		t.Errorf("one datagram's fragments have idents %#x and %#x", x.id, y.id)
	}
	if readFragment(b[0], &z); z.id != x.id {
		t.Error("the same seed gives another ident")
	}
	c := NewCutter([32]byte{1})
	seen := map[uint32]bool{}
	for range 100 {
		chunk := append(make([]byte, 8), v6.Bytes()...)
		f := frameAt(chunk, 8, len(chunk)-8)
		var in packet.Info
		packet.Parse(chunk[8:], &in)
		c.Do(&f, &in, Cut{Limit: 1300}, func(frame []byte) bool { readFragment(frame, &z); return false })
		seen[z.id] = true
	}
	if len(seen) != 100 {
		t.Errorf("100 datagrams have %d idents", len(seen))
	}
}

// TestCutStops: a fragment that cannot be sent is the last.
func TestCutStops(t *testing.T) {
	frame := v4.Bytes()
	f := frameAt(frame, 0, len(frame))
	var in packet.Info
	packet.Parse(frame, &in)
	n := 0
	if NewCutter([32]byte{}).Do(&f, &in, Cut{Limit: 500}, func([]byte) bool { n++; return n < 2 }) || n != 2 {
		t.Errorf("%d fragments were offered, and all is well", n)
	}
}
