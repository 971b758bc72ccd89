package packet

import (
	"bytes"
	"slices"
	"testing"

	"github.com/sluice-lb/sluice/lb/flow"
)

// dirty is an Info that another packet left behind.
var dirty = Info{
	Src: flow.Addr{1, 2, 3}, Dst: flow.Addr{4, 5, 6}, SrcPort: 1, DstPort: 2, L3: 3, L4: 4, End: 5, Frag: 6, Family: 7,
	Proto: 8, TTL: 9, VLANs: 10, VLAN: [2]uint16{11, 12}, TOS: 13, Event: 14, TCPFlags: 15, Flags: 0xff,
}

// heal gives a fuzzed frame a right IPv4 header checksum, so that mutations
// get past it.
func heal(frame []byte, at int) {
	if len(frame) < at+20 || len(frame) < at+int(frame[at]&15)*4 || frame[at]&15 < 5 {
		return
	}
	h := frame[at : at+int(frame[at]&15)*4]
	h[10], h[11] = 0, 0
	sum := uint32(0)
	for i := 0; i < len(h); i += 2 {
		sum += uint32(be.Uint16(h[i:]))
	}
	sum = sum>>16 + sum&0xffff
	be.PutUint16(h[10:], ^uint16(sum>>16+sum&0xffff))
}

// FuzzParse holds Parse to the promises that others build on. Its corpus is in
// testdata.
func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, frame []byte, right bool) {
		frame = slices.Clip(bytes.Clone(frame)) // reading beyond the frame panics
		if right {
			heal(frame, EthernetLen)
			heal(frame, EthernetLen+TagLen)
		}
		before := bytes.Clone(frame)
		in, clean := dirty, Info{}
		r := Parse(frame, &in)
		if want := Parse(frame, &clean); r != want || in != clean {
			t.Errorf("%x: Parse gives %v %+v where the Info was used before, else %v %+v", frame, r, in, want, clean)
		}
		if !bytes.Equal(frame, before) {
			t.Errorf("Parse changed the frame from %x to %x", before, frame)
		}
		checkInfo(t, r, &in, frame)
		quoted := dirty
		for at := range min(len(frame), 100) {
			end := len(frame) - at%3
			r := ParseQuoted(frame, at, end, &quoted)
			if r == Parsed {
				checkInfo(t, r, &quoted, frame[:end])
			}
			if r == Parsed || r == OtherProto {
				inner := dirty
				if r := ParseTunnelled(frame, &quoted, &inner); r == Parsed {
					checkInfo(t, r, &inner, frame[:end])
				}
			}
		}
	})
}

// checkInfo is what every Info promises by its Result.
func checkInfo(t *testing.T, r Result, in *Info, frame []byte) {
	t.Helper()
	if int(in.L3) > len(frame) || int(in.L4) > len(frame) || int(in.End) > len(frame) || int(in.Frag) > len(frame) || in.VLANs > MaxTags {
		t.Fatalf("%v: %+v is beyond the frame's %d bytes", r, *in, len(frame))
	}
	switch r {
	case Parsed, ICMP, ICMPError, IPsec, OtherProto, Fragment:
		l3 := map[uint8]int{4: IPv4Len, 6: IPv6Len}[in.Family]
		if l3 == 0 || int(in.L3)+l3 > int(in.L4) || uint32(in.L4) > in.End {
			t.Errorf("%v: offsets are out of order in %+v", r, *in)
		}
		if in.Family == 4 != in.Src.Is4() || in.Family == 4 != in.Dst.Is4() {
			t.Errorf("%v: IPv%d with %v and %v", r, in.Family, in.Src, in.Dst)
		}
	}
	if r == Parsed && int(in.End)-int(in.L4) < 4 {
		t.Errorf("parsed without room for ports: %+v", *in)
	}
	if r != Parsed && r != IPsec && r != Fragment && (in.SrcPort != 0 || in.DstPort != 0 || in.TCPFlags != 0) {
		t.Errorf("%v with ports or flags: %+v", r, *in)
	}
}
