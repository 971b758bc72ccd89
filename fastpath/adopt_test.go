package fastpath

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/sluice-lb/sluice/lb"
)

// manyServers is a service of n servers.
func manyServers(n int, scheduler string) lb.ServiceSpec {
	s := lb.ServiceSpec{Key: lb.ServiceKey{Proto: lb.ProtoTCP, Addr: netip.MustParseAddr(vip), Port: 80}, Scheduler: scheduler}
	for i := range n {
		addr := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		s.Servers = append(s.Servers, lb.RealSpec{Key: lb.RealKey{Addr: addr, Port: 80}, Weight: int32(1 + i%10)})
	}
	return s
}

// BenchmarkAdopt is for how long a worker does nothing else when a server of a
// service changed.
func BenchmarkAdopt(b *testing.B) {
	for _, scheduler := range []string{"mh", "rr", "lblc"} {
		for _, n := range []int{10, 1000, 4000} {
			b.Run(fmt.Sprintf("%s/servers=%d", scheduler, n), func(b *testing.B) {
				spec := manyServers(n, scheduler)
				r := newRig(b, options{}, spec)
				one := r.director.Current()
				real := spec.Servers[0]
				real.Weight = 77
				if err := r.director.EditReal(spec.Key, real); err != nil {
					b.Fatal(err)
				}
				other := r.director.Current()
				b.ReportAllocs()
				for b.Loop() {
					r.pipe.Adopt(other, r.now)
					one, other = other, one
				}
			})
		}
	}
}
