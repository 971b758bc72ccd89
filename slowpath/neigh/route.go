package neigh

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// routeMessage is what matters of the kernel's message of a route (RTM_NEWROUTE of
// rtnetlink(7)).
type routeMessage struct {
	family, tos, kind uint8
	table, metric     uint32
	flags             uint32
	to                netip.Prefix
	src               netip.Addr
	mtu               int
	ways              []way
	nexthop           uint32 // ID of its nexthop object; 0: none
}

// way is one next hop of a route.
type way struct {
	via    netip.Addr // not valid: on-link
	index  int        // of the link
	weight int
}

// object is what matters of a nexthop object (ip-nexthop(8)).
type object struct {
	way
	drop, dead bool
	group      []member
}

// member is an object's ID in a group, and its weight there.
type member struct {
	id     uint32
	weight int
}

// Numbers that the libraries lack: of linux/netlink.h and rtnetlink.h, and, of nexthop
// objects, of linux/nexthop.h.
const (
	typeMask = 1<<14 - 1 // NLA_TYPE_MASK
	rtaNHID  = 30

	nhaID        = 1
	nhaGroup     = 2
	nhaBlackhole = 4
	nhaOIF       = 5
	nhaGateway   = 6

	sizeofNhMsg    = 8
	sizeofNhMember = 8
)

// attributes calls f for each attribute in b, with the bits of its type that are
// flags cut off. It ends at what is no attribute any more.
func attributes(b []byte, f func(kind uint16, value []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			return
		}
		f(binary.NativeEndian.Uint16(b[2:])&typeMask, b[unix.SizeofRtAttr:n])
		b = b[min((n+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(b)):]
	}
}

// number is an attribute's value; 0 if it is not one of 4 bytes.
func number(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// take takes over an attribute that says where a next hop is; those of a route and
// of one in its RTA_MULTIPATH are the same.
func (w *way) take(kind uint16, value []byte) {
	switch kind {
	case unix.RTA_OIF:
		w.index = int(number(value))
	case unix.RTA_GATEWAY:
		w.via = addrOf(value)
	case unix.RTA_VIA: // a gateway of the other family, which two bytes say
		w.via = addrOf(value[min(2, len(value)):])
	}
}

// parseRoute reads a message of a route. false: it is cut short.
func parseRoute(b []byte) (m routeMessage, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return m, false
	}
	h := nl.DeserializeRtMsg(b)
	m = routeMessage{family: h.Family, tos: h.Tos, kind: h.Type, table: uint32(h.Table), flags: h.Flags}
	single := way{weight: 1}
	to := netip.IPv4Unspecified()
	if m.family == unix.AF_INET6 {
		to = netip.IPv6Unspecified()
	}
	attributes(b[unix.SizeofRtMsg:], func(kind uint16, value []byte) {
		switch kind {
		case unix.RTA_DST:
			to = addrOf(value)
		case unix.RTA_TABLE:
			m.table = number(value)
		case unix.RTA_PRIORITY:
			m.metric = number(value)
		case unix.RTA_PREFSRC:
			m.src = addrOf(value)
		case rtaNHID:
			m.nexthop = number(value)
		case unix.RTA_METRICS:
			attributes(value, func(kind uint16, value []byte) {
				if kind == unix.RTAX_MTU {
					m.mtu = int(number(value))
				}
			})
		case unix.RTA_MULTIPATH:
			m.ways = multipath(value)
		default:
			single.take(kind, value)
		}
	})
	m.to = netip.PrefixFrom(to, int(h.Dst_len))
	if single.index > 0 && h.Flags&unix.RTNH_F_DEAD == 0 {
		m.ways = append(m.ways, single)
	}
	return m, m.to.IsValid()
}

// multipath reads the next hops of a route with several, the dead ones left out.
func multipath(b []byte) (ways []way) {
	for len(b) >= unix.SizeofRtNexthop {
		n := int(binary.NativeEndian.Uint16(b)) // struct rtnexthop: length, flags, hops, index
		if n < unix.SizeofRtNexthop || n > len(b) {
			break
		}
		w := way{index: int(number(b[4:8])), weight: int(b[3]) + 1}
		attributes(b[unix.SizeofRtNexthop:n], w.take)
		if b[2]&unix.RTNH_F_DEAD == 0 {
			ways = append(ways, w)
		}
		b = b[min((n+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(b)):]
	}
	return ways
}

// parseObject reads a message of a nexthop object.
func parseObject(b []byte) (id uint32, o object) {
	if len(b) < sizeofNhMsg {
		return 0, o
	}
	o.dead = binary.NativeEndian.Uint32(b[4:])&unix.RTNH_F_DEAD != 0
	attributes(b[sizeofNhMsg:], func(kind uint16, value []byte) {
		switch kind {
		case nhaID:
			id = number(value)
		case nhaOIF:
			o.index = int(number(value))
		case nhaGateway:
			o.via = addrOf(value)
		case nhaBlackhole:
			o.drop = true
		case nhaGroup: // of struct nexthop_grp: ID, weight less 1, its high byte
			for ; len(value) >= sizeofNhMember; value = value[sizeofNhMember:] {
				o.group = append(o.group, member{number(value[:4]), int(value[5])<<8 + int(value[4]) + 1})
			}
		}
	})
	return id, o
}

// follow returns the next hops that a nexthop object stands for. drop: it is a
// blackhole.
func follow(objects map[uint32]object, id uint32) (ways []way, drop bool) {
	o := objects[id]
	if o.group == nil {
		o.group = []member{{id, 1}}
	}
	for _, m := range o.group {
		at := objects[m.id]
		if drop = drop || at.drop; at.index > 0 && !at.dead {
			at.weight = m.weight
			ways = append(ways, at.way)
		}
	}
	return ways, drop
}

// readRoutes brings the routes up to date, and with them the nexthop objects, if any
// route names one.
func (v *view) readRoutes(d *dumps) error {
	var list []routeMessage
	named := false
	err := d.raw(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, unix.SizeofRtMsg, func(b []byte) {
		if m, ok := parseRoute(b); ok && m.counts() {
			list, named = append(list, m), named || m.nexthop != 0
		}
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	objects := map[uint32]object{}
	if named {
		err := d.raw(unix.RTM_GETNEXTHOP, unix.RTM_NEWNEXTHOP, sizeofNhMsg, func(b []byte) {
			if id, o := parseObject(b); id != 0 {
				objects[id] = o
			}
		})
		if err != nil {
			return fmt.Errorf("list nexthop objects: %w", err)
		}
	}
	v.addRoutes(list, objects)
	return nil
}

// counts says whether a route is one that packets follow. Of those of other tables
// than main a rule decides, which is not seen.
func (m *routeMessage) counts() bool {
	switch {
	case m.tos != 0 || m.flags&unix.RTM_F_CLONED != 0 || m.family != unix.AF_INET && m.family != unix.AF_INET6:
		return false
	case m.kind == unix.RTN_LOCAL:
		return true
	case m.table != unix.RT_TABLE_MAIN:
		return false
	}
	switch m.kind {
	case unix.RTN_UNICAST, unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT:
		return true
	}
	return false
}

// addRoutes makes the kernel's routes those of the view: of a prefix's the one with
// the least metric first.
func (v *view) addRoutes(list []routeMessage, objects map[uint32]object) {
	slices.SortStableFunc(list, func(a, b routeMessage) int { return int(int64(a.metric) - int64(b.metric)) })
	v.routes, v.locals = nil, nil
	gates := map[neighbor]bool{}
	for i := range list {
		m := &list[i]
		if m.kind == unix.RTN_LOCAL {
			v.locals = append(v.locals, m.to)
			continue
		}
		drop := m.kind != unix.RTN_UNICAST
		if ways, drops := follow(objects, m.nexthop); ways != nil || drops {
			m.ways, drop = ways, drop || drops
		}
		r := route{to: m.to, src: m.src, mtu: m.mtu}
		if !drop {
			if r.ways = m.ways; len(r.ways) == 0 {
				continue // all are dead
			}
		}
		v.routes = append(v.routes, r)
		for _, w := range r.ways {
			if n := (neighbor{w.via, w.index}); len(r.ways) > 1 && w.via.IsValid() {
				failed, was := v.gates[n]
				gates[n] = failed || !was && v.neighbors[n].nud&unix.NUD_FAILED != 0
			}
		}
	}
	v.gates = gates
}
