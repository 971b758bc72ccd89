package lb

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// verb is what an operation does.
type verb uint8

const (
	add verb = iota
	edit
	remove
)

// op is one operation of the director on a service or, with real, on one of
// its servers, as ipvsadm has them. The specs are normal ones.
type op struct {
	verb    verb
	service *ServiceSpec
	real    *RealSpec
	fields  []Field
}

// diff returns the least operations that turn have's services into want's, in
// this order: the services to remove, each after its servers; then for each
// service that is wanted, in that order, itself, its servers to remove, to
// edit and to add. Another order of services or servers alone is no
// difference: what is there keeps its place in the list (K-DST-2).
func diff(have, want []ServiceSpec) []op {
	var ops []op
	wanted := make(map[ServiceKey]bool, len(want))
	for i := range want {
		wanted[want[i].Key] = true
	}
	there := make(map[ServiceKey]*ServiceSpec, len(have))
	for i := range have {
		svc := &have[i]
		there[svc.Key] = svc
		if !wanted[svc.Key] {
			ops = append(ops, removal(svc)...)
		}
	}
	for i := range want {
		svc := &want[i]
		if old := there[svc.Key]; old != nil {
			ops = append(ops, editing(old, svc)...)
		} else {
			ops = append(ops, addition(svc)...)
		}
	}
	return ops
}

// removal returns the operations that remove a service.
func removal(svc *ServiceSpec) []op {
	ops := make([]op, 0, len(svc.Servers)+1)
	for i := range svc.Servers {
		ops = append(ops, op{verb: remove, service: svc, real: &svc.Servers[i]})
	}
	return append(ops, op{verb: remove, service: svc})
}

// addition returns the operations that add a service.
func addition(svc *ServiceSpec) []op {
	ops := make([]op, 0, len(svc.Servers)+1)
	ops = append(ops, op{verb: add, service: svc, fields: svc.fields().added()})
	for i := range svc.Servers {
		ops = append(ops, op{verb: add, service: svc, real: &svc.Servers[i], fields: svc.Servers[i].fields().added()})
	}
	return ops
}

// editing returns the operations that turn old into svc.
func editing(old, svc *ServiceSpec) []op {
	var ops, edits, adds []op
	if f := changed(old.fields(), svc.fields()); len(f) > 0 {
		ops = append(ops, op{verb: edit, service: svc, fields: f})
	}
	if slices.Equal(old.Servers, svc.Servers) {
		return ops
	}
	there := make(map[RealKey]*RealSpec, len(old.Servers))
	for i := range old.Servers {
		there[old.Servers[i].Key] = &old.Servers[i]
	}
	for i := range svc.Servers {
		real := &svc.Servers[i]
		was := there[real.Key]
		switch {
		case was == nil:
			adds = append(adds, op{verb: add, service: svc, real: real, fields: real.fields().added()})
		case *was != *real:
			edits = append(edits, op{verb: edit, service: svc, real: real, fields: changed(was.fields(), real.fields())})
		}
		delete(there, real.Key)
	}
	for i := range old.Servers {
		if real := &old.Servers[i]; there[real.Key] != nil {
			ops = append(ops, op{verb: remove, service: svc, real: real})
		}
	}
	return append(append(ops, edits...), adds...)
}

// values are named values of a service or server, always in the same order.
type values []struct{ name, value, usual string }

// added returns the values that are worth telling of something new.
func (v values) added() []Field {
	var f []Field
	for _, x := range v {
		if x.value != x.usual {
			f = append(f, Field{Name: x.name, New: x.value})
		}
	}
	return f
}

// changed returns the values in which two of a kind differ.
func changed(old, now values) []Field {
	var f []Field
	for i, x := range now {
		if x.value != old[i].value {
			f = append(f, Field{x.name, old[i].value, x.value})
		}
	}
	return f
}

const none = "none"

func (s *ServiceSpec) fields() values {
	flags, persistence := none, none
	if len(s.SchedulerFlags) > 0 {
		flags = strings.Join(s.SchedulerFlags, ",")
	}
	if p := s.Persistence; p != nil {
		persistence = fmt.Sprintf("%v/%d", p.Timeout, p.Prefix)
		if p.Mask.IsValid() {
			persistence = fmt.Sprintf("%v/%s", p.Timeout, p.Mask)
		}
		if p.Engine != "" {
			persistence += " " + p.Engine
		}
	}
	return values{
		{"name", s.Name, s.Name},
		{"scheduler", s.Scheduler, ""},
		{"scheduler_flags", flags, none},
		{"persistence", persistence, none},
		{"one_packet", strconv.FormatBool(s.OnePacket), "false"},
		{"mss", s.MSS.String(), "off"},
	}
}

func (r *RealSpec) fields() values {
	tunnel := none
	if r.Forward == TUN {
		tunnel = r.Tunnel.String()
	}
	return values{
		{"weight", strconv.Itoa(int(r.Weight)), ""},
		{"forward", r.Forward.String(), ""},
		{"tunnel", tunnel, none},
		{"upper_threshold", strconv.FormatUint(uint64(r.Upper), 10), "0"},
		{"lower_threshold", strconv.FormatUint(uint64(r.Lower), 10), "0"},
	}
}

// nodeFields returns the values that concern the whole node.
func (s *Spec) nodeFields() values {
	v := values{
		{"tcp timeout", s.Timeouts.TCP.String(), ""},
		{"tcp_fin timeout", s.Timeouts.TCPFin.String(), ""},
		{"udp timeout", s.Timeouts.UDP.String(), ""},
		{"marks", fmt.Sprintf("%d rules", len(s.Marks)), ""},
	}
	sysctl := reflect.ValueOf(s.Sysctl)
	for i := range sysctl.NumField() {
		name := sysctl.Type().Field(i).Tag.Get("json")
		v = append(v, values{{name, fmt.Sprint(sysctl.Field(i)), ""}}...)
	}
	return v
}
