package ipvsadm

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-lb/sluice/lb"
)

// layout says what a listing shows, and how.
type layout struct {
	options
}

// The title lines of listings.
const (
	kernelLine = "IP Virtual Server version 1.2.1 (size=4096)\n"
	title      = "Prot LocalAddress:Port"
	subtitle   = "  -> RemoteAddress:Port"
)

// list does -L.
func (r *runner) list(c *command) error {
	l := layout{c.given}
	switch {
	case l.has(optConnection):
		return r.listConns(l)
	case l.has(optService):
		return r.listOne(l, c.service.Key)
	case l.has(optTimeout):
		return r.listTimeouts()
	case l.has(optDaemon):
		return r.listDaemons()
	}
	return r.listAll(l)
}

func (r *runner) listAll(l layout) error {
	services, err := r.env.Backend.Services()
	if err != nil {
		return err
	}
	if !l.has(optNoSort) {
		services = order(services)
	}
	r.print(kernelLine, l.titles())
	for i := range services {
		r.listService(l, &services[i])
	}
	return nil
}

func (r *runner) listOne(l layout, key lb.ServiceKey) error {
	services, err := r.env.Backend.Services()
	if err != nil {
		return err
	}
	s := find(services, key)
	if s == nil {
		return &failure{text: lb.ErrNoService.Text, exit: exitAbsent}
	}
	r.print(l.titles())
	if !l.has(optNoSort) {
		s = &order([]Service{*s})[0]
	}
	r.listService(l, s)
	return nil
}

// titles returns the lines over the services. Of several views ipvsadm shows
// the first in this order.
func (l layout) titles() string {
	switch {
	case l.has(optStats):
		return fmt.Sprintf("%-33s %8s %8s %8s %8s %8s\n%s\n",
			title, "Conns", "InPkts", "OutPkts", "InBytes", "OutBytes", subtitle)
	case l.has(optRate):
		return fmt.Sprintf("%-33s %8s %8s %8s %8s %8s\n%s\n",
			title, "CPS", "InPPS", "OutPPS", "InBPS", "OutBPS", subtitle)
	case l.has(optThresholds):
		return fmt.Sprintf("%-33s %-10s %-10s %-10s %-10s\n%s\n",
			title, "Uthreshold", "Lthreshold", "ActiveConn", "InActConn", subtitle)
	case l.has(optPersistentConn):
		return fmt.Sprintf("%-33s %-9s %-11s %-10s %-10s\n%s\n",
			title, "Weight", "PersistConn", "ActiveConn", "InActConn", subtitle)
	case l.has(optTunInfo):
		return fmt.Sprintf("%s Scheduler Flags\n%-33s Forward TunnelInfo    Weight ActiveConn InActConn\n", title, subtitle)
	}
	return fmt.Sprintf("%s Scheduler Flags\n%-33s Forward Weight ActiveConn InActConn\n", title, subtitle)
}

func (r *runner) listService(l layout, s *Service) {
	name := r.serviceName(l, &s.Spec.Key)
	switch {
	case l.has(optStats, optRate):
		r.print(fmt.Sprintf("%-33s", name), l.numbers(&s.Stats, &s.Rates), "\n")
	default:
		r.print(name, " ", s.Spec.Scheduler, describe(&s.Spec), "\n")
	}
	for i := range s.Servers {
		r.listServer(l, &s.Servers[i], s.Spec.Key.Proto)
	}
}

func (r *runner) serviceName(l layout, k *lb.ServiceKey) string {
	switch {
	case k.Mark != 0 && k.V6:
		return fmt.Sprintf("FWM  %d IPv6", int32(k.Mark)) // signed in ipvsadm
	case k.Mark != 0:
		return fmt.Sprintf("FWM  %d", int32(k.Mark))
	}
	return fmt.Sprintf("%-4s %s", strings.ToUpper(lb.ProtoName(k.Proto)), clip(k.Addr, r.name(l, k.Addr, k.Port, k.Proto)))
}

// describe returns what follows a service's scheduler.
func describe(s *lb.ServiceSpec) string {
	var b strings.Builder
	if len(s.SchedulerFlags) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(shownFlags(s), ","))
	}
	if p := s.Persistence; p != nil {
		fmt.Fprintf(&b, " persistent %d", int(p.Timeout.Seconds()))
		if m := mask(p, s.Key.Is6()); m != "" {
			b.WriteString(" mask " + m)
		}
		if p.Engine != "" {
			b.WriteString(" pe " + p.Engine)
		}
	}
	if s.OnePacket {
		b.WriteString(" ops")
	}
	return b.String()
}

// shownFlags returns the flags that ipvsadm has names for.
func shownFlags(s *lb.ServiceSpec) []string {
	var shown []string
	for _, f := range s.SchedulerFlags {
		if f != "flag-3" || s.Scheduler != "sh" && s.Scheduler != "mh" {
			shown = append(shown, f)
		}
	}
	return shown
}

func (r *runner) listServer(l layout, s *Server, proto uint8) {
	key, t := &s.Spec.Key, &s.Spec
	r.print(fmt.Sprintf("  -> %-28s", clip(key.Addr, r.name(l, key.Addr, key.Port, proto))))
	switch {
	case l.has(optStats, optRate):
		r.print(l.numbers(&s.Stats, &s.Rates), "\n")
		return
	case l.has(optThresholds):
		r.print(fmt.Sprintf(" %-10d %-10d", t.Upper, t.Lower))
	case l.has(optPersistentConn):
		r.print(fmt.Sprintf(" %-9d %-11d", t.Weight, s.Persistent))
	case l.has(optTunInfo):
		r.print(fmt.Sprintf(" %-7s %-13s %-6d", t.Forward.KernelName(), tunnelInfo(t), t.Weight))
	default:
		r.print(fmt.Sprintf(" %-7s %-6d", t.Forward.KernelName(), t.Weight))
	}
	r.print(fmt.Sprintf(" %-10d %-10d\n", s.Active, s.Inactive))
}

// tunnelInfo returns the column of --tun-info.
func tunnelInfo(r *lb.RealSpec) string {
	switch sum := [...]string{"-c", "+c", "r+c"}[r.Tunnel.Checksum%3]; {
	case r.Forward != lb.TUN:
		return "n/a"
	case r.Tunnel.Type == lb.GUE:
		return fmt.Sprintf("gue:%d:%s", r.Tunnel.Port, sum)
	case r.Tunnel.Type == lb.GRE:
		return "gre:" + sum
	}
	return "ipip"
}

// numbers returns the five columns of --stats or --rate.
func (l layout) numbers(c *lb.Counters, r *Rates) string {
	if l.has(optStats) {
		return l.large(c.Conns) + l.large(c.InPackets) + l.large(c.OutPackets) + l.large(c.InBytes) + l.large(c.OutBytes)
	}
	return fmt.Sprintf(" %8d %8d %8d", r.Conns, r.InPackets, r.OutPackets) + l.large(r.InBytes) + l.large(r.OutBytes)
}

// large returns a number in a column of nine, in thousands, millions and so on
// if it is long, or wider with --exact.
func (l layout) large(n uint64) string {
	switch {
	case l.has(optExact):
		return fmt.Sprintf(" %8d", n)
	case n < 100e6:
		return fmt.Sprintf("%9d", n)
	case n < 1e9:
		return fmt.Sprintf("%8dK", n/1e3)
	case n < 100e9:
		return fmt.Sprintf("%8dM", n/1e6)
	case n < 100e12:
		return fmt.Sprintf("%8dG", n/1e9)
	}
	return fmt.Sprintf("%8dT", n/1e12)
}

// name returns "address:port" of a protocol. Without -n ports have names.
func (r *runner) name(l layout, addr netip.Addr, port uint16, proto uint8) string {
	text := strconv.Itoa(int(port))
	if !l.has(optNumeric) {
		text = r.env.services().name(port, proto)
	}
	if addr.Is6() {
		return "[" + addr.String() + "]:" + text
	}
	return addr.String() + ":" + text
}

// clip cuts an IPv4 endpoint to what fits its column: its port's name may be long.
func clip(addr netip.Addr, name string) string {
	if addr.Is4() {
		return name[:min(len(name), 28)]
	}
	return name
}

func (r *runner) listTimeouts() error {
	t, err := r.env.Backend.Timeouts()
	if err != nil {
		return err
	}
	seconds := func(d time.Duration) int { return int(d / time.Second) }
	r.print(fmt.Sprintf("Timeout (tcp tcpfin udp): %d %d %d\n", seconds(t.TCP), seconds(t.TCPFin), seconds(t.UDP)))
	return nil
}

// listDaemons does -L --daemon: a line for each that runs.
func (r *runner) listDaemons() error {
	daemons, err := r.env.Backend.Daemons()
	if err != nil {
		return err
	}
	for _, state := range []DaemonState{Master, Backup} {
		for _, d := range daemons {
			if d.State == state {
				r.print(fmt.Sprintf("%s sync daemon (mcast=%s, syncid=%d, maxlen=%d, group=%s, port=%d, ttl=%d)\n",
					d.State, d.Interface, d.SyncID, d.MaxLen, d.Group, d.Port, d.TTL))
			}
		}
	}
	return nil
}
