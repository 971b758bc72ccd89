package main

import (
	"fmt"
	"slices"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/rings/xdpprog"
)

// wanted says which frames the XDP programs are to redirect, so that workers
// see every packet of the services: requests to them, replies from their NAT
// servers, and both of what was removed while connections may live (K-SVC-8);
// and echo requests to services whose address the host does not own. Of TCP
// services of the ports in ftp it is every port, for what these announce; of port
// 21 as well, for a persistent service takes data connections too (K-SVC-1).
func wanted(services []lb.ServiceSpec, removed []lb.Removed, marks []lb.MarkRule, table *nexthop.Table, ftp []uint16) (xdpprog.Want, error) {
	var w xdpprog.Want
	announces := func(k *lb.ServiceKey) bool {
		return k.Proto == lb.ProtoTCP && (k.Port == ftpPort || slices.Contains(ftp, k.Port))
	}
	service := func(k *lb.ServiceKey) {
		if k.Mark == 0 {
			w.Services = append(w.Services, xdpprog.ServiceKey{Proto: k.Proto, Addr: flow.FromNetip(k.Addr), Port: k.Port})
			if announces(k) {
				w.Services = append(w.Services, xdpprog.ServiceKey{Proto: k.Proto, Addr: flow.FromNetip(k.Addr)})
			}
			if keysIPsec(k) {
				w.IPsec = append(w.IPsec, flow.FromNetip(k.Addr))
			}
		}
	}
	real := func(of *lb.ServiceKey, k lb.RealKey, forward lb.Forward, tunnel lb.Tunnel) {
		addr := flow.FromNetip(k.Addr)
		switch forward {
		case lb.TUN:
			w.Tunnels = append(w.Tunnels, xdpprog.TunnelKey{Addr: addr, Port: tunnel.Port})
		case lb.NAT:
			port := replyPort(of.Port, k.Port)
			if announces(of) {
				port = 0
			}
			for _, proto := range spoken(of) {
				w.Reals = append(w.Reals, xdpprog.RealKey{Proto: proto, Addr: addr, Port: port})
			}
			if keysIPsec(of) {
				w.IPsec = append(w.IPsec, addr)
			}
		}
	}
	for i := range services {
		s := &services[i]
		service(&s.Key)
		if a := flow.FromNetip(s.Key.Addr); s.Key.Mark == 0 && !table.IsLocal(&a) {
			w.Echo = append(w.Echo, a)
		}
		for _, r := range s.Servers {
			real(&s.Key, r.Key, r.Forward, r.Tunnel)
		}
	}
	for i := range removed {
		r := &removed[i]
		service(&r.Service)
		real(&r.Service, r.Real, r.Forward, r.Tunnel)
	}
	for i, m := range marks {
		rule := xdpprog.MarkRule{Proto: m.Proto, Source: m.Source, Destination: m.Destination, PortLow: m.PortLow, PortHigh: m.PortHigh}
		indexes := []int{0}
		if m.Interface != "" {
			if indexes = carriers(table, m.Interface); indexes == nil {
				return w, fmt.Errorf("marks[%d].interface %s: there is no such interface", i, m.Interface)
			}
		}
		for _, rule.Ifindex = range indexes {
			w.Marks = append(w.Marks, rule)
		}
	}
	return w, nil
}

// carriers are the kernel indexes of the NICs that frames of an interface come in by: its
// own, or those of a bond's members. nil: there is no such interface.
func carriers(table *nexthop.Table, name string) (indexes []int) {
	for i := range table.Interfaces {
		f := &table.Interfaces[i]
		if f.Name != name || f.Index == 0 {
			continue
		}
		indexes = append(indexes, f.Index)
		for _, m := range f.Members {
			indexes = append(indexes, m.Index)
		}
	}
	return indexes
}

// spoken are the protocols that a service's servers speak: those of a mark
// service any.
func spoken(k *lb.ServiceKey) []uint8 {
	if k.Mark != 0 {
		return []uint8{lb.ProtoTCP, lb.ProtoUDP, lb.ProtoSCTP}
	}
	return []uint8{k.Proto}
}

// ftpPort is FTP's, whose services IPVS knows by it.
const ftpPort = 21

// keysIPsec says whether a service takes ISAKMP, whose connections AH and ESP
// follow (K-PROTO-AH/ESP).
func keysIPsec(k *lb.ServiceKey) bool {
	const isakmp = 500
	return k.Mark == 0 && k.Proto == lb.ProtoUDP && (k.Port == isakmp || k.Port == 0)
}

// replyPort is the port from which a server answers: any, of a service of
// every port; the service's, if its own is not said.
func replyPort(service, real uint16) uint16 {
	if service == 0 || real == 0 {
		return service
	}
	return real
}
