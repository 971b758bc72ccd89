package neigh

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/lb/flow"
)

// attr is an attribute as the kernel writes it.
func attr(kind int, value ...byte) []byte { return nl.NewRtAttr(kind, value).Serialize() }

func attr32(kind int, value uint32) []byte { return attr(kind, nl.Uint32Attr(value)...) }

func attrIP(kind int, s string) []byte { return attr(kind, ip(s).AsSlice()...) }

// via is an RTA_VIA: an address of a family of its own.
func via(s string) []byte {
	return attr(unix.RTA_VIA, append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET6), ip(s).AsSlice()...)...)
}

// hop is one next hop of an RTA_MULTIPATH.
func hop(flags, weight byte, index uint32, attributes ...[]byte) []byte {
	b := append([]byte{0, 0, flags, weight - 1}, nl.Uint32Attr(index)...)
	b = append(b, slices.Concat(attributes...)...)
	binary.NativeEndian.PutUint16(b, uint16(len(b)))
	return b
}

// message is a route's, of IPv4 and the main table unless change says otherwise.
func message(length uint8, change func(h *nl.RtMsg), attributes ...[]byte) []byte {
	h := nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET, Dst_len: length, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}}
	if change != nil {
		change(&h)
	}
	return append(h.Serialize(), slices.Concat(attributes...)...)
}

// routes says in words what a view has of routes.
func (v *view) said() (all []string) {
	for _, l := range v.locals {
		all = append(all, fmt.Sprint("local ", l))
	}
	for _, r := range v.routes {
		s := r.to.String()
		if r.src.IsValid() {
			s += " src " + r.src.String()
		}
		if r.mtu > 0 {
			s += fmt.Sprint(" mtu ", r.mtu)
		}
		for _, w := range r.ways {
			s += " ["
			if w.via.IsValid() {
				s += w.via.String() + " "
			}
			s += fmt.Sprintf("link %d x%d]", w.index, w.weight)
		}
		if len(r.ways) == 0 {
			s += " drop"
		}
		all = append(all, s)
	}
	return all
}

func TestRoutes(t *testing.T) {
	link2, net10 := attr32(unix.RTA_OIF, 2), attrIP(unix.RTA_DST, "10.1.0.0")
	objects := map[uint32]object{
		1: {way: way{via: ip("10.0.0.1"), index: 2}},
		2: {way: way{via: ip("fe80::2"), index: 3}},
		3: {way: way{index: 4}, dead: true},
		4: {drop: true},
		5: {group: []member{{1, 3}, {2, 1}, {3, 1}, {99, 1}}},
		6: {group: []member{{4, 1}}},
		7: {group: []member{{3, 1}}},
	}
	nh := func(id uint32) []byte { return attr32(rtaNHID, id) }
	for _, row := range []struct {
		stake string
		give  []byte
		want  []string
	}{
		{"on-link", message(16, nil, net10, link2), []string{"10.1.0.0/16 [link 2 x1]"}},
		{"the default route, by a gateway, with a source and an MTU", message(0, nil, link2, attrIP(unix.RTA_GATEWAY, "10.0.0.9"), attrIP(unix.RTA_PREFSRC, "10.0.0.1"), attr(unix.RTA_METRICS, attr32(unix.RTAX_MTU, 1400)...)), []string{"0.0.0.0/0 src 10.0.0.1 mtu 1400 [10.0.0.9 link 2 x1]"}},
		{"by a gateway of the other family (RFC 5549)", message(16, nil, net10, link2, via("fe80::9")), []string{"10.1.0.0/16 [fe80::9 link 2 x1]"}},
		{"dead", message(16, func(h *nl.RtMsg) { h.Flags = unix.RTNH_F_DEAD }, net10, link2), nil},
		{
			"by several, with weights, the dead one left out, gateways of both families", message(16, nil, net10, attr(unix.RTA_MULTIPATH, slices.Concat(
				hop(unix.RTNH_F_DEAD, 1, 3), hop(0, 3, 4, attrIP(unix.RTA_GATEWAY, "10.0.0.4")), hop(unix.RTNH_F_LINKDOWN, 255, 5), hop(0, 1, 6, via("fe80::6")))...)),
			[]string{"10.1.0.0/16 [10.0.0.4 link 4 x3] [link 5 x255] [fe80::6 link 6 x1]"},
		},
		{"by several, all dead", message(16, nil, net10, attr(unix.RTA_MULTIPATH, hop(unix.RTNH_F_DEAD, 1, 3)...)), nil},
		{"by a nexthop object, whatever else is said", message(16, nil, net10, link2, nh(1)), []string{"10.1.0.0/16 [10.0.0.1 link 2 x1]"}},
		{"by a group of them, dead and missing ones left out (nexthop_compat_mode 0)", message(16, nil, net10, nh(5)), []string{"10.1.0.0/16 [10.0.0.1 link 2 x3] [fe80::2 link 3 x1]"}},
		{"by a blackhole object", message(16, nil, net10, nh(4)), []string{"10.1.0.0/16 drop"}},
		{"by a group of one", message(16, nil, net10, nh(6)), []string{"10.1.0.0/16 drop"}},
		{"by a group of dead ones", message(16, nil, net10, nh(7)), nil},
		{"by an object that is gone meanwhile", message(16, nil, net10, nh(99)), nil},
		{"unreachable", message(16, func(h *nl.RtMsg) { h.Type = unix.RTN_UNREACHABLE }, net10), []string{"10.1.0.0/16 drop"}},
		{"a throw is no route", message(16, func(h *nl.RtMsg) { h.Type = unix.RTN_THROW }, net10), nil},
		{"IPv6", message(32, func(h *nl.RtMsg) { h.Family = unix.AF_INET6 }, attrIP(unix.RTA_DST, "2001:db8::"), link2), []string{"2001:db8::/32 [link 2 x1]"}},
		{"the default route of IPv6", message(0, func(h *nl.RtMsg) { h.Family = unix.AF_INET6 }, link2), []string{"::/0 [link 2 x1]"}},
		{"local, whatever the table", message(32, func(h *nl.RtMsg) { h.Type, h.Table = unix.RTN_LOCAL, unix.RT_TABLE_LOCAL }, attrIP(unix.RTA_DST, "10.1.0.1"), link2), []string{"local 10.1.0.1/32"}},
		{"another table: a rule decides, which is not seen", message(16, nil, attr32(unix.RTA_TABLE, 1000), net10, link2), nil},
		{"broadcast", message(32, func(h *nl.RtMsg) { h.Type, h.Table = unix.RTN_BROADCAST, unix.RT_TABLE_LOCAL }, attrIP(unix.RTA_DST, "10.1.0.255"), link2), nil},
		{"for a TOS only", message(16, func(h *nl.RtMsg) { h.Tos = 16 }, net10, link2), nil},
		{"an exception of the kernel's cache", message(32, func(h *nl.RtMsg) { h.Flags = unix.RTM_F_CLONED }, attrIP(unix.RTA_DST, "10.1.0.1"), link2), nil},
		{"MPLS", message(20, func(h *nl.RtMsg) { h.Family = unix.AF_MPLS }, link2), nil},
		{"a prefix longer than its address", message(99, nil, net10, link2), nil},
	} {
		var list []routeMessage
		if m, ok := parseRoute(row.give); ok && m.counts() {
			list = append(list, m)
		}
		var v view
		v.addRoutes(list, objects)
		if got := v.said(); !slices.Equal(got, row.want) {
			t.Errorf("%s: %q, want %q", row.stake, got, row.want)
		}
	}
}

func TestRoutesByMetric(t *testing.T) {
	var list []routeMessage
	for index, metric := range []uint32{300, 1 << 31, 200, 100} {
		list = append(list, routeMessage{kind: unix.RTN_UNICAST, to: prefix("0.0.0.0/0"), metric: metric, ways: []way{{index: index + 1, weight: 1}}})
	}
	list = append(list, list[3])
	list[4].ways = []way{{index: 9, weight: 1}}
	v := view{routes: []route{{}}, locals: []netip.Prefix{{}}}
	v.addRoutes(list, nil)
	var got []int
	for _, r := range v.routes {
		got = append(got, r.ways[0].index)
	}
	if want := []int{4, 9, 3, 1, 2}; !slices.Equal(got, want) || len(v.locals) != 0 {
		t.Errorf("links in the order %v, %d local routes; want %v by metric, nothing of before", got, len(v.locals), want)
	}
}

// What a gateway's failure did outlives a change of routes, and one that had failed
// before is known at once.
func TestGatesStay(t *testing.T) {
	several := routeMessage{kind: unix.RTN_UNICAST, to: prefix("0.0.0.0/0"), ways: []way{{ip("10.0.0.1"), 1, 1}, {ip("10.0.0.2"), 2, 1}, {netip.Addr{}, 3, 1}}}
	single := routeMessage{kind: unix.RTN_UNICAST, to: prefix("10.1.0.0/16"), ways: []way{{ip("10.0.0.3"), 1, 1}}}
	one, two := neighbor{ip("10.0.0.1"), 1}, neighbor{ip("10.0.0.2"), 2}
	v := view{neighbors: map[neighbor]state{two: {nud: unix.NUD_FAILED}}}
	v.addRoutes([]routeMessage{several, single}, nil)
	if len(v.gates) != 2 || v.gates[one] || !v.gates[two] {
		t.Errorf("gates %v, want those of the route with several, the second failed", v.gates)
	}
	v.gates[one] = true
	v.neighbors[two] = state{nud: unix.NUD_INCOMPLETE}
	v.addRoutes([]routeMessage{several}, nil)
	if !v.gates[one] || !v.gates[two] {
		t.Errorf("gates %v after a change of routes, want both failed as before", v.gates)
	}
	v.addRoutes([]routeMessage{single}, nil)
	if len(v.gates) != 0 {
		t.Errorf("gates %v, want none: no route has several", v.gates)
	}
}

func TestParseObject(t *testing.T) {
	head := make([]byte, sizeofNhMsg)
	dead := slices.Clone(head)
	binary.NativeEndian.PutUint32(dead[4:], unix.RTNH_F_DEAD)
	grp := func(id uint32, weight, high byte) []byte { return append(nl.Uint32Attr(id), weight, high, 0, 0) }
	for _, row := range []struct {
		stake string
		give  []byte
		id    uint32
		want  object
	}{
		{"a gateway", slices.Concat(head, attr32(nhaID, 7), attr32(nhaOIF, 3), attrIP(nhaGateway, "10.0.0.1")), 7, object{way: way{via: ip("10.0.0.1"), index: 3}}},
		{"dead", slices.Concat(dead, attr32(nhaID, 7), attr32(nhaOIF, 3)), 7, object{way: way{index: 3}, dead: true}},
		{"a blackhole", slices.Concat(head, attr32(nhaID, 7), attr(nhaBlackhole)), 7, object{drop: true}},
		{"a group, one of more than a byte's weight (Linux 6.12)", slices.Concat(head, attr32(nhaID, 7), attr(nhaGroup, slices.Concat(grp(1, 2, 0), grp(2, 0xff, 1))...)), 7, object{group: []member{{1, 3}, {2, 512}}}},
		{"cut short", head[:7], 0, object{}},
	} {
		if id, got := parseObject(row.give); id != row.id || fmt.Sprint(got) != fmt.Sprint(row.want) {
			t.Errorf("%s: %d %+v, want %d %+v", row.stake, id, got, row.id, row.want)
		}
	}
}

// FuzzRoute: whatever comes, nothing is read past its end, and what is taken over
// makes a table.
func FuzzRoute(f *testing.F) {
	f.Add(message(16, nil, attrIP(unix.RTA_DST, "10.1.0.0"), attr32(unix.RTA_OIF, 2)), attr32(nhaID, 7))
	f.Add(message(16, nil, attr(unix.RTA_MULTIPATH, slices.Concat(hop(0, 3, 4, attrIP(unix.RTA_GATEWAY, "10.0.0.4")), hop(0, 1, 6, via("fe80::6")))...)), []byte{0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, route, nexthop []byte) {
		m, ok := parseRoute(slices.Clip(route))
		id, o := parseObject(slices.Clip(nexthop))
		if !ok || !m.counts() {
			return
		}
		if !m.to.IsValid() {
			t.Fatalf("route to %v", m.to)
		}
		v := known()
		v.addRoutes([]routeMessage{m}, map[uint32]object{id: o})
		if table, _ := v.table(1, newPlaces([]string{"eth0", "eth1"}), &Network{}); leads(table, m.to.Addr().String()) == "" {
			t.Fatal("no table")
		}
	})
}

// The wire's order of bytes is the machine's; the library agrees.
func TestAttributesAsTheLibrary(t *testing.T) {
	b := slices.Concat(attr32(1, 0xdeadbeef), attr(2|unix.NLA_F_NESTED, 1, 2, 3), attr(3))
	want, err := nl.ParseRouteAttr(b)
	must(t, err)
	i := 0
	attributes(b, func(kind uint16, value []byte) {
		if kind != want[i].Attr.Type&typeMask || !slices.Equal(value, want[i].Value) {
			t.Errorf("attribute %d is %d %x, want %d %x", i, kind, value, want[i].Attr.Type, want[i].Value)
		}
		i++
	})
	if i != len(want) {
		t.Errorf("%d attributes, want %d", i, len(want))
	}
}

// ways says in words what share of the flows goes where: "eth0 0.8, eth1 0.2".
func ways(t *nexthop.Table, dst string) string {
	to, n := flow.FromNetip(ip(dst)), map[string]int{}
	h := t.Lookup(&to)
	for i := range uint64(1000) {
		n[t.Interfaces[t.Choose(h, &to, i*(1<<64/1000)).Iface].Name]++
	}
	var said []string
	for _, name := range slices.Sorted(maps.Keys(n)) {
		said = append(said, fmt.Sprintf("%s %.1f", name, float64(n[name])/1000))
	}
	return strings.Join(said, ", ")
}
