package nexthop

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-lb/sluice/lb/flow"
)

// Errors of a Builder's words; they come wrapped, with what was given.
var (
	ErrNoInterface = errors.New("no such interface")
	ErrGateway     = errors.New("gateway is in no interface's subnet")
	ErrPrefix      = errors.New("not a valid prefix or address")
	ErrVLANName    = errors.New("not the name of a VLAN on an interface that is known, like eth0.100")
)

// AnyInterface asks AddRoute to find the interface by the gateway.
const AnyInterface = -1

const (
	defaultMTU    = 1500
	maxInterfaces = 1<<16 - 1
)

// Builder collects what a Table will hold. The zero Builder is ready; it
// belongs to one goroutine.
type Builder struct {
	interfaces []Interface
	routes     []route
	locals     []netip.Prefix
	neighbors  []neighbor        // in the order in which they came
	macs       map[place][6]byte // of the neighbors
}

type route struct {
	prefix netip.Prefix
	ways   []Way // none: a blackhole
	src    netip.Addr
	mtu    int
}

type neighbor struct {
	place
	mac [6]byte
}

// place is an address on the link of an interface.
type place struct {
	addr  flow.Addr
	iface int
}

// AddInterface adds an interface and returns its index in the Table. Its
// subnets become on-link routes, behind those of AddRoute. Of more than 65,535
// the rest is left out: routes and neighbours of theirs are errors.
func (b *Builder) AddInterface(i Interface) int {
	i.MTU = cmp.Or(i.MTU, defaultMTU)
	if len(b.interfaces) < maxInterfaces {
		b.interfaces = append(b.interfaces, i)
		return len(b.interfaces) - 1
	}
	return maxInterfaces
}

// AddVLAN adds an interface that its name says is a VLAN of one added before:
// "eth0.100", or "eth0.100.200" on top of that. It leaves by its parent's
// port, with the parent's tags and its own inside, of the EtherType i.TPID[0]; MAC
// and MTU are the parent's where i has none.
func (b *Builder) AddVLAN(i Interface) (int, error) {
	dot := strings.LastIndexByte(i.Name, '.')
	if dot < 0 {
		return 0, fmt.Errorf("interface %q: %w", i.Name, ErrVLANName)
	}
	at := slices.IndexFunc(b.interfaces, func(p Interface) bool { return p.Name == i.Name[:dot] })
	id, err := strconv.ParseUint(i.Name[dot+1:], 10, 12)
	if at < 0 || err != nil || id == 0 || id == 4095 || b.interfaces[at].VLANs >= 2 {
		return 0, fmt.Errorf("interface %q: %w", i.Name, ErrVLANName)
	}
	p := &b.interfaces[at]
	own := i.TPID[0]
	i.Port, i.VLANs, i.VLAN, i.TPID = p.Port, p.VLANs+1, p.VLAN, p.TPID
	i.VLAN[p.VLANs], i.TPID[p.VLANs] = uint16(id), own
	if i.MAC == [6]byte{} {
		i.MAC = p.MAC
	}
	if i.MTU == 0 {
		i.MTU = p.MTU
	}
	return b.AddInterface(i), nil
}

// AddRoute adds a route: to prefix by the gateway via, or on-link if via is
// not valid, through the interface of index iface, or AnyInterface with a
// gateway. src is the address that packets of the host's own bear this way and
// mtu bounds their length, each unless zero. Of routes with the same prefix,
// other metrics of it, the first added counts that has a way through an interface
// that is up.
func (b *Builder) AddRoute(prefix netip.Prefix, via netip.Addr, iface int, src netip.Addr, mtu int) error {
	return b.AddWays(prefix, []Way{{Via: via, Iface: iface}}, src, mtu)
}

// AddWays is AddRoute of a route with several next hops. It keeps ways.
func (b *Builder) AddWays(prefix netip.Prefix, ways []Way, src netip.Addr, mtu int) (err error) {
	if !prefix.IsValid() {
		return fmt.Errorf("route %v: %w", prefix, ErrPrefix)
	}
	if len(ways) > maxWays {
		ways, err = ways[:maxWays], fmt.Errorf("route %v: %w", prefix, ErrWays)
	}
	for i := range ways {
		w := &ways[i]
		w.Via = w.Via.WithZone("") // the interface says it
		if w.Iface == AnyInterface && w.Via.IsValid() {
			if w.Iface = b.subnetOf(w.Via); w.Iface < 0 {
				return fmt.Errorf("route %v via %v: %w", prefix, w.Via, ErrGateway)
			}
		}
		if w.Iface < 0 || w.Iface >= len(b.interfaces) {
			return fmt.Errorf("route %v: interface %d: %w", prefix, w.Iface, ErrNoInterface)
		}
	}
	if len(ways) > 0 {
		b.routes = append(b.routes, route{prefix: prefix.Masked(), ways: ways, src: src, mtu: mtu})
	}
	return err
}

// subnetOf returns the interface with the longest subnet that holds a; below
// 0: none.
func (b *Builder) subnetOf(a netip.Addr) int {
	best, length := -1, -1
	for i := range b.interfaces {
		for _, p := range b.interfaces[i].Addrs {
			if p.Contains(a) && p.Bits() > length {
				best, length = i, p.Bits()
			}
		}
	}
	return best
}

// AddBlackhole adds a route whose packets are dropped.
func (b *Builder) AddBlackhole(prefix netip.Prefix) error {
	if !prefix.IsValid() {
		return fmt.Errorf("blackhole %v: %w", prefix, ErrPrefix)
	}
	b.routes = append(b.routes, route{prefix: prefix.Masked()})
	return nil
}

// AddLocal makes all addresses of prefix the host's own, as a route of type
// local does.
func (b *Builder) AddLocal(prefix netip.Prefix) error {
	if !prefix.IsValid() {
		return fmt.Errorf("local route %v: %w", prefix, ErrPrefix)
	}
	b.locals = append(b.locals, prefix.Masked())
	return nil
}

// AddNeighbor says which MAC address a neighbour on an interface has; of
// several the first counts.
func (b *Builder) AddNeighbor(addr netip.Addr, mac [6]byte, iface int) error {
	if !addr.IsValid() {
		return fmt.Errorf("neighbour %v: %w", addr, ErrPrefix)
	}
	if iface < 0 || iface >= len(b.interfaces) {
		return fmt.Errorf("neighbour %v: interface %d: %w", addr, iface, ErrNoInterface)
	}
	at := place{flow.FromNetip(addr), iface}
	if _, known := b.macs[at]; known {
		return nil
	}
	if b.macs == nil {
		b.macs = make(map[place][6]byte)
	}
	b.macs[at] = mac
	b.neighbors = append(b.neighbors, neighbor{at, mac})
	return nil
}

// Classes of the ladders' rungs; a prefix length, 0 to 128, is added.
const (
	classLocal  = 1 << 8
	classRoute  = 2 << 8
	classOnLink = 3 << 8
)

// The hops that need no more than a State.
const (
	hopNoRoute = iota
	hopLocal
	hopBlackhole
)

// builds is a Builder at work on a Table.
type builds struct {
	*Builder
	t      *Table
	known  map[Hop]uint32    // IDs of the hops so far: routes share them
	groups map[string]uint32 // and those of Several, by their ways
}

// Build makes the Table. The Builder may go on and build another.
func (b *Builder) Build(version uint64) *Table {
	keys := len(b.routes) + len(b.locals) + len(b.neighbors)
	for i := range b.interfaces {
		keys += 1 + 3*len(b.interfaces[i].Addrs) // own; local, route, on-link
		keys += len(b.interfaces[i].Members) * len(b.interfaces)
	}
	size := 4
	for size < 2*keys+2 {
		size *= 2
	}
	w := builds{Builder: b, known: map[Hop]uint32{}, groups: map[string]uint32{}, t: &Table{
		Version: version, Interfaces: slices.Clone(b.interfaces), slots: make([]slot, size),
		hops: []Hop{hopNoRoute: {State: NoRoute}, hopLocal: {State: Local, ID: hopLocal}, hopBlackhole: {State: Blackhole, ID: hopBlackhole}},
	}}
	w.putOwn()
	w.putLocals()
	w.putRoutes()
	w.putNeighbors()
	return w.t
}

// putOwn enters what frames to an interface that leaves by a port are addressed to:
// its MAC address, or that of a member of the bond that the port is.
func (b *builds) putOwn() {
	members := map[int][]Member{}
	for n := range b.interfaces {
		if i := &b.interfaces[n]; i.VLANs == 0 && len(i.Members) > 0 {
			members[i.Port] = i.Members
		}
	}
	for n := range b.interfaces {
		i := &b.interfaces[n]
		if i.Port < 0 {
			continue
		}
		macs := [][6]byte{i.MAC}
		for _, m := range members[i.Port] {
			macs = append(macs, m.MAC)
		}
		for _, mac := range macs {
			hi, lo := own(i.VLAN, mac)
			b.t.put(hi, lo, ownClass+uint32(i.Port), hopLocal)
		}
	}
}

// putLocals enters the host's own addresses, which are asked before any
// route.
func (b *builds) putLocals() {
	for _, p := range b.locals {
		b.t.putPrefix(&b.t.local, classLocal, p, hopLocal)
	}
	for i := range b.interfaces {
		for _, p := range b.interfaces[i].Addrs {
			b.t.putPrefix(&b.t.local, classLocal, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), hopLocal)
		}
	}
}

// putRoutes enters the routes, those without a way left out.
func (b *builds) putRoutes() {
	var main [2]ladder
	for i := range b.routes {
		r := &b.routes[i]
		if len(r.ways) == 0 {
			b.t.putPrefix(&main, classRoute, r.prefix, hopBlackhole)
		} else if hop := b.several(r); hop != hopNoRoute {
			b.t.putPrefix(&main, classRoute, r.prefix, hop)
		}
	}
	for i := range b.interfaces {
		for _, p := range b.interfaces[i].Addrs {
			if !b.interfaces[i].Up || p.IsSingleIP() {
				continue
			}
			hop := b.hop(&route{prefix: p.Masked(), src: p.Addr()}, &Way{Iface: i})
			b.t.putPrefix(&main, classRoute, p.Masked(), hop)
			b.t.putPrefix(&b.t.onLink, classOnLink, p.Masked(), hop)
		}
	}
	for f := range main {
		b.t.routes[f] = slices.Concat(b.t.local[f], main[f])
	}
}

// putNeighbors enters the neighbours that are sent to directly. The way to
// each is that of the route which leads to it.
func (b *builds) putNeighbors() {
	for i := range b.neighbors {
		n := &b.neighbors[i]
		if !b.interfaces[n.iface].Up {
			continue
		}
		var way Hop
		to := &b.t.hops[b.t.match(b.t.routes[family(&n.addr)], &n.addr)]
		for _, h := range b.t.Ways(to, &n.addr) {
			if h.State == Unresolved && int(h.Iface) == n.iface && h.Gateway.IsZero() {
				way = *h
			}
		}
		if way.State == NoRoute {
			way = b.t.hops[b.hop(&route{prefix: netip.PrefixFrom(n.addr.Netip(), 0)}, &Way{Iface: n.iface})]
		}
		way.State, way.Gateway, way.DstMAC = Reachable, n.addr, n.mac
		hi, lo, _ := key(n.addr.Netip(), 128)
		b.t.put(hi, lo, neighborClass+uint32(n.iface), b.add(way))
	}
}

// hop adds the hop of a route by one of its ways and returns its ID.
func (b *builds) hop(r *route, w *Way) uint32 {
	i := &b.interfaces[w.Iface]
	h := Hop{State: Unresolved, Iface: uint16(w.Iface), SrcMAC: i.MAC, VLANs: i.VLANs, VLAN: i.VLAN, TPID: i.TPID, MTU: mtu(i.MTU, r.mtu), Prefix: uint8(r.prefix.Bits())}
	for v := range h.TPID[:min(int(h.VLANs), len(h.TPID))] {
		h.TPID[v] = cmp.Or(h.TPID[v], 0x8100)
	}
	if w.Via.IsValid() {
		h.Gateway = flow.FromNetip(w.Via)
		if mac, ok := b.macs[place{h.Gateway, w.Iface}]; ok {
			h.State, h.DstMAC = Reachable, mac
		}
	}
	h.Source = b.source(r, w)
	return b.add(h)
}

// mtu is the least of an interface's MTU and a route's, if that is given.
func mtu(iface, route int) uint16 {
	m := iface
	if route > 0 {
		m = min(m, route)
	}
	return uint16(min(m, 1<<16-1))
}

// source chooses the host's address for packets of its own along r: the
// route's, or the interface's in the subnet of the gateway or destination, or
// its first, or any interface's first. An IPv6 link-local address is no source
// for destinations beyond the link (RFC 6724 rule 2).
func (b *Builder) source(r *route, w *Way) flow.Addr {
	if r.src.IsValid() {
		return flow.FromNetip(r.src)
	}
	v6, near := r.prefix.Addr().Is6(), w.Via
	if !near.IsValid() {
		near = r.prefix.Addr()
	}
	for _, p := range b.interfaces[w.Iface].Addrs {
		near := p.Contains(near) && p.Addr().Is6() == v6
		if near && (!v6 || !p.Addr().IsLinkLocalUnicast() || r.prefix.Addr().IsLinkLocalUnicast()) {
			return flow.FromNetip(p.Addr())
		}
	}
	if a, ok := firstAddr(b.interfaces[w.Iface].Addrs, v6); ok {
		return a
	}
	for i := range b.interfaces {
		if a, ok := firstAddr(b.interfaces[i].Addrs, v6); ok && b.interfaces[i].Up {
			return a
		}
	}
	return flow.Addr{}
}

// add returns the ID of a hop, which it appends if there is none like it.
func (b *builds) add(h Hop) uint32 {
	h.ID = 0
	id, ok := b.known[h]
	if !ok {
		id = uint32(len(b.t.hops))
		b.known[h] = id
		h.ID = id
		b.t.hops = append(b.t.hops, h)
	}
	return id
}

// putPrefix enters a prefix with its hop under class, and its length into the
// ladder of its family.
func (t *Table) putPrefix(ladders *[2]ladder, class uint32, p netip.Prefix, hop uint32) {
	f, length := 0, p.Bits()+96
	if p.Addr().Is6() {
		f, length = 1, p.Bits()
	}
	class += uint32(length)
	hi, lo, r := key(p.Addr(), length)
	r.class = class
	t.put(hi, lo, class, hop)
	at, found := slices.BinarySearchFunc(ladders[f], r, func(a, b rung) int { return cmp.Compare(b.class, a.class) })
	if !found {
		ladders[f] = slices.Insert(ladders[f], at, r)
	}
}

// put adds a key that is not there yet; the first of equal keys stays.
func (t *Table) put(hi, lo uint64, class, hop uint32) {
	mask := uint32(len(t.slots) - 1)
	for i := hash(hi, lo, class); ; i++ {
		s := &t.slots[i&mask]
		if s.hop == 0 {
			*s = slot{hi, lo, class, hop}
			return
		}
		if s.lo == lo && s.hi == hi && s.class == class {
			return
		}
	}
}

// key returns the first length bits of an address, as the hash table has them,
// and a rung with the mask that leaves these bits.
func key(a netip.Addr, length int) (hi, lo uint64, r rung) {
	addr := flow.FromNetip(a)
	r.hi, r.lo = ^uint64(0), ^uint64(0)
	if length < 128 {
		r.lo <<= min(128-length, 64)
	}
	if length < 64 {
		r.hi <<= 64 - length
	}
	hi, lo = halves(&addr)
	return hi & r.hi, lo & r.lo, r
}

// Source returns the first address of an interface, of IPv4 or IPv6; of IPv6
// preferably one that is not link-local.
func (t *Table) Source(iface uint16, v6 bool) (flow.Addr, bool) {
	if int(iface) >= len(t.Interfaces) {
		return flow.Addr{}, false
	}
	return firstAddr(t.Interfaces[iface].Addrs, v6)
}

// firstAddr is Source of a list of addresses.
func firstAddr(addrs []netip.Prefix, v6 bool) (first flow.Addr, ok bool) {
	for _, p := range addrs {
		if p.Addr().Is6() != v6 {
			continue
		}
		if !p.Addr().IsLinkLocalUnicast() || !v6 {
			return flow.FromNetip(p.Addr()), true
		}
		if !ok {
			first, ok = flow.FromNetip(p.Addr()), true
		}
	}
	return first, ok
}

var stateNames = [...]string{"no route", "reachable", "unresolved", "local", "blackhole", "several"}

// String returns the state in words.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "unknown"
}
