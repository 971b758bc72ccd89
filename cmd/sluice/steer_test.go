package main

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/rings/xdpprog"
)

// Echo requests are redirected to services' addresses that are not the host's:
// not to those of marks, which have none, nor to those of removed services.
func TestWantedEcho(t *testing.T) {
	at := func(addr string) lb.ServiceSpec {
		return lb.ServiceSpec{Key: lb.ServiceKey{Proto: lb.ProtoTCP, Addr: netip.MustParseAddr(addr), Port: 80}}
	}
	services := []lb.ServiceSpec{at("192.0.2.1"), at("192.0.2.2"), at("2001:db8::1"), {Key: lb.ServiceKey{Mark: 7}}}
	removed := []lb.Removed{{Service: at("192.0.2.3").Key, Real: lb.RealKey{Addr: netip.MustParseAddr("10.0.0.1"), Port: 80}}}
	var b nexthop.Builder
	if err := b.AddLocal(netip.MustParsePrefix("192.0.2.2/32")); err != nil {
		t.Fatal(err)
	}
	w, err := wanted(services, removed, nil, b.Build(1), nil)
	want := []xdpprog.Addr{netip.MustParseAddr("192.0.2.1").As16(), netip.MustParseAddr("2001:db8::1").As16()}
	if err != nil || !slices.Equal(w.Echo, want) {
		t.Errorf("echo requests to %v (%v), want %v", w.Echo, err, want)
	}
}

// A mark rule of an interface is one of the NIC that its frames come in by, or, of a
// bond, of each member.
func TestWantedMarks(t *testing.T) {
	var b nexthop.Builder
	b.AddInterface(nexthop.Interface{Name: "eth0", Index: 2})
	b.AddInterface(nexthop.Interface{Name: "bond0", Index: 9, Bond: "802.3ad", Members: []nexthop.Member{{Name: "eth1", Index: 3}, {Name: "eth2", Index: 4}}})
	b.AddInterface(nexthop.Interface{Name: "gone"})
	marks := []lb.MarkRule{{Mark: 1}, {Mark: 2, Interface: "eth0"}, {Mark: 3, Interface: "bond0"}}
	w, err := wanted(nil, nil, marks, b.Build(1), nil)
	var got []int
	for _, m := range w.Marks {
		got = append(got, m.Ifindex)
	}
	if want := []int{0, 2, 9, 3, 4}; err != nil || !slices.Equal(got, want) {
		t.Errorf("rules of interfaces %v, %v; want %v: any, eth0, bond0 and its members", got, err, want)
	}
	if _, err := wanted(nil, nil, []lb.MarkRule{{Mark: 4, Interface: "gone"}}, b.Build(1), nil); err == nil {
		t.Error("a rule of an interface that is not there is taken")
	}
}

// Data connections come to any port of an FTP service, and from any of its
// servers'; other services' stay narrow.
func TestWantedFTP(t *testing.T) {
	key := func(proto uint8, addr string, port uint16) lb.ServiceKey {
		return lb.ServiceKey{Proto: proto, Addr: netip.MustParseAddr(addr), Port: port}
	}
	var services []lb.ServiceSpec
	for i, k := range []lb.ServiceKey{
		key(lb.ProtoTCP, "192.0.2.1", 21), key(lb.ProtoTCP, "192.0.2.2", 2121), key(lb.ProtoUDP, "192.0.2.3", 2121), key(lb.ProtoTCP, "192.0.2.4", 80),
	} {
		real := lb.RealKey{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), Port: 2000}
		services = append(services, lb.ServiceSpec{Key: k, Servers: []lb.RealSpec{{Key: real}}})
	}
	removed := []lb.Removed{{Service: key(lb.ProtoTCP, "192.0.2.5", 2121), Real: lb.RealKey{Addr: netip.MustParseAddr("10.0.0.5"), Port: 2000}}}
	w, err := wanted(services, removed, nil, (&nexthop.Builder{}).Build(1), []uint16{2121})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range w.Services {
		got = append(got, fmt.Sprintf("to %s:%d", flow.Addr(s.Addr), s.Port))
	}
	for _, r := range w.Reals {
		got = append(got, fmt.Sprintf("from %s:%d", flow.Addr(r.Addr), r.Port))
	}
	want := []string{
		"to 192.0.2.1:21", "to 192.0.2.1:0", "to 192.0.2.2:2121", "to 192.0.2.2:0", "to 192.0.2.3:2121", "to 192.0.2.4:80", "to 192.0.2.5:2121", "to 192.0.2.5:0",
		"from 10.0.0.1:0", "from 10.0.0.2:0", "from 10.0.0.3:2000", "from 10.0.0.4:2000", "from 10.0.0.5:0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("redirected are packets\n%q, want\n%q", got, want)
	}
}
