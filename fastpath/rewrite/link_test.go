package rewrite

import (
	"testing"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
)

func TestForwardAndLink(t *testing.T) {
	const server, ours = "02:00:00:00:02:0b", "02:00:00:00:00:02"
	hop := nexthop.Hop{DstMAC: [6]byte{2, 0, 0, 0, 2, 0x0b}, SrcMAC: [6]byte{2, 0, 0, 0, 0, 2}, TPID: [2]uint16{0x8100, 0x8100}}
	out := packettest.Eth(server, ours)
	tests := []struct {
		stake   string
		in, out packettest.Packet
		vlans   []uint16
		tpid    uint16 // of the outer tag
	}{
		{"plain to plain", fromClient.TCP(1000, 80, packettest.SYN), out.IP4(cip, vip).TTL(63).TCP(1000, 80, packettest.SYN), nil, 0},
		{"IPv6", fromClient6.UDP(1, 2), out.IP6(cip6, vip6).TTL(63).UDP(1, 2), nil, 0},
		{"a tag comes off", fromClient.VLAN(7).UDP(1, 2), out.IP4(cip, vip).TTL(63).UDP(1, 2), nil, 0},
		{"two tags come off", fromClient6.VLAN(7).VLAN(8).UDP(1, 2), out.IP6(cip6, vip6).TTL(63).UDP(1, 2), nil, 0},
		{"a tag goes on", fromClient.UDP(1, 2), out.VLAN(100).IP4(cip, vip).TTL(63).UDP(1, 2), []uint16{100}, 0x8100},
		{"two go on, the outer 802.1ad", fromClient.UDP(1, 2), out.Tag(0x88a8, 100).VLAN(200).IP4(cip, vip).TTL(63).UDP(1, 2), []uint16{100, 200}, 0x88a8},
		{"one for another", fromClient.VLAN(7).UDP(1, 2).Pad(64), out.VLAN(100).IP4(cip, vip).TTL(63).UDP(1, 2), []uint16{100}, 0x8100},
	}
	for _, tt := range tests {
		f := place(tt.in.Bytes(), headroom)
		in := parsed(t, content(f))
		h := hop
		h.VLANs = uint8(copy(h.VLAN[:], tt.vlans))
		if h.VLANs > 0 {
			h.TPID[0] = tt.tpid
		}
		Forward(f, in)
		if !Link(f, in, &h) {
			t.Fatalf("%s: no headroom", tt.stake)
		}
		if d := diff(content(f), tt.out.Bytes()); d != "" {
			t.Errorf("%s: %s", tt.stake, d)
		}
		again := parsed(t, content(f))
		if in.L3 != again.L3 || in.L4 != again.L4 || in.End != again.End || in.Frag != again.Frag {
			t.Errorf("%s: in is left at %d %d %d %d, want %d %d %d %d", tt.stake,
				in.L3, in.L4, in.End, in.Frag, again.L3, again.L4, again.End, again.Frag)
		}
	}
}

func TestLinkHeadroom(t *testing.T) {
	hop := &nexthop.Hop{VLANs: 1, TPID: [2]uint16{0x8100}, VLAN: [2]uint16{5}}
	for _, tt := range []struct {
		room int
		want bool
	}{{3, false}, {4, true}} {
		f := place(fromClient.UDP(1, 2).Bytes(), tt.room)
		in := parsed(t, content(f))
		was := *in
		if got := Link(f, in, hop); got != tt.want {
			t.Errorf("Link of a tag with %d bytes of headroom: %t, want %t", tt.room, got, tt.want)
		}
		if !tt.want && (*in != was || f.Off != uint32(tt.room)) {
			t.Error("Link refused the packet, but changed it")
		}
	}
}

// Decrementing the TTL moves the checksum from 0xfeff through ones' complement's
// zero, where RFC 1141 goes wrong.
func TestForwardEveryChecksum(t *testing.T) {
	for id := range 1 << 16 {
		f := place(fromClient.ID(uint16(id)).UDP(1, 2).Bytes(), 0)
		Forward(f, parsed(t, content(f)))
		if in := new(packet.Info); packet.Parse(content(f), in) != packet.Parsed || in.TTL != 63 {
			t.Fatalf("ident %#04x: %s", id, packettest.Describe(content(f)))
		}
		if got, want := content(f), fromClient.ID(uint16(id)).TTL(63).UDP(1, 2).Bytes(); string(got) != string(want) {
			t.Fatalf("ident %#04x: %s", id, diff(got, want))
		}
	}
}
