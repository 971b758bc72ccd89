package ipvsadm

import (
	"fmt"
	"strings"

	"github.com/sluice-lb/sluice/lb"
)

// save does -S: the lines of -A and -a that would make the rules again.
func (r *runner) save(numeric bool) error {
	services, err := r.env.Backend.Services()
	if err != nil {
		return err
	}
	var l layout
	if numeric {
		l.options = set(optNumeric)
	}
	for _, s := range savedOrder(services) {
		address := r.serviceOption(l, &s.Spec.Key)
		r.print("-A ", address, " -s ", s.Spec.Scheduler, serviceRule(&s.Spec), "\n")
		for i := range s.Servers {
			spec := &s.Servers[i].Spec
			r.print("-a ", address, " -r ", r.name(l, spec.Key.Addr, spec.Key.Port, s.Spec.Key.Proto),
				serverRule(spec), "\n")
		}
	}
	return nil
}

// serviceOption returns the option that names a service.
func (r *runner) serviceOption(l layout, k *lb.ServiceKey) string {
	switch {
	case k.Mark != 0 && k.V6:
		return fmt.Sprintf("-f %d -6", k.Mark)
	case k.Mark != 0:
		return fmt.Sprintf("-f %d", k.Mark)
	}
	option := map[uint8]string{lb.ProtoTCP: "-t ", lb.ProtoUDP: "-u ", lb.ProtoSCTP: "--sctp-service "}[k.Proto]
	return option + r.name(l, k.Addr, k.Port, k.Proto)
}

// serviceRule returns the options that follow a service's scheduler.
func serviceRule(s *lb.ServiceSpec) string {
	var b strings.Builder
	if p := s.Persistence; p != nil {
		fmt.Fprintf(&b, " -p %d", int(p.Timeout.Seconds()))
		if m := mask(p, s.Key.Is6()); m != "" {
			b.WriteString(" -M " + m)
		}
		if p.Engine != "" {
			b.WriteString(" --pe " + p.Engine)
		}
	}
	if s.OnePacket {
		b.WriteString(" -o")
	}
	if flags := shownFlags(s); len(flags) > 0 {
		b.WriteString(" -b " + strings.Join(flags, ","))
	}
	return b.String()
}

// serverRule returns the options that follow a server's address. ipvsadm
// itself does not save the thresholds, but it reads them.
func serverRule(s *lb.RealSpec) string {
	var b strings.Builder
	fmt.Fprintf(&b, " %s -w %d", [...]string{lb.NAT: "-m", lb.TUN: "-i", lb.DR: "-g"}[s.Forward%4], s.Weight)
	if s.Upper != 0 {
		fmt.Fprintf(&b, " -x %d", s.Upper)
	}
	if s.Lower != 0 {
		fmt.Fprintf(&b, " -y %d", s.Lower)
	}
	if s.Forward != lb.TUN {
		return b.String()
	}
	fmt.Fprintf(&b, " --tun-type %s", s.Tunnel.Type)
	if s.Tunnel.Type == lb.GUE {
		fmt.Fprintf(&b, " --tun-port %d", s.Tunnel.Port)
	}
	if s.Tunnel.Type != lb.IPIP {
		b.WriteString([...]string{" --tun-nocsum", " --tun-csum", " --tun-remcsum"}[s.Tunnel.Checksum%3])
	}
	return b.String()
}
