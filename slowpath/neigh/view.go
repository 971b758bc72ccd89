package neigh

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
)

// view is what the kernel knows.
type view struct {
	links     map[int]*link // by kernel index
	routes    []route       // in the order in which they count
	locals    []netip.Prefix
	neighbors map[neighbor]state
	// gates are the gateways of routes with several next hops. One whose neighbour
	// has failed is not used, until it answers again: while the kernel asks once
	// more it would cost its flows another 3 s.
	gates map[neighbor]bool
}

// link is an interface as the kernel has it.
type link struct {
	name   string
	index  int
	parent int    // index of the interface that a VLAN is on; 0: not a VLAN
	tag    uint16 // of a VLAN
	tpid   uint16
	mac    [6]byte
	mtu    int
	up     bool
	addrs  []netip.Prefix

	bond   string // of a bond its mode
	active int    // of a bond that sends by one member at a time, that one's index
	master int    // index of what the link is a member of; 0: nothing
	sends  bool   // of a bond's member: the bond may send by it
}

// route is a route of the main table.
type route struct {
	to   netip.Prefix
	src  netip.Addr
	mtu  int
	ways []way // none: what goes there is dropped
}

// neighbor is an address on a link.
type neighbor struct {
	addr  netip.Addr
	index int
}

// state is what the kernel knows of a neighbour: its NUD_ state, and its MAC address in
// those states that have one.
type state struct {
	nud int
	mac [6]byte
}

// places gives each interface an index in the tables that stays its own for as long as
// anybody may remember it: the ports' are their numbers, those of VLANs on
// them are for ever too. Indexes of the host's other interfaces are used again.
type places struct {
	names  []string
	ours   []bool // a port, or a VLAN on one
	byName map[string]int
	ports  int
}

func newPlaces(ports []string) *places {
	p := &places{byName: map[string]int{}, ports: len(ports)}
	for _, name := range ports {
		p.add(name, true)
	}
	return p
}

func (p *places) add(name string, ours bool) int {
	p.byName[name] = len(p.names)
	p.names, p.ours = append(p.names, name), append(p.ours, ours)
	return len(p.names) - 1
}

// port returns the port of this name; below 0: it is none.
func (p *places) port(name string) int {
	if at, ok := p.byName[name]; ok && at < p.ports {
		return at
	}
	return -1
}

// give makes sure that all these links have an index. onPort says which are ours.
func (p *places) give(links []*link, onPort func(*link) bool) {
	present := map[string]bool{}
	for _, l := range links {
		present[l.name] = true
	}
	free := 0
	for _, l := range links {
		ours := onPort(l)
		if at, ok := p.byName[l.name]; ok {
			p.ours[at] = p.ours[at] || ours
			continue
		}
		for !ours && free < len(p.names) && (p.ours[free] || present[p.names[free]]) {
			free++
		}
		if ours || free == len(p.names) {
			p.add(l.name, ours)
			continue
		}
		delete(p.byName, p.names[free])
		p.names[free], p.byName[l.name] = l.name, free
	}
}

// table builds the table of v with the configuration on top. The error joins those of
// single entries, which the table is then without.
func (v *view) table(version uint64, p *places, o *Network) (*nexthop.Table, error) {
	links := make([]*link, 0, len(v.links))
	for _, l := range v.links {
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b *link) int { return a.index - b.index })
	p.give(links, func(l *link) bool { return v.onWire(l, p).Port >= 0 })

	ifaces := make([]nexthop.Interface, len(p.names))
	for i := range ifaces {
		ifaces[i] = nexthop.Interface{Name: p.names[i], Port: p.port(p.names[i])} // until it is there: down
	}
	for _, l := range links {
		ifaces[p.byName[l.name]] = v.onWire(l, p)
	}
	ifaces, errs := v.override(ifaces, p, o)
	var b nexthop.Builder
	for _, i := range ifaces {
		b.AddInterface(i)
	}
	errs = append(errs, o.ways(&b, p.byName)...) // before the kernel's: of equal entries the first counts
	errs = append(errs, v.ways(&b, p)...)
	return b.Build(version), errors.Join(errs...)
}

// override lays the configuration's interfaces over the learned ones.
func (v *view) override(ifaces []nexthop.Interface, p *places, o *Network) ([]nexthop.Interface, []error) {
	var errs []error
	for _, i := range o.parentsFirst() {
		at, ok := p.byName[i.Name]
		if !ok || ifaces[at].Index == 0 && at >= p.ports { // the kernel does not have it
			vlan, err := asVLAN(ifaces, i.Name)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if !ok {
				at, ifaces = p.add(i.Name, true), append(ifaces, vlan)
			}
			ifaces[at], p.ours[at] = vlan, true
		}
		i.apply(&ifaces[at])
	}
	return ifaces, errs
}

// asVLAN makes the VLAN that a name describes on one of these interfaces: up
// while that is.
func asVLAN(ifaces []nexthop.Interface, name string) (nexthop.Interface, error) {
	var b nexthop.Builder
	up := false
	for _, i := range ifaces {
		b.AddInterface(i)
		up = up || i.Up && i.Name == name[:max(0, strings.LastIndexByte(name, '.'))]
	}
	at, err := b.AddVLAN(nexthop.Interface{Name: name, Up: up})
	if err != nil {
		return nexthop.Interface{}, err
	}
	return b.Build(0).Interfaces[at], nil
}

// ways adds the kernel's routes, and the neighbours on the node's ports.
func (v *view) ways(b *nexthop.Builder, p *places) (errs []error) {
	for _, l := range v.locals {
		errs = append(errs, b.AddLocal(l))
	}
	for _, r := range v.routes {
		if len(r.ways) == 0 {
			errs = append(errs, b.AddBlackhole(r.to))
			continue
		}
		var ways []nexthop.Way
		for _, w := range r.ways {
			if l := v.links[w.index]; l != nil {
				ways = append(ways, nexthop.Way{Via: w.via, Iface: p.byName[l.name], Weight: w.weight, Failed: v.gates[neighbor{w.via, w.index}]})
			}
		}
		errs = append(errs, b.AddWays(r.to, ways, r.src, r.mtu))
	}
	for n, s := range v.neighbors {
		if l := v.links[n.index]; l != nil && s.known() && p.ours[p.byName[l.name]] {
			errs = append(errs, b.AddNeighbor(n.addr, s.mac, p.byName[l.name]))
		}
	}
	return errs
}

// onWire says how packets of a link look on the wire: by which port they leave, with
// which tags, by which members.
func (v *view) onWire(l *link, p *places) nexthop.Interface {
	i := nexthop.Interface{
		Name: l.name, Index: l.index, Port: -1, MAC: l.mac, MTU: l.mtu, Up: l.up, Addrs: l.addrs,
		Bond: l.bond, Members: v.members(l),
	}
	var tags, tpids []uint16 // inner first
	for at := l; at != nil && len(tags) <= len(i.VLAN); at = v.links[at.parent] {
		if port := p.port(at.name); port >= 0 {
			slices.Reverse(tags)
			slices.Reverse(tpids)
			i.Port, i.VLANs = port, uint8(copy(i.VLAN[:], tags))
			copy(i.TPID[:], tpids)
			break
		}
		tags, tpids = append(tags, at.tag), append(tpids, at.tpid)
	}
	return i
}
