package lb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/sched"
)

// normal returns s with every default filled in and nothing shared with it, or
// all that is wrong with it.
func (s *Spec) normal() (Spec, error) {
	n := Spec{Marks: slices.Clone(s.Marks), Timeouts: s.Timeouts, Sysctl: s.Sysctl}
	var errs []error
	keys := make(map[ServiceKey]string, len(s.Services))
	names := make(map[string]bool, len(s.Services))
	for i := range s.Services {
		svc, err := s.Services[i].normal()
		if first, ok := keys[svc.Key]; ok {
			err = errors.Join(err, fmt.Errorf("service %s: %w: %s is %s", svc.Name, ErrServiceExists, svc.Key, first))
		}
		if names[svc.Name] {
			err = errors.Join(err, fmt.Errorf("service %s: %w", svc.Name, ErrName))
		}
		keys[svc.Key], names[svc.Name] = svc.Name, true
		errs = append(errs, err)
		n.Services = append(n.Services, svc)
	}
	if len(n.Marks) > MaxMarkRules {
		errs = append(errs, fmt.Errorf("%w: %d rules, want at most %d", ErrMarkRule, len(n.Marks), MaxMarkRules))
	}
	for i := range n.Marks {
		errs = append(errs, n.Marks[i].check())
	}
	errs = append(errs, n.Timeouts.fill())
	return n, errors.Join(errs...)
}

// normal returns s with every default filled in and nothing shared with it,
// its servers too, or all that is wrong with them.
func (s *ServiceSpec) normal() (ServiceSpec, error) {
	n := *s
	n.Key = s.Key.normal()
	if n.Name == "" {
		n.Name = n.Key.DefaultName()
	}
	if n.Scheduler == "" {
		n.Scheduler = "wlc"
	}
	errs := []error{n.checkKey()}
	if !slices.Contains(sched.Names(), n.Scheduler) {
		errs = append(errs, fmt.Errorf("%w: %s", ErrScheduler, n.Scheduler))
	}
	flags, err := sched.ParseFlags(n.Scheduler, n.SchedulerFlags)
	if err != nil {
		errs = append(errs, err)
	}
	n.SchedulerFlags = flags.Names(n.Scheduler)
	if s.Persistence != nil {
		p := *s.Persistence
		n.Persistence = &p
		errs = append(errs, p.fill(n.Key.Is6()))
	}
	if n.OnePacket && n.Key.Mark == 0 && n.Key.Proto != ProtoUDP {
		errs = append(errs, ErrOnePacket)
	}
	if n.MSS != 0 && (n.Key.Mark == 0 && n.Key.Proto != ProtoTCP || n.MSS != AutoMSS && (n.MSS < MinMSS || n.MSS > MaxMSS)) {
		errs = append(errs, fmt.Errorf("%w: mss %v of a %s service", ErrInvalid, n.MSS, ProtoName(n.Key.Proto)))
	}
	if n.Scheduler == "mh" && len(s.Servers) > sched.MaxMaglev {
		errs = append(errs, fmt.Errorf("%w: mh takes at most %d servers", ErrInvalid, sched.MaxMaglev))
	}
	n.Servers = make([]RealSpec, len(s.Servers))
	seen := make(map[RealKey]bool, len(s.Servers))
	for i := range s.Servers {
		real, err := s.Servers[i].normal(n.Key)
		if err == nil {
			err = real.checkAddress()
			if seen[real.Key] {
				err = ErrRealExists
			}
			if err != nil {
				err = fmt.Errorf("server %s: %w", real.Key, err)
			}
		}
		seen[real.Key] = true
		errs = append(errs, err)
		n.Servers[i] = real
	}
	if err := errors.Join(errs...); err != nil {
		return n, fmt.Errorf("service %s: %w", n.Name, err)
	}
	return n, nil
}

// normal returns k without what does not matter to it.
func (k ServiceKey) normal() ServiceKey {
	if k.Mark != 0 {
		return ServiceKey{Mark: k.Mark, V6: k.V6}
	}
	k.Addr, k.V6 = k.Addr.Unmap(), false
	return k
}

func (s *ServiceSpec) checkKey() error {
	k := &s.Key
	switch {
	case k.Mark != 0:
		return nil
	case !k.Addr.IsValid() && k.Proto == 0:
		return ErrMark
	case k.Proto != ProtoTCP && k.Proto != ProtoUDP && k.Proto != ProtoSCTP:
		return fmt.Errorf("%w: protocol %d is not TCP, UDP or SCTP", ErrInvalid, k.Proto)
	case !unicast(k.Addr):
		return fmt.Errorf("%w: %s", ErrAddress, k.Addr)
	case k.Port == 0 && s.Persistence == nil:
		return ErrZeroPort
	}
	return nil
}

// unicast says whether a may be one host's address.
func unicast(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// fill checks p, sets the prefix that stands for each client by itself, and
// writes a mask that is a prefix as that.
func (p *Persistence) fill(v6 bool) error {
	longest := 32
	if v6 {
		longest = 128
	}
	if p.Mask.Is4() && p.Prefix == 0 {
		mask := p.Mask.As4()
		m := binary.BigEndian.Uint32(mask[:])
		if ones := bits.LeadingZeros32(^m); ones > 0 && m == ^uint32(0)<<(32-ones) {
			p.Prefix, p.Mask = ones, netip.Addr{}
		}
	} else if p.Prefix == 0 {
		p.Prefix = longest
	}
	switch {
	case p.Mask.IsValid() && (!p.Mask.Is4() || v6 || p.Prefix != 0):
		return fmt.Errorf("%w: netmask %s", ErrPersistence, p.Mask)
	case p.Timeout < time.Second || p.Timeout%time.Second != 0 || p.Timeout > conn.MaxTimeout.Duration():
		return fmt.Errorf("%w: timeout %v", ErrPersistence, p.Timeout)
	case !p.Mask.IsValid() && (p.Prefix < 1 || p.Prefix > longest):
		return fmt.Errorf("%w: prefix length %d", ErrPersistence, p.Prefix)
	case p.Engine != "" && p.Engine != "sip":
		return fmt.Errorf("%w: %s", ErrScheduler, p.Engine)
	}
	return nil
}

// normal returns r as a server of the service k, every default filled in, its
// address unchecked. DR and TUN do not touch ports, so their servers have the
// service's, whatever was asked, as ipvsadm has it; those of a mark service,
// which has none, keep their own.
func (r *RealSpec) normal(k ServiceKey) (RealSpec, error) {
	n := *r
	n.Key.Addr = r.Key.Addr.Unmap()
	if n.Forward != NAT && k.Mark == 0 {
		n.Key.Port = k.Port
	}
	if n.Forward != TUN {
		n.Tunnel = Tunnel{}
	}
	if err := n.check(k); err != nil {
		return n, fmt.Errorf("server %s: %w", n.Key, err)
	}
	return n, nil
}

// check finds the first fault in the kernel's order (K-DST-3).
func (r *RealSpec) check(k ServiceKey) error {
	switch a := r.Key.Addr; {
	case r.Forward != NAT && r.Forward != TUN && r.Forward != DR:
		return fmt.Errorf("%w: forwarding method %s", ErrInvalid, r.Forward)
	case a.IsValid() && a.Is6() != k.Is6() && r.Forward != TUN:
		return ErrFamily // K-PROTO-MIX
	case r.Weight < 0:
		return ErrWeight
	case r.Lower > r.Upper:
		return fmt.Errorf("%w: lower threshold %d, upper %d", ErrRange, r.Lower, r.Upper)
	}
	return r.Tunnel.check()
}

// checkAddress is what the kernel looks at last, and of new servers only.
func (r *RealSpec) checkAddress() error {
	if a := r.Key.Addr; !unicast(a) || a.Is6() && a.IsLinkLocalUnicast() { // K-DST-3, K-PROTO-V6
		return ErrInvalid
	}
	return nil
}

// check holds t to what ipvsadm allows (K-FWD-TUN-FLAGS).
func (t *Tunnel) check() error {
	option := [...]string{"tun-nocsum", "tun-csum", "tun-remcsum"}
	switch {
	case t.Type > GRE || t.Checksum > ChecksumRemote:
		return fmt.Errorf("%w: tunnel type %d, checksum %d", ErrInvalid, t.Type, t.Checksum)
	case t.Type == GUE && t.Port == 0:
		return ErrTunnelPort
	case t.Type != GUE && t.Port != 0:
		return &Error{Text: fmt.Sprintf("Illegal 'tun-port' option with the '%s' tunnel type", t.Type)}
	case t.Type == IPIP && t.Checksum != ChecksumNone, t.Type == GRE && t.Checksum == ChecksumRemote:
		return &Error{Text: fmt.Sprintf("Illegal '%s' option with the '%s' tunnel type", option[t.Checksum], t.Type)}
	}
	return nil
}

func (m *MarkRule) check() error {
	src, dst := m.Source.Addr(), m.Destination.Addr()
	switch {
	case m.Mark == 0:
		return fmt.Errorf("%w: %w", ErrMarkRule, ErrMark)
	case m.PortLow > m.PortHigh:
		return fmt.Errorf("%w %d: ports %d-%d", ErrMarkRule, m.Mark, m.PortLow, m.PortHigh)
	case src.IsValid() && dst.IsValid() && src.Is4() != dst.Is4():
		return fmt.Errorf("%w %d: %s and %s are of different families", ErrMarkRule, m.Mark, m.Source, m.Destination)
	case src.Is4In6() || dst.Is4In6():
		return fmt.Errorf("%w %d: an IPv4 prefix in IPv6 form", ErrMarkRule, m.Mark)
	}
	return nil
}

// fill checks t and sets the kernel's timeouts where it keeps them.
func (t *Timeouts) fill() error {
	defaults := conn.DefaultTimeouts()
	for _, x := range []struct {
		value  *time.Duration
		normal clock.Ticks
	}{
		{&t.TCP, defaults.Of(ProtoTCP, conn.TCPEstablished)},
		{&t.TCPFin, defaults.Of(ProtoTCP, conn.TCPFinWait)},
		{&t.UDP, defaults.Of(ProtoUDP, 0)},
	} {
		if *x.value < 0 || *x.value > conn.MaxTimeout.Duration() {
			return fmt.Errorf("timeouts: %w: %v", ErrRange, *x.value)
		}
		if *x.value == 0 {
			*x.value = x.normal.Duration()
		}
	}
	return nil
}
