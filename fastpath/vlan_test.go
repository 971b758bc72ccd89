package fastpath

import (
	"net/netip"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
)

// A frame of a VLAN is ours if an interface there is addressed: that of the tags, by
// its own MAC address.
func TestVLANs(t *testing.T) {
	r := newRig(t, options{}, service("udp 10.0.1.100:80 rr", "nat 10.0.2.11:8080 1"))
	var b nexthop.Builder
	front, back := [6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 2}
	b.AddInterface(nexthop.Interface{Name: "eth0", Port: 0, MAC: front, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.1.1/24")}})
	b.AddInterface(nexthop.Interface{Name: "eth1", Port: 1, MAC: back, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.2.1/24")}})
	for _, i := range []nexthop.Interface{{Name: "eth0.7", Up: true}, {Name: "eth0.7.8", Up: true}, {Name: "eth0.9", MAC: [6]byte{2, 0, 0, 0, 0, 9}, Up: true}} {
		if _, err := b.AddVLAN(i); err != nil {
			t.Fatal(err)
		}
	}
	r.pipe.Routes(b.Build(2))
	for _, row := range []struct {
		stake string
		a     arrival
		want  string
	}{
		{"no tag", in(fromClient().IP4(client, vip).UDP(1, 80)), "held"},
		{"a priority tag", in(fromClient().Tag(packet.EtherVLAN, 5<<13).IP4(client, vip).UDP(1, 80)), "held"},
		{"a VLAN", in(fromClient().VLAN(7).IP4(client, vip).UDP(1, 80)), "held"},
		{"a VLAN in it", in(fromClient().Tag(packet.EtherQinQ, 7).VLAN(8).IP4(client, vip).UDP(1, 80)), "held"},
		{"a VLAN that nobody knows", in(fromClient().VLAN(8).IP4(client, vip).UDP(1, 80)), "other_host"},
		{"one with an address of its own, to its parent's", in(fromClient().VLAN(9).IP4(client, vip).UDP(1, 80)), "other_host"},
	} {
		if got := r.fate(row.a); got != row.want {
			t.Errorf("%s: %s, want %s", row.stake, got, row.want)
		}
	}
	own := fromClient().VLAN(9).IP4(client, vip).UDP(1, 80).Bytes()
	copy(own, []byte{2, 0, 0, 0, 0, 9})
	if got := r.fate(arrival{0, own}); got != "held" {
		t.Errorf("to the VLAN's own address: %s, want held", got)
	}
}
