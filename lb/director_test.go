package lb

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/lb/sched"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func addr(s string) *flow.Addr {
	a := flow.FromNetip(ip(s))
	return &a
}

func tcp(vip string, port uint16) ServiceKey {
	return ServiceKey{Proto: ProtoTCP, Addr: ip(vip), Port: port}
}

// servers returns NAT servers of weight 1, "10.1.0.1:8080" each.
func servers(endpoints ...string) []RealSpec {
	var all []RealSpec
	for _, e := range endpoints {
		ap := netip.MustParseAddrPort(e)
		all = append(all, RealSpec{Key: RealKey{ap.Addr(), ap.Port()}, Weight: 1})
	}
	return all
}

var www = tcp("10.0.0.1", 80)

// wwwSpec is a service of three servers.
func wwwSpec() ServiceSpec {
	return ServiceSpec{Name: "www", Key: www, Scheduler: "rr", Servers: servers("10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080")}
}

func apply(t *testing.T, d *Director, services ...ServiceSpec) Changes {
	t.Helper()
	c, err := d.Apply(Spec{Services: services, Sysctl: DefaultSysctl()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// real returns a server of a service in the current snapshot.
func real(t *testing.T, d *Director, k ServiceKey, endpoint string) *Real {
	t.Helper()
	s := d.Current()
	ap := netip.MustParseAddrPort(endpoint)
	for _, svc := range s.Services {
		if svc == nil || svc.Key != k {
			continue
		}
		for _, dest := range svc.Dests {
			if r := &s.Reals[dest.ID]; r.Addr == flow.FromNetip(ap.Addr()) && r.Port == ap.Port() {
				return r
			}
		}
	}
	t.Fatalf("%s has no server %s", k, endpoint)
	return nil
}

func TestEmptyStart(t *testing.T) {
	s := NewDirector(2).Current()
	if s.Generation != 1 || len(s.Services) != 0 || len(s.Reals) != 0 || s.Marks != nil {
		t.Errorf("a new director shows %+v", s)
	}
	if s.Sysctl != DefaultSysctl() || s.Timeouts != conn.DefaultTimeouts() {
		t.Errorf("a new director does not have the kernel's defaults: %+v", s)
	}
	if s.Find(ProtoTCP, addr("10.0.0.1"), 80, 7) != nil || s.IsVIP(addr("10.0.0.1")) || s.IsReal(addr("10.0.0.1")) {
		t.Error("something is found in nothing")
	}
}

// TestListOrder: servers go to the head of the list (K-DST-2), what stays keeps
// its place, whatever order a later spec has.
func TestListOrder(t *testing.T) {
	d := NewDirector(1)
	order := func() string {
		var b strings.Builder
		for _, dest := range d.Current().Services[0].Dests {
			fmt.Fprint(&b, dest.Addr.As4()[3])
		}
		return b.String()
	}
	steps := []struct {
		servers []RealSpec
		want    string
	}{
		{servers("10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:80"), "321"},
		{servers("10.1.0.3:80", "10.1.0.1:80", "10.1.0.2:80"), "321"},
		{servers("10.1.0.4:80", "10.1.0.1:80", "10.1.0.3:80", "10.1.0.5:80"), "5431"},
		{servers("10.1.0.2:80", "10.1.0.3:80"), "23"},
		{nil, ""},
	}
	for _, step := range steps {
		apply(t, d, ServiceSpec{Key: www, Servers: step.servers})
		if got := order(); got != step.want {
			t.Errorf("after %v the list is %s, want %s", step.servers, got, step.want)
		}
	}
}

// TestApplyOwnSpec: the running state, applied, is no change, also when the
// spec that led there left everything to defaults.
func TestApplyOwnSpec(t *testing.T) {
	d := NewDirector(1)
	spec := Spec{
		Services: []ServiceSpec{
			wwwSpec(),
			{
				Key: ServiceKey{Mark: 7, V6: true, Proto: 6, Port: 5}, Scheduler: "mh", SchedulerFlags: []string{"flag-2", "mh-fallback"},
				Servers: []RealSpec{{Key: RealKey{Addr: ip("2001:db8::1")}, Forward: DR}},
			},
			{Key: ServiceKey{Proto: ProtoUDP, Addr: ip("::ffff:10.0.0.2")}, Persistence: &Persistence{Timeout: time.Minute}, OnePacket: true},
		},
		Marks:    []MarkRule{{Mark: 7, Destination: netip.MustParsePrefix("2001:db8::/32")}},
		Timeouts: Timeouts{UDP: time.Minute},
		Sysctl:   DefaultSysctl(),
	}
	first, err := d.Apply(spec)
	must(t, err)
	if first.Empty() {
		t.Fatal("the first Apply changes nothing")
	}
	was := d.Current()
	for _, again := range []Spec{d.Spec(), spec} {
		c, err := d.Apply(again)
		must(t, err)
		if !c.Empty() || d.Current() != was || c.Generation != was.Generation {
			t.Errorf("the same state again changes %s", &c)
		}
	}
	// What Spec returns is the caller's.
	mine := d.Spec()
	mine.Services[0].Servers[0].Weight = 99
	mine.Services[1].SchedulerFlags[0] = "x"
	mine.Services[2].Persistence.Prefix = 1
	mine.Marks[0].Mark = 9
	if c, err := d.Apply(spec); err != nil || !c.Empty() {
		t.Errorf("writing to a returned spec changes the director: %v %s", err, &c)
	}
}

// TestDefaults are those that the director fills in.
func TestDefaults(t *testing.T) {
	d := NewDirector(1)
	must(t, d.AddService(ServiceSpec{Key: www, Persistence: &Persistence{Timeout: time.Second}, Servers: []RealSpec{
		{Key: RealKey{Addr: ip("10.1.0.1")}},                             // the packet's port
		{Key: RealKey{ip("10.1.0.2"), 8080}, Forward: DR},                // DR does not touch ports
		{Key: RealKey{ip("10.1.0.3"), 8080}, Forward: TUN},               // nor does TUN
		{Key: RealKey{ip("10.1.0.4"), 8080}, Tunnel: Tunnel{Type: GRE}},  // no tunnel without TUN
		{Key: RealKey{ip("2001:db8::1"), 80}, Forward: TUN, Tunnel: gue}, // mixed families by tunnel (K-PROTO-MIX)
	}}))
	s := d.Spec().Services[0]
	if s.Name != "tcp-10.0.0.1-80" || s.Scheduler != "wlc" || s.Persistence.Prefix != 32 {
		t.Errorf("service %+v", s)
	}
	for i, want := range []RealSpec{
		{Key: RealKey{ip("10.1.0.1"), 0}},
		{Key: RealKey{ip("10.1.0.2"), 80}, Forward: DR},
		{Key: RealKey{ip("10.1.0.3"), 80}, Forward: TUN},
		{Key: RealKey{ip("10.1.0.4"), 8080}},
		{Key: RealKey{ip("2001:db8::1"), 80}, Forward: TUN, Tunnel: gue},
	} {
		if s.Servers[i] != want {
			t.Errorf("server %+v, want %+v", s.Servers[i], want)
		}
	}
	mark := ServiceKey{Mark: 7}
	must(t, d.AddService(ServiceSpec{Key: mark, Servers: []RealSpec{
		{Key: RealKey{Addr: ip("10.1.0.1")}}, // NAT: the packet's port
		{Key: RealKey{ip("10.1.0.2"), 8080}}, // NAT: this port
		{Key: RealKey{ip("10.1.0.3"), 8080}, Forward: DR},
		{Key: RealKey{ip("10.1.0.3"), 8081}, Forward: DR}, // another one
		{Key: RealKey{ip("10.1.0.4"), 8080}, Forward: TUN},
		{Key: RealKey{Addr: ip("10.1.0.4")}, Forward: TUN},
	}}))
	compiled := d.Current().Services[1].Dests
	for i, want := range []uint16{0, 8080, 8080, 8081, 8080, 0} {
		dest := compiled[len(compiled)-1-i]
		if got := d.Spec().Services[1].Servers[i].Key.Port; got != want || dest.Port != want || d.Current().Reals[dest.ID].Port != want {
			t.Errorf("server %d of a mark service has port %d, compiled %d, want %d", i+1, got, dest.Port, want)
		}
	}
	for key, want := range map[ServiceKey]string{
		{Mark: 7}:                           "fwmark-7",
		{Mark: 7, V6: true}:                 "fwmark-7-ipv6",
		{ProtoSCTP, ip("::1"), 5, 0, false}: "sctp-::1-5",
	} {
		if got := key.DefaultName(); got != want {
			t.Errorf("default name %s, want %s", got, want)
		}
	}
}

var gue = Tunnel{Type: GUE, Port: 6080, Checksum: Checksum}

// TestRefusals: what cannot be is refused with ipvsadm's text (K-CTL-3), whole.
func TestRefusals(t *testing.T) {
	one := func(change func(*ServiceSpec)) func(*Director) error {
		return func(d *Director) error {
			s := ServiceSpec{Key: tcp("10.0.0.2", 80), Scheduler: "rr"}
			change(&s)
			return d.AddService(s)
		}
	}
	server := func(r RealSpec) func(*Director) error {
		return func(d *Director) error { return d.AddReal(www, r) }
	}
	at := func(a string) RealKey { return RealKey{ip(a), 80} }
	for _, tt := range []struct {
		name string
		do   func(*Director) error
		is   *Error // nil: only the text
		text string
		exit int
	}{
		{"service twice", func(d *Director) error { return d.AddService(wwwSpec()) }, ErrServiceExists, "Service already exists", 255},
		{"name twice", one(func(s *ServiceSpec) { s.Name = "www" }), ErrName, "", 2},
		{"scheduler", one(func(s *ServiceSpec) { s.Scheduler = "bogus" }), ErrScheduler, "Scheduler or persistence engine not found", 255},
		{"engine", one(func(s *ServiceSpec) { s.Persistence = &Persistence{Timeout: time.Minute, Engine: "x"} }), ErrScheduler, "", 255},
		{"port 0", one(func(s *ServiceSpec) { s.Key.Port = 0 }), ErrZeroPort, "Zero port specified for non-persistent service", 2},
		{"mark 0", one(func(s *ServiceSpec) { s.Key = ServiceKey{} }), ErrMark, "invalid fwmark value `0' specified", 2},
		{"one-packet TCP", one(func(s *ServiceSpec) { s.OnePacket = true }), ErrOnePacket, "One-Packet Scheduling is only for UDP virtual services", 2},
		{"segments of UDP", one(func(s *ServiceSpec) { s.Key.Proto, s.MSS = ProtoUDP, AutoMSS }), ErrInvalid, "", 255},
		{"segments too small", one(func(s *ServiceSpec) { s.MSS = MinMSS - 1 }), ErrInvalid, "", 255},
		{"segments too large", one(func(s *ServiceSpec) { s.MSS = MaxMSS + 1 }), ErrInvalid, "", 255},
		{"protocol", one(func(s *ServiceSpec) { s.Key.Proto = 47 }), ErrInvalid, "", 255},
		{"multicast VIP", one(func(s *ServiceSpec) { s.Key.Addr = ip("224.0.0.1") }), ErrAddress, "", 2},
		{"no VIP", one(func(s *ServiceSpec) { s.Key.Addr = netip.Addr{} }), ErrAddress, "", 2},
		{"zone", one(func(s *ServiceSpec) { s.Key.Addr = ip("fe80::1%eth0") }), ErrAddress, "", 2},
		{"persistence of half a second", one(func(s *ServiceSpec) { s.Persistence = &Persistence{Timeout: time.Second / 2} }), ErrPersistence, "", 2},
		{"a mask and a prefix", one(func(s *ServiceSpec) {
			s.Persistence = &Persistence{Timeout: time.Second, Prefix: 24, Mask: ip("255.0.0.0")}
		}), ErrPersistence, "", 2},
		{"a mask of IPv6", one(func(s *ServiceSpec) { s.Persistence = &Persistence{Timeout: time.Second, Mask: ip("ffff::")} }), ErrPersistence, "", 2},
		{"a mask of IPv4 in a service of IPv6", one(func(s *ServiceSpec) {
			s.Key.Addr = ip("2001:db8::1")
			s.Persistence = &Persistence{Timeout: time.Second, Mask: ip("255.0.255.0")}
		}), ErrPersistence, "", 2},
		{"persistence prefix", one(func(s *ServiceSpec) { s.Persistence = &Persistence{Timeout: time.Second, Prefix: 33} }), ErrPersistence, "", 2},
		{"mh of too many", one(func(s *ServiceSpec) { s.Scheduler, s.Servers = "mh", thousands(sched.MaxMaglev+1) }), ErrInvalid, "", 255},
		{"server twice in a spec", one(func(s *ServiceSpec) { s.Servers = servers("10.1.0.1:80", "10.1.0.1:80") }), ErrRealExists, "", 255},
		{"server of a full mh", func(d *Director) error {
			key := tcp("10.0.0.3", 1)
			return errors.Join(d.AddService(ServiceSpec{Key: key, Scheduler: "mh", Servers: thousands(sched.MaxMaglev)}), d.AddReal(key, RealSpec{Key: at("10.9.0.1")}))
		}, ErrInvalid, "", 255},
		{"mh for too many", func(d *Director) error {
			key := tcp("10.0.0.3", 1)
			return errors.Join(d.AddService(ServiceSpec{Key: key, Servers: thousands(sched.MaxMaglev + 1)}), d.EditService(ServiceSpec{Key: key, Scheduler: "mh"}))
		}, ErrInvalid, "", 255},
		{"edit to nonsense", func(d *Director) error { return d.EditService(ServiceSpec{Key: www, Scheduler: "bogus"}) }, ErrScheduler, "", 255},
		{"edit no service", func(d *Director) error { return d.EditService(ServiceSpec{Key: tcp("10.0.0.9", 80)}) }, ErrNoService, "No such service", 255},
		{"delete no service", func(d *Director) error { return d.DeleteService(tcp("10.0.0.9", 80)) }, ErrNoService, "No such service", 255},
		{"name of another in an edit", func(d *Director) error {
			return errors.Join(d.AddService(ServiceSpec{Key: tcp("10.0.0.3", 1)}), d.EditService(ServiceSpec{Key: tcp("10.0.0.3", 1), Name: "www"}))
		}, ErrName, "", 2},
		{"server of no service", func(d *Director) error { return d.AddReal(tcp("10.0.0.9", 80), RealSpec{}) }, ErrServiceUnknown, "Service not defined", 255},
		{"delete of no service", func(d *Director) error { return d.DeleteReal(tcp("10.0.0.9", 80), RealKey{}) }, ErrServiceUnknown, "Service not defined", 255},
		{"server twice", server(RealSpec{Key: RealKey{ip("10.1.0.1"), 8080}}), ErrRealExists, "Destination already exists", 255},
		{"edit no server", func(d *Director) error { return d.EditReal(www, RealSpec{Key: at("10.1.0.9")}) }, ErrNoReal, "No such destination", 255},
		{"delete no server", func(d *Director) error { return d.DeleteReal(www, at("10.1.0.9")) }, ErrNoReal, "No such destination", 255},
		{"weight", server(RealSpec{Key: at("10.1.0.9"), Weight: -1}), ErrWeight, "illegal weight specified", 2},
		{"thresholds", server(RealSpec{Key: at("10.1.0.9"), Upper: 5, Lower: 9}), ErrRange, "Numerical result out of range", 255},
		{"thresholds before the address", server(RealSpec{Key: at("224.0.0.1"), Upper: 5, Lower: 9}), ErrRange, "", 255},
		{"thresholds before the server's being there", server(RealSpec{Key: RealKey{ip("10.1.0.1"), 8080}, Lower: 9}), ErrRange, "", 255},
		{"thresholds before no server", func(d *Director) error { return d.EditReal(www, RealSpec{Key: at("10.1.0.9"), Lower: 9}) }, ErrRange, "", 255},
		{"no server before its address", func(d *Director) error { return d.EditReal(www, RealSpec{Key: at("224.0.0.1")}) }, ErrNoReal, "", 255},
		{"no service before the scheduler", func(d *Director) error {
			return d.EditService(ServiceSpec{Key: tcp("10.0.0.9", 80), Scheduler: "bogus"})
		}, ErrNoService, "", 255},
		{"service twice before the scheduler", func(d *Director) error { return d.AddService(ServiceSpec{Key: www, Scheduler: "bogus"}) }, ErrServiceExists, "", 255},
		{"no address", server(RealSpec{}), ErrInvalid, "", 255},
		{"multicast server of a spec", one(func(s *ServiceSpec) { s.Servers = servers("224.0.0.1:80") }), ErrInvalid, "", 255},
		{"multicast server", server(RealSpec{Key: at("224.0.0.1")}), ErrInvalid, "Invalid operation.  Possibly wrong module version, address not unicast, ...", 255},
		{"broadcast server", server(RealSpec{Key: at("255.255.255.255")}), ErrInvalid, "", 255},
		{"link-local server", server(RealSpec{Key: at("fe80::1"), Forward: TUN}), ErrInvalid, "", 255},
		{"mixed families by NAT", server(RealSpec{Key: at("2001:db8::1")}), ErrFamily, "Different address family is allowed only for tunneling servers", 2},
		{"mixed families by DR", server(RealSpec{Key: at("2001:db8::1"), Forward: DR}), ErrFamily, "", 2},
		{"method", server(RealSpec{Key: at("10.1.0.9"), Forward: Bypass}), ErrInvalid, "", 255},
		{"gue without port", server(RealSpec{Key: at("10.1.0.9"), Forward: TUN, Tunnel: Tunnel{Type: GUE}}), ErrTunnelPort, "You need to supply the 'tun-port' option for the 'gue' tunnel type", 2},
		{"ipip with port", server(RealSpec{Key: at("10.1.0.9"), Forward: TUN, Tunnel: Tunnel{Port: 1}}), nil, "Illegal 'tun-port' option with the 'ipip' tunnel type", 2},
		{"ipip with checksum", server(RealSpec{Key: at("10.1.0.9"), Forward: TUN, Tunnel: Tunnel{Checksum: Checksum}}), nil, "Illegal 'tun-csum' option with the 'ipip' tunnel type", 2},
		{"gre with remcsum", server(RealSpec{Key: at("10.1.0.9"), Forward: TUN, Tunnel: Tunnel{Type: GRE, Checksum: ChecksumRemote}}), nil, "Illegal 'tun-remcsum' option with the 'gre' tunnel type", 2},
		{"tunnel type", server(RealSpec{Key: at("10.1.0.9"), Forward: TUN, Tunnel: Tunnel{Type: 3}}), ErrInvalid, "", 255},
		{"scheduler flag", one(func(s *ServiceSpec) { s.SchedulerFlags = []string{"x"} }), nil, "invalid scheduler flag `x'", 2},
		{"mark rule 0", func(d *Director) error { _, err := d.Apply(Spec{Marks: []MarkRule{{}}}); return err }, ErrMarkRule, "", 2},
		{"mark rule ports", func(d *Director) error {
			_, err := d.Apply(Spec{Marks: []MarkRule{{Mark: 1, PortLow: 2, PortHigh: 1}}})
			return err
		}, ErrMarkRule, "", 2},
		{"mark rule families", func(d *Director) error {
			_, err := d.Apply(Spec{Marks: []MarkRule{{Mark: 1, Source: netip.MustParsePrefix("10.0.0.0/8"), Destination: netip.MustParsePrefix("::/0")}}})
			return err
		}, ErrMarkRule, "", 2},
		{"mark rule in IPv6 form", func(d *Director) error {
			_, err := d.Apply(Spec{Marks: []MarkRule{{Mark: 1, Source: netip.MustParsePrefix("::ffff:10.0.0.0/104")}}})
			return err
		}, ErrMarkRule, "", 2},
		{"timeout", func(d *Director) error { _, err := d.Apply(Spec{Timeouts: Timeouts{TCP: -1}}); return err }, ErrRange, "", 255},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := NewDirector(1)
			must(t, d.AddService(wwwSpec()))
			was := d.Spec().Services[0]
			err := tt.do(d)
			if err == nil {
				t.Fatal("no error")
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %q, want %q", err, tt.is)
			}
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %q, want %q in it", err, tt.text)
			}
			exit := 2
			if refusal := (*Error)(nil); errors.As(err, &refusal) {
				exit = refusal.ExitCode()
			}
			if exit != tt.exit {
				t.Errorf("error %q exits with %d, want %d", err, exit, tt.exit)
			}
			if now := d.Spec().Services[0]; !reflect.DeepEqual(now, was) {
				t.Errorf("a refusal changed %+v to %+v", was, now)
			}
		})
	}
	if ErrNoService.Errno != syscall.ESRCH || ErrNoReal.Errno != syscall.ENOENT {
		t.Error("errno of K-CTL-3")
	}
}

func thousands(n int) []RealSpec {
	all := make([]RealSpec, n)
	for i := range all {
		all[i] = RealSpec{Key: RealKey{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 80}, Weight: 1}
	}
	return all
}

// TestApplyWhole: a spec with errors reports each of them and changes nothing.
func TestApplyWhole(t *testing.T) {
	d := NewDirector(1)
	apply(t, d, wwwSpec())
	was := d.Current()
	_, err := d.Apply(Spec{Services: []ServiceSpec{
		{Key: tcp("10.0.0.5", 80), Servers: servers("10.1.0.1:80")},
		{Key: tcp("10.0.0.6", 80), Scheduler: "bogus", Servers: []RealSpec{{Key: RealKey{ip("10.1.0.1"), 80}, Weight: -1}}},
		{Key: tcp("10.0.0.5", 80), Name: "again"},
		{Key: tcp("10.0.0.7", 80), Name: "again"},
	}, Timeouts: Timeouts{UDP: -1}})
	for _, want := range []error{ErrScheduler, ErrWeight, ErrServiceExists, ErrName, ErrRange} {
		if !errors.Is(err, want) {
			t.Errorf("error %q does not hold %q", err, want)
		}
	}
	if d.Current() != was {
		t.Error("a refused spec was published")
	}
}

// TestUnchangedServicesAreShared: who did not change is the same pointer, so
// that workers leave its scheduler alone.
func TestUnchangedServicesAreShared(t *testing.T) {
	d := NewDirector(1)
	dns := ServiceSpec{Key: ServiceKey{Proto: ProtoUDP, Addr: ip("10.0.0.1"), Port: 53}, Servers: servers("10.1.0.1:53")}
	apply(t, d, wwwSpec(), dns)
	a := d.Current()
	must(t, d.AddReal(www, servers("10.1.0.4:8080")[0]))
	b := d.Current()
	if b.Services[1] != a.Services[1] || b.Services[0] == a.Services[0] {
		t.Error("a new server made other services new, or not its own")
	}
	if len(a.Services[0].Dests) != 3 || len(b.Services[0].Dests) != 4 {
		t.Error("the old snapshot changed, or the new one did not")
	}
	s := wwwSpec()
	s.Name = "web"
	must(t, d.EditService(s))
	s.Name = ""
	s.OnePacket = false
	must(t, d.EditService(s)) // without a name it keeps its own
	c := d.Published().Load()
	if c.Services[0] == b.Services[0] || &c.Services[0].Dests[0] != &b.Services[0].Dests[0] {
		t.Error("an edit of the service alone must keep the slice of its servers")
	}
	if c.Services[0].Name != "web" || b.Services[0].Name != "www" {
		t.Error("names")
	}
	must(t, d.EditService(ServiceSpec{Key: www, Scheduler: "rr"}))
	if d.Current() != c {
		t.Error("an edit that changes nothing was published")
	}
}

// TestSlots: a slot goes to another service, the one free for longest first,
// and its counters are cleared when a worker adopts that.
func TestSlots(t *testing.T) {
	d := NewDirector(2)
	key := func(i int) ServiceKey { return tcp("10.0.0.1", uint16(i)) }
	apply(t, d, ServiceSpec{Key: key(1)}, ServiceSpec{Key: key(2)}, ServiceSpec{Key: key(3)})
	first := d.Current()
	rows := first.Adopt(1, nil)
	for slot := range uint32(3) {
		rows.Service(slot).InPackets = 5
	}
	must(t, d.DeleteService(key(2)))
	must(t, d.DeleteService(key(1)))
	if s := d.Current(); s.Services[0] != nil || s.Services[1] != nil || s.Services[2] == nil {
		t.Error("slots of removed services must be empty")
	}
	must(t, d.AddService(ServiceSpec{Key: key(4)}))
	s := d.Current()
	if s.Services[1] == nil || s.Services[1].Key != key(4) {
		t.Fatal("the slot that was free for longest comes first")
	}
	rows = s.Adopt(1, first)
	for slot, want := range []uint64{5, 0, 5} {
		if got := rows.Service(uint32(slot)).InPackets; got != want {
			t.Errorf("slot %d counts %d, want %d", slot, got, want)
		}
	}
	rows.Service(1).InPackets = 9
	must(t, d.EditService(ServiceSpec{Key: key(4), Scheduler: "rr"}))
	if n := d.Current().Adopt(1, s).Service(1).InPackets; n != 9 {
		t.Errorf("an edit cleared the counters: %d", n)
	}
	if n := d.Current().Adopt(1, first).Service(1).InPackets; n != 0 {
		t.Errorf("a worker that skipped a generation keeps %d of the slot's old service", n)
	}
}

// TestLastWeight is K-DST-5: weight 0 is not remembered.
func TestLastWeight(t *testing.T) {
	d := NewDirector(1)
	spec := wwwSpec()
	apply(t, d, spec)
	for _, step := range []struct{ weight, last int32 }{{5, 5}, {0, 5}, {2, 2}, {0, 2}} {
		spec.Servers[0].Weight = step.weight
		apply(t, d, spec)
		dests := d.Current().Services[0].Dests
		if got := dests[2]; got.Weight != step.weight || got.LastWeight != step.last {
			t.Errorf("weight %d, last %d, want %+v", got.Weight, got.LastWeight, step)
		}
	}
}

// TestSchedulerSwap is K-SVC-7: the new scheduler is bound to the servers there
// are; wrr then begins at the highest level, and not as if they came one by one.
func TestSchedulerSwap(t *testing.T) {
	d := NewDirector(1)
	spec := wwwSpec()
	for i := range spec.Servers {
		spec.Servers[i].Weight = int32(i + 1)
	}
	picks := func() string {
		svc := d.Current().Services[0]
		s, err := sched.New(svc.Scheduler, svc.Flags)
		must(t, err)
		s.Adopt(svc.Dests, svc.Plan)
		var b strings.Builder
		for range 9 {
			fmt.Fprint(&b, svc.Dests[s.Pick(&sched.Query{}, loadsOf(d.Current()))].Weight)
		}
		return b.String()
	}
	spec.Scheduler = "wrr"
	apply(t, d, spec)
	if got, want := picks(), "321332321"; got != want {
		t.Errorf("servers added to wrr: %s, want %s", got, want)
	}
	spec.Scheduler = "rr"
	must(t, d.EditService(spec))
	spec.Scheduler = "wrr"
	must(t, d.EditService(spec))
	if got, want := picks(), "332321332"; got != want {
		t.Errorf("wrr bound to servers: %s, want %s", got, want)
	}
}

func TestFlush(t *testing.T) {
	d := NewDirector(1)
	apply(t, d, wwwSpec(), ServiceSpec{Key: tcp("10.0.0.2", 80)})
	d.Flush()
	if s := d.Spec(); len(s.Services) != 0 {
		t.Errorf("services are left: %+v", s.Services)
	}
	for _, r := range d.Current().Reals {
		if r.Available || r.Service != NoService {
			t.Errorf("server %s is left: %+v", r.Addr, r)
		}
	}
	if n := len(d.Removed()); n != 3 {
		t.Errorf("%d servers in the trash, want 3", n)
	}
	was := d.Current()
	d.Flush()
	if d.Current() != was {
		t.Error("flushing nothing was published")
	}
}

// TestConcurrentUse: methods from many goroutines, snapshots read meanwhile.
func TestConcurrentUse(t *testing.T) {
	d := NewDirector(2)
	apply(t, d, wwwSpec())
	var wait sync.WaitGroup
	for g := range 4 {
		wait.Go(func() {
			key := tcp("10.0.1.1", uint16(g+1))
			for i := range 50 {
				r := servers(fmt.Sprintf("10.2.%d.%d:80", g, i+1))[0]
				if err := errors.Join(d.AddService(ServiceSpec{Key: key}), d.AddReal(key, r), d.DeleteService(key)); err != nil {
					t.Error(err)
				}
				d.Collect(time.Duration(i)*time.Hour, nil)
			}
		})
	}
	wait.Go(func() {
		var old *Snapshot
		for range 500 {
			s := d.Current()
			rows := s.Adopt(0, old)
			old = s
			if svc := s.Find(ProtoTCP, addr("10.0.0.1"), 80, 0); svc == nil || svc.Name != "www" {
				t.Error("www is gone")
			}
			for id := range s.Reals {
				rows.Real(uint32(id)).Refs.Add(1)
				s.bound(uint32(id))
				s.Load(uint32(id))
				rows.Real(uint32(id)).InPackets++
				rows.Real(uint32(id)).Refs.Add(-1)
			}
		}
	})
	wait.Wait()
	if got := slices.Collect(keys(d.Spec())); !slices.Equal(got, []ServiceKey{www}) {
		t.Errorf("services %v", got)
	}
}

func keys(s Spec) func(yield func(ServiceKey) bool) {
	return func(yield func(ServiceKey) bool) {
		for i := range s.Services {
			if !yield(s.Services[i].Key) {
				return
			}
		}
	}
}
