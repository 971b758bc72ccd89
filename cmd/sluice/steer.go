package main

import (
	"fmt"
	"net"

	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/rings/xdpprog"
)

// wanted says which frames the XDP programs are to redirect, so that workers
// see every packet of s's services: requests to them, replies from their NAT
// servers, and both of what was removed while connections may live (K-SVC-8).
func wanted(s *lb.Snapshot, removed []lb.Removed, marks []lb.MarkRule) (xdpprog.Want, error) {
	var w xdpprog.Want
	real := func(proto uint8, addr flow.Addr, port uint16, forward lb.Forward) {
		protos := []uint8{proto}
		if proto == 0 { // a mark service's server speaks any protocol
			protos = []uint8{lb.ProtoTCP, lb.ProtoUDP, lb.ProtoSCTP}
		}
		for _, proto := range protos {
			w.Reals = append(w.Reals, xdpprog.RealKey{Proto: proto, Addr: addr, Port: port, NAT: forward == lb.NAT})
		}
	}
	for _, svc := range s.Services {
		if svc == nil {
			continue
		}
		if svc.Mark == 0 {
			w.Services = append(w.Services, xdpprog.ServiceKey{Proto: svc.Proto, Addr: svc.Addr, Port: svc.Port})
		}
		for _, d := range svc.Dests {
			r := &s.Reals[d.ID]
			real(svc.Proto, r.Addr, replyPort(svc.Port, r.Port), r.Forward)
		}
	}
	for _, r := range removed {
		if r.Service.Mark == 0 {
			w.Services = append(w.Services, xdpprog.ServiceKey{Proto: r.Service.Proto, Addr: flow.FromNetip(r.Service.Addr), Port: r.Service.Port})
		}
		real(r.Service.Proto, flow.FromNetip(r.Real.Addr), replyPort(r.Service.Port, r.Real.Port), r.Forward)
	}
	for i, m := range marks {
		rule := xdpprog.MarkRule{Proto: m.Proto, Source: m.Source, Destination: m.Destination, PortLow: m.PortLow, PortHigh: m.PortHigh}
		if m.Interface != "" {
			nic, err := net.InterfaceByName(m.Interface)
			if err != nil {
				return w, fmt.Errorf("marks[%d].interface %s: %w", i, m.Interface, err)
			}
			rule.Ifindex = nic.Index
		}
		w.Marks = append(w.Marks, rule)
	}
	return w, nil
}

// replyPort is the port from which a server answers: any, of a service of
// every port.
func replyPort(service, real uint16) uint16 {
	if service == 0 {
		return 0
	}
	return real
}
