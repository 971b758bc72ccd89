package config

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// MAC is an Ethernet address; all zero: not set.
type MAC [6]byte

// String returns the address as 02:00:00:00:00:01.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Network is what the file says of links, routes and neighbours. On a
// running node each entry overrides what the kernel said of the same thing;
// a replay knows nothing else.
type Network struct {
	Interfaces []NetworkInterface
	Routes     []Route
	Neighbors  []Neighbor
}

// NetworkInterface is a link by its name. A VLAN of it is a link of its own
// named eth0.100 (see SplitVLAN).
type NetworkInterface struct {
	Name         string
	MAC          MAC            // zero: not set
	MTU          int            // bytes of an IP packet; 0: not set
	Addresses    []netip.Prefix // address and length of its network; nil: not set, empty: none
	VLANProtocol uint16         // EtherType of a VLAN's tag; 0: not set
}

// Route says where a network is reached; the networks of interface
// addresses need none.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// Neighbor is the link address of an IP address.
type Neighbor struct {
	Address   netip.Addr
	MAC       MAC
	Interface string
}

// SplitVLAN takes the name of a link apart: eth0.100 is VLAN 100 of eth0,
// eth0.100.7 VLAN 7 within it. A name that does not end that way is a NIC's
// own.
func SplitVLAN(link string) (nic string, vlans []uint16) {
	for nic = link; len(vlans) < 2; {
		dot := strings.LastIndexByte(nic, '.')
		id, err := strconv.ParseUint(nic[dot+1:], 10, 12)
		if dot <= 0 || err != nil || id == 0 || id == 4095 {
			break
		}
		nic, vlans = nic[:dot], append([]uint16{uint16(id)}, vlans...)
	}
	return nic, vlans
}

func (c *Config) checkInterfaces() {
	seen := map[string]string{}
	for i, n := range c.Interfaces {
		c.once(seen, n.Name, at("interfaces", i)+".name", "interface "+n.Name)
	}
}

// once refuses the key at path if what it names was named before. seen
// has the path of the first one under its identity. It returns whether the
// name is new.
func (c *Config) once(seen map[string]string, id, path, what string) bool {
	if !c.source.sound(path) {
		return false
	}
	if first, ok := seen[id]; ok {
		c.source.fail(path, "%s is there twice, first in line %d", what, c.source.line(first))
		return false
	}
	seen[id] = path
	return true
}

func (c *Config) checkWorkers() {
	w, src := c.Workers, c.source
	need, rings := 0, "interfaces"
	for i, n := range c.Interfaces {
		need += 2 * n.RingSize
		rings = at("interfaces", i) + ".ring_size"
		if !src.sound(rings) {
			return
		}
	}
	// Frames stand in the fill and the tx ring of every interface at once.
	if key := "workers.umem_frames"; src.sound(key) && w.UMEMFrames < need {
		if !src.has(key) {
			key = rings
		}
		src.fail(key, "%d UMEM frames cannot keep the fill and tx rings of %d interfaces full, want workers.umem_frames of at least %d",
			w.UMEMFrames, len(c.Interfaces), ceilPowerOfTwo(need))
	}
	if key := "workers.umem_frames"; src.sound(key, "workers.frame_size") && w.UMEMFrames*w.FrameSize > maxUMEM {
		src.fail(key, "%d frames of %d bytes are more than a UMEM holds, want at most %d", w.UMEMFrames, w.FrameSize, (maxUMEM+1)/2/w.FrameSize)
	}
	if key := "connections.max"; src.sound(key, "workers.cpus") && len(w.CPUs) > 0 && c.Connections.Max/len(w.CPUs) > maxPerWorker {
		src.fail(key, "%d is out of range for %d workers, want 1..%d", c.Connections.Max, len(w.CPUs), len(w.CPUs)*maxPerWorker)
	}
}

func ceilPowerOfTwo(n int) int {
	p := 1
	for p < n {
		p *= 2
	}
	return p
}

// checkSysctl holds sync_threshold to the kernel's rule (section 1.10).
func (c *Config) checkSysctl() {
	t := c.Spec.Sysctl.SyncThreshold
	if key := "sysctl.sync_threshold"; c.source.sound(key) && t[1] != 0 && t[0] >= t[1] {
		c.source.fail(key, "[%d, %d]: the threshold reaches the period, want a smaller one (or period 0)", t[0], t[1])
	}
}

func (c *Config) checkNetwork() {
	src := c.source
	links, routes, neighbors := map[string]string{}, map[string]string{}, map[string]string{}
	for i, l := range c.Network.Interfaces {
		key := at("network.interfaces", i) + ".name"
		c.once(links, l.Name, key, "interface "+l.Name)
		c.checkLink(key, l.Name)
		if _, vlans := SplitVLAN(l.Name); len(vlans) == 0 && l.VLANProtocol != 0 && src.sound(key) {
			src.fail(at("network.interfaces", i)+".vlan_protocol", "%s is no VLAN: leave it out, or want a name like %s.100", l.Name, l.Name)
		}
	}
	for i, r := range c.Network.Routes {
		path := at("network.routes", i)
		c.once(routes, r.To.String(), path+".to", "route to "+r.To.String())
		if src.sound(path+".to", path+".via") && r.To.Addr().Is4() != r.Via.Is4() {
			src.fail(path+".via", "%s is of another address family than %s", r.Via, r.To)
		}
	}
	for i, b := range c.Network.Neighbors {
		path := at("network.neighbors", i)
		if src.sound(path + ".interface") {
			id := b.Address.String() + " on " + b.Interface
			c.once(neighbors, id, path+".address", "neighbor "+id)
		}
		c.checkLink(path+".interface", b.Interface)
	}
}

// checkNIC wants one of interfaces itself: packets are marked by the NIC that
// they come in by, whatever their tags.
func (c *Config) checkNIC(path, link string) {
	if nic, vlans := SplitVLAN(link); len(vlans) > 0 && c.source.sound(path) {
		c.source.fail(path, "%s is a VLAN, want the NIC itself: %s", link, nic)
		return
	}
	c.checkLink(path, link)
}

// checkLink wants a link, or the NIC whose VLAN it is, among interfaces.
func (c *Config) checkLink(path, link string) {
	if link == "" || !c.source.sound(path, "interfaces") {
		return
	}
	nic, _ := SplitVLAN(link)
	var known []string
	for _, n := range c.Interfaces {
		if n.Name == nic || n.Name == link {
			return
		}
		known = append(known, n.Name)
	}
	if len(known) == 0 {
		c.source.fail(path, "%s is not among interfaces, which are none", link)
		return
	}
	c.source.fail(path, "%s is not among interfaces, want %s or a VLAN of it like %s.100", link, strings.Join(known, " | "), known[0])
}
