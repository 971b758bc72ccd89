package config

import (
	"net/netip"
	"strings"
	"time"

	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/rings/xdpprog"
)

// serviceText is a service as it is written, with the defaults of the
// schema but not those that depend on other keys.
type serviceText struct {
	Name           string
	Protocol       uint8
	Address        netip.Addr
	Port           uint16
	FWMark         uint32
	Family         string
	Scheduler      string
	SchedulerFlags []string
	Persistence    *struct {
		Timeout time.Duration
		Netmask clientMask // zero: not given
		Engine  string
	}
	OnePacket bool
	MSS       lb.MSS
	Forward   lb.Forward
	Tunnel    lb.Tunnel
	Servers   []serverText
}

// serverText is a real server as it is written; nil: the service's.
type serverText struct {
	Address        netip.Addr
	Port           *uint16
	Weight         int32
	Forward        *lb.Forward
	Tunnel         *lb.Tunnel
	UpperThreshold uint32
	LowerThreshold uint32
}

// markText is a mark rule as it is written.
type markText struct {
	Mark                uint32
	Interface           string
	Protocol            uint8
	Source, Destination netip.Prefix
	Ports               portRange
}

// maxMarks is what the XDP program compares a packet with (rings/xdpprog).
const maxMarks = xdpprog.MaxMarks

func (c *Config) resolveMarks(texts []markText) {
	if len(texts) > maxMarks {
		c.source.fail(at("marks", maxMarks), "%d rules are too many, want at most %d", len(texts), maxMarks)
	}
	for i, m := range texts {
		path := at("marks", i)
		c.checkNIC(path+".interface", m.Interface)
		if m.Source.IsValid() && m.Destination.IsValid() && m.Source.Addr().Is4() != m.Destination.Addr().Is4() {
			c.source.fail(path+".destination", "%s is of another address family than source %s", m.Destination, m.Source)
		}
		c.Spec.Marks = append(c.Spec.Marks, lb.MarkRule{
			Mark: m.Mark, Interface: m.Interface, Proto: m.Protocol, Source: m.Source, Destination: m.Destination,
			PortLow: m.Ports.Low, PortHigh: m.Ports.High,
		})
	}
}

func (c *Config) resolveServices(texts []serviceText) {
	seenKeys, seenNames := map[string]string{}, map[string]string{}
	for i := range texts {
		s := service{c.source, at("services", i), &texts[i]}
		key, id, known := s.identity()
		s.checkScheduler()
		s.checkPersistence()
		s.checkPort()
		s.checkOnePacket()
		s.checkMSS()
		s.checkTunnel(s.path+".tunnel", s.Tunnel)
		spec := lb.ServiceSpec{
			Name: s.Name, Key: key, Scheduler: s.Scheduler, SchedulerFlags: s.SchedulerFlags,
			Persistence: s.persistence(), OnePacket: s.OnePacket, MSS: s.MSS, Servers: s.servers(),
		}
		if spec.Name == "" {
			spec.Name = key.DefaultName()
		}
		if known && c.once(seenKeys, key.String(), id, "service "+key.String()) {
			c.once(seenNames, spec.Name, s.path+".name", "service name "+spec.Name)
		}
		c.Spec.Services = append(c.Spec.Services, spec)
	}
}

// service is one service on its way from text to spec.
type service struct {
	*source
	path string
	*serviceText
}

// identity returns what packets the service is for and the key that says
// so; known is false if there is a fault in that.
func (s service) identity() (key lb.ServiceKey, id string, known bool) {
	address := []string{"protocol", "address", "port"}
	if mark := s.path + ".fwmark"; s.has(mark) {
		for _, k := range address {
			if s.has(join(s.path, k)) {
				s.fail(join(s.path, k), "cannot be with fwmark: a service is known by the one or by protocol, address and port")
			}
		}
		return lb.ServiceKey{Mark: s.FWMark, V6: s.Family == "ipv6"}, mark, s.sound(mark, s.path+".family")
	}
	known = true
	for _, k := range address {
		full := join(s.path, k)
		if !s.has(full) {
			s.fail(full, "missing, want %s (or an fwmark)", find(serviceShape.keys, k).shape.want)
		}
		known = known && s.sound(full)
	}
	if family := s.path + ".family"; s.has(family) {
		s.fail(family, "is for fwmark services only: an address has its own family")
	}
	return lb.ServiceKey{Proto: s.Protocol, Addr: s.Address, Port: s.Port, V6: s.Address.Is6()}, s.path + ".address", known
}

func (s service) checkScheduler() {
	key := s.path + ".scheduler"
	flags := s.path + ".scheduler_flags"
	if !s.sound(key, flags) {
		return
	}
	for i, f := range s.SchedulerFlags {
		if of, _, _ := strings.Cut(f, "-"); of != "flag" && of != s.Scheduler {
			s.fail(at(flags, i), "%s is a flag of scheduler %s, not of %s", f, of, s.Scheduler)
		}
	}
}

// checkPort wants persistence of a service of every port: K-SVC-6.
func (s service) checkPort() {
	port := s.path + ".port"
	if s.has(port) && s.sound(port) && s.Port == 0 && s.FWMark == 0 && s.Persistence == nil {
		s.fail(port, "0 means every port, which only a persistent service can have, want 1..65535 or a persistence section")
	}
}

// checkOnePacket: K-CONN-8, as ipvsadm has it.
func (s service) checkOnePacket() {
	protocol := s.path + ".protocol"
	if s.OnePacket && s.has(protocol) && s.sound(protocol) && s.Protocol != lb.ProtoUDP && s.FWMark == 0 {
		s.fail(s.path+".one_packet", "true is for udp and fwmark services only, want false")
	}
}

// checkMSS: there is one in TCP only.
func (s service) checkMSS() {
	protocol := s.path + ".protocol"
	if s.MSS != 0 && s.has(protocol) && s.sound(protocol) && s.Protocol != lb.ProtoTCP && s.FWMark == 0 {
		s.fail(s.path+".mss", "%v is for tcp and fwmark services only, want it left out", s.MSS)
	}
}

// checkPersistence: the prefix must be of the service's family (K-PERS-3).
func (s service) checkPersistence() {
	p, path := s.Persistence, s.path+".persistence"
	if p == nil {
		return
	}
	switch v6, known := s.v6(); {
	case known && !v6 && p.Netmask.Prefix > 32:
		s.fail(path+".netmask", "%d is out of range for IPv4, want 1..32", p.Netmask.Prefix)
	case known && v6 && p.Netmask.Mask.IsValid():
		s.fail(path+".netmask", "%s is a mask of IPv4, want 1..128", p.Netmask.Mask)
	}
}

func (s service) persistence() *lb.Persistence {
	p := s.Persistence
	if p == nil {
		return nil
	}
	prefix := p.Netmask.Prefix
	if v6, _ := s.v6(); p.Netmask == (clientMask{}) && v6 {
		prefix = 128
	} else if p.Netmask == (clientMask{}) {
		prefix = 32
	}
	return &lb.Persistence{Timeout: p.Timeout, Prefix: prefix, Mask: p.Netmask.Mask, Engine: p.Engine}
}

// v6 returns the service's address family, if it has one so far.
func (s service) v6() (v6, known bool) {
	if s.FWMark != 0 {
		return s.Family == "ipv6", s.sound(s.path + ".family")
	}
	return s.Address.Is6(), s.Address.IsValid()
}

// checkTunnel holds a tunnel section to K-FWD-TUN-FLAGS.
func (s service) checkTunnel(path string, t lb.Tunnel) {
	if !s.has(path) || !s.sound(path+".type") {
		return
	}
	gue := t.Type == lb.GUE
	switch key := path + ".port"; {
	case !s.sound(key):
	case gue && t.Port == 0:
		s.fail(key, "a gue tunnel needs its port, want 1..65535")
	case !gue && t.Port != 0:
		s.fail(key, "%d: only a gue tunnel has a port, want 0", t.Port)
	}
	switch key := path + ".checksum"; {
	case !s.sound(key):
	case t.Type == lb.IPIP && t.Checksum != lb.ChecksumNone:
		s.fail(key, "an ipip tunnel has no checksum, want none")
	case t.Type == lb.GRE && t.Checksum == lb.ChecksumRemote:
		s.fail(key, "a gre tunnel has no remote checksum, want none | csum")
	}
}

// servers resolves the service's servers, in the order of the file.
func (s service) servers() []lb.RealSpec {
	specs := make([]lb.RealSpec, len(s.Servers))
	seen := map[lb.RealKey]int{}
	for i := range s.Servers {
		path := at(s.path+".servers", i)
		r := s.server(path, &s.Servers[i])
		specs[i] = r
		if !s.sound(path+".address", path+".port") {
			continue
		}
		if first, ok := seen[r.Key]; ok {
			s.fail(path+".address", "server %s is there twice, first in line %d",
				r.Key, s.line(at(s.path+".servers", first)))
			continue
		}
		seen[r.Key] = i
	}
	return specs
}

func (s service) server(path string, t *serverText) lb.RealSpec {
	r := lb.RealSpec{
		Key: lb.RealKey{Addr: t.Address, Port: s.Port}, Weight: t.Weight, Forward: s.Forward,
		Upper: t.UpperThreshold, Lower: t.LowerThreshold,
	}
	if t.Forward != nil {
		r.Forward = *t.Forward
	}
	// DR and TUN leave the port alone, so their server's is the service's
	// whatever the file says, as ipvsadm has it; a mark service has none.
	if t.Port != nil && (r.Forward == lb.NAT || s.FWMark != 0) {
		r.Key.Port = *t.Port
	}
	if r.Forward == lb.TUN {
		if r.Tunnel = s.Tunnel; t.Tunnel != nil {
			r.Tunnel = *t.Tunnel
		}
	}
	if t.Tunnel != nil {
		s.checkTunnel(path+".tunnel", *t.Tunnel)
	}
	if low := path + ".lower_threshold"; s.sound(low, path+".upper_threshold") && r.Lower > r.Upper { // K-DST-3
		s.fail(low, "%d is above upper_threshold %d, want at most that", r.Lower, r.Upper)
	}
	// K-PROTO-MIX: only a tunnel goes from one family to the other.
	if v6, known := s.v6(); known && t.Address.IsValid() && t.Address.Is6() != v6 && r.Forward != lb.TUN && s.sound(path+".forward", s.path+".forward") {
		s.fail(path+".address", "%s is %s and the service is not: only forward tun can do that", t.Address, family(t.Address))
	}
	return r
}

func family(a netip.Addr) string {
	if a.Is6() {
		return "IPv6"
	}
	return "IPv4"
}
