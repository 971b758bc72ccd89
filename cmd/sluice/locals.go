package main

import (
	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/rings/xdpprog"
)

// locals are where servers that are the director itself answer from, by NAT
// from their own address, by DR and TUN from the service's. A mark service has
// no address: its DR and TUN servers' answers are left alone.
func locals(services []lb.ServiceSpec, removed []lb.Removed, t *nexthop.Table) (out []xdpprog.Local) {
	server := func(of *lb.ServiceKey, k lb.RealKey, forward lb.Forward) {
		addr, port := flow.FromNetip(k.Addr), replyPort(of.Port, k.Port)
		switch {
		case k.Addr.IsLoopback() && forward == lb.NAT: // serves nobody (K-PATH-9)
			return
		case !k.Addr.IsLoopback() && t.Lookup(&addr).State != nexthop.Local:
			return
		case forward != lb.NAT && of.Mark != 0:
			return
		case forward != lb.NAT:
			addr, port = flow.FromNetip(of.Addr), of.Port
		}
		for _, proto := range spoken(of) {
			out = append(out, xdpprog.Local{Proto: proto, Addr: addr, Port: port})
		}
	}
	for i := range services {
		for _, r := range services[i].Servers {
			server(&services[i].Key, r.Key, r.Forward)
		}
	}
	for i := range removed {
		server(&removed[i].Service, removed[i].Real, removed[i].Forward)
	}
	return out
}
