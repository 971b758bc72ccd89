package lb

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-lb/sluice/lb/flow"
)

// TestFind is K-SVC-1: mark, exact, FTP, port 0.
func TestFind(t *testing.T) {
	d := NewDirector(1)
	forever := &Persistence{Timeout: time.Minute}
	apply(t, d,
		ServiceSpec{Name: "mark", Key: ServiceKey{Mark: 7}},
		ServiceSpec{Name: "mark6", Key: ServiceKey{Mark: 7, V6: true}},
		ServiceSpec{Name: "http", Key: tcp("10.0.0.1", 80)},
		ServiceSpec{Name: "ftp", Key: tcp("10.0.0.1", 21)},
		ServiceSpec{Name: "any", Key: tcp("10.0.0.1", 0), Persistence: forever},
		ServiceSpec{Name: "udp", Key: ServiceKey{Proto: ProtoUDP, Addr: ip("10.0.0.1"), Port: 80}},
		ServiceSpec{Name: "ftp2", Key: tcp("10.0.0.2", 21)},
		ServiceSpec{Name: "http6", Key: tcp("2001:db8::1", 80)},
	)
	s := d.Current()
	for _, tt := range []struct {
		proto uint8
		addr  string
		port  uint16
		mark  uint32
		want  string
		why   string
	}{
		{ProtoTCP, "10.0.0.1", 80, 7, "mark", "the mark comes first"},
		{ProtoUDP, "10.0.0.9", 99, 7, "mark", "of any protocol, address and port"},
		{ProtoTCP, "2001:db8::1", 80, 7, "mark6", "by family"},
		{ProtoTCP, "10.0.0.1", 80, 8, "http", "a mark without service is none"},
		{ProtoTCP, "10.0.0.1", 80, 0, "http", "exact"},
		{ProtoUDP, "10.0.0.1", 80, 0, "udp", "by protocol"},
		{ProtoUDP, "10.0.0.1", 81, 0, "", "port 0 of TCP is not UDP's"},
		{ProtoTCP, "10.0.0.1", 20, 0, "ftp", "FTP data"},
		{ProtoTCP, "10.0.0.1", 1024, 0, "ftp", "passive FTP"},
		{ProtoTCP, "10.0.0.1", 1023, 0, "any", "privileged ports are not FTP's"},
		{ProtoTCP, "10.0.0.2", 65535, 0, "ftp2", "each address its own"},
		{ProtoTCP, "10.0.0.2", 80, 0, "", "no port 0 there"},
		{ProtoTCP, "2001:db8::1", 80, 0, "http6", "IPv6"},
		{ProtoTCP, "2001:db8::1", 2000, 0, "", "no FTP there"},
		{ProtoSCTP, "10.0.0.1", 80, 0, "", "SCTP has none"},
	} {
		got := ""
		if svc := s.Find(tt.proto, addr(tt.addr), tt.port, tt.mark); svc != nil {
			got = svc.Name
		}
		if got != tt.want {
			t.Errorf("proto %d to %s port %d, mark %d: %q, want %q (%s)", tt.proto, tt.addr, tt.port, tt.mark, got, tt.want, tt.why)
		}
	}
	for a, want := range map[string]bool{"10.0.0.1": true, "10.0.0.2": true, "2001:db8::1": true, "10.0.0.3": false, "::": false} {
		if s.IsVIP(addr(a)) != want {
			t.Errorf("IsVIP(%s) = %v", a, !want)
		}
	}
}

func isNATReal(s *Snapshot, proto uint8, addr *flow.Addr, port uint16) bool {
	_, ok := s.FindNATReal(proto, addr, port)
	return ok
}

// TestNATRealOfSeveral: of a server of several services the one counts that was added last,
// again for one that came back. As the kernel answers [conn-out-two-services].
func TestNATRealOfSeveral(t *testing.T) {
	d := NewDirector(1)
	first, second, marked := wwwSpec(), wwwSpec(), ServiceSpec{Key: ServiceKey{Mark: 1}, Servers: servers("10.1.0.1:8080")}
	first.Servers, second.Servers = servers("10.1.0.1:8080"), servers("10.1.0.1:8080")
	second.Name, second.Key.Port = "other", 81
	apply(t, d, first, second, marked)
	check := func(when string, want ServiceKey) {
		t.Helper()
		s := d.Current()
		id, ok := s.FindNATReal(ProtoTCP, addr("10.1.0.1"), 8080)
		if !ok || s.Services[s.Reals[id].Service].Key != want {
			t.Errorf("%s: server %d, %t of service %v, want %v", when, id, ok, s.Services[s.Reals[id].Service].Key, want)
		}
	}
	check("at first", marked.Key)
	key := RealKey{ip("10.1.0.1"), 8080}
	must(t, d.DeleteReal(first.Key, key))
	must(t, d.AddReal(first.Key, first.Servers[0]))
	check("one came back", first.Key)
	must(t, d.DeleteReal(marked.Key, key))
	must(t, d.DeleteReal(first.Key, key))
	check("the others went", second.Key)
}

// TestNATReal is K-DST-9 for masquerading.
func TestNATReal(t *testing.T) {
	d := NewDirector(1)
	spec := wwwSpec()
	spec.Servers = append(spec.Servers, RealSpec{Key: RealKey{ip("10.1.0.4"), 80}, Forward: DR})
	apply(t, d, spec, ServiceSpec{Key: ServiceKey{Mark: 1}, Servers: servers("10.1.0.5:53")})
	check := func(proto uint8, a string, port uint16, nat, known bool) {
		t.Helper()
		s := d.Current()
		if isNATReal(s, proto, addr(a), port) != nat || s.IsReal(addr(a)) != known {
			t.Errorf("%s port %d: NAT server %v, known %v, want %v, %v", a, port, !nat, s.IsReal(addr(a)), nat, known)
		}
	}
	check(ProtoTCP, "10.1.0.1", 8080, true, true)
	check(ProtoUDP, "10.1.0.1", 8080, false, true)
	check(ProtoTCP, "10.1.0.1", 8081, false, true)
	check(ProtoTCP, "10.1.0.4", 80, false, true)
	check(ProtoUDP, "10.1.0.5", 53, true, true)
	check(ProtoTCP, "10.1.0.5", 53, true, true)
	check(ProtoTCP, "10.1.0.6", 80, false, false)
	must(t, d.EditReal(www, RealSpec{Key: RealKey{ip("10.1.0.1"), 8080}, Upper: 5}))
	check(ProtoTCP, "10.1.0.1", 8080, true, true)
}

// TestIndexTwin holds the hash to a map, at all sizes.
func TestIndexTwin(t *testing.T) {
	type key struct {
		proto uint8
		addr  flow.Addr
		port  uint16
	}
	rapid.Check(t, func(t *rapid.T) {
		draw := rapid.Custom(func(t *rapid.T) key {
			k := key{rapid.SampledFrom([]uint8{6, 17}).Draw(t, "proto"), flow.From4([4]byte{10, 0, 0, rapid.ByteRange(0, 20).Draw(t, "host")}), rapid.Uint16Range(0, 3).Draw(t, "port")}
			if rapid.Bool().Draw(t, "v6") {
				k.addr[0] = 0x20
			}
			return k
		})
		all := rapid.SliceOfN(draw, 0, 200).Draw(t, "entries")
		x, twin := newIndex(len(all)), map[key]uint32{}
		for i, k := range all {
			x.add(k.proto, &k.addr, k.port, uint32(i))
			if _, ok := twin[k]; !ok {
				twin[k] = uint32(i)
			}
		}
		for range 50 {
			k := draw.Draw(t, "asked")
			got, ok := x.find(k.proto, &k.addr, k.port)
			want, there := twin[k]
			if ok != there || got != want {
				t.Fatalf("%+v: %d %v, want %d %v", k, got, ok, want, there)
			}
		}
	})
}

// TestIndexSpread: addresses and ports in a row must not pile up, or lookups
// would cost more the more services there are.
func TestIndexSpread(t *testing.T) {
	for _, tt := range []struct {
		name string
		key  func(i int) (flow.Addr, uint16)
	}{
		{"ports", func(i int) (flow.Addr, uint16) { return flow.From4([4]byte{10, 0, 0, 1}), uint16(i) }},
		{"hosts", func(i int) (flow.Addr, uint16) { return flow.From4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80 }},
		{"networks", func(i int) (flow.Addr, uint16) { return flow.From4([4]byte{10, byte(i >> 8), byte(i), 0}), 80 }},
		{"v6 hosts", func(i int) (flow.Addr, uint16) {
			return flow.FromNetip(netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i))), 80
		}},
		{"v6 networks", func(i int) (flow.Addr, uint16) {
			return flow.FromNetip(netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::1", i))), 80
		}},
	} {
		const n = 10000
		x := newIndex(n)
		for i := range n {
			a, port := tt.key(i)
			x.add(ProtoTCP, &a, port, uint32(i))
		}
		longest, run := 0, 0
		for i := range x.entries {
			if run++; !x.entries[i].used {
				run = 0
			}
			longest = max(longest, run)
		}
		if longest > 60 {
			t.Errorf("%s: %d entries in a row", tt.name, longest)
		}
	}
}

// TestFindCost: a lookup allocates nothing, hit or miss.
func TestFindCost(t *testing.T) {
	d := NewDirector(1)
	services := big(1000, 1, 1)
	services.Marks = []MarkRule{{Mark: 9, Destination: netip.MustParsePrefix("10.200.0.0/16")}}
	_, err := d.Apply(services)
	must(t, err)
	s := d.Current()
	hit, miss := addr("10.0.0.1"), addr("10.9.9.9")
	if n := testing.AllocsPerRun(100, func() {
		s.Find(ProtoTCP, hit, 80, 0)
		s.Find(ProtoTCP, miss, 80, s.Marks.Lookup(0, ProtoTCP, hit, miss, 80))
		s.IsVIP(miss)
		s.IsReal(hit)
		s.FindNATReal(ProtoTCP, hit, 80)
		s.bound(1)
		s.unbound(1)
		s.Load(1)
	}); n != 0 {
		t.Errorf("lookups allocate %v times, want 0", n)
	}
}

// big is a spec of many services with NAT servers; each weight is base.
func big(services, perService int, base int32) Spec {
	s := Spec{Sysctl: DefaultSysctl()}
	for i := range services {
		svc := ServiceSpec{Key: ServiceKey{Proto: ProtoTCP, Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Port: 80}, Scheduler: "wrr"}
		for j := range perService {
			svc.Servers = append(svc.Servers, RealSpec{
				Key:    RealKey{netip.AddrFrom4([4]byte{10, byte(100 + j), byte(i >> 8), byte(i)}), 8080},
				Weight: base + int32(j),
			})
		}
		s.Services = append(s.Services, svc)
	}
	return s
}

// BenchmarkFind shows that the cost of a lookup does not grow with services.
func BenchmarkFind(b *testing.B) {
	for _, n := range []int{1, 1000, 10000} {
		d := NewDirector(1)
		if _, err := d.Apply(big(n, 1, 1)); err != nil {
			b.Fatal(err)
		}
		s := d.Current()
		for _, what := range []string{"hit", "miss"} {
			b.Run(fmt.Sprintf("services=%d/%s", n, what), func(b *testing.B) {
				var addrs [1024]flow.Addr
				for i := range addrs {
					addrs[i] = flow.From4([4]byte{10, byte(b2i(what == "miss")), byte(i * 7 % n >> 8), byte(i * 7 % n)})
				}
				i := 0
				for b.Loop() {
					s.Find(ProtoTCP, &addrs[i%len(addrs)], 80, 0)
					i++
				}
			})
		}
	}
}

// BenchmarkApply is a reload of 1,000 services with 10 servers each.
func BenchmarkApply(b *testing.B) {
	const services, perService = 1000, 10
	for _, scheduler := range []string{"wrr", "mh"} {
		spec := func(changed int) Spec {
			s := big(services, perService, 1)
			for i := range s.Services {
				s.Services[i].Scheduler = scheduler
			}
			for i := range changed {
				svc := &s.Services[i*services/max(changed, 1)]
				svc.Servers[0].Weight = 50
				svc.Servers[1].Key.Port = 9090
			}
			return s
		}
		for _, tt := range []struct {
			name    string
			changed int
		}{{"nothing", 0}, {"a tenth", services / 10}, {"all", services}} {
			b.Run(fmt.Sprintf("scheduler=%s/changed=%s", scheduler, tt.name), func(b *testing.B) {
				d := NewDirector(4)
				states := []Spec{spec(0), spec(tt.changed)}
				if _, err := d.Apply(states[0]); err != nil {
					b.Fatal(err)
				}
				i := 0
				for b.Loop() {
					i++
					if _, err := d.Apply(states[i%2]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		b.Run(fmt.Sprintf("scheduler=%s/first", scheduler), func(b *testing.B) {
			s := spec(0)
			for b.Loop() {
				if _, err := NewDirector(4).Apply(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
