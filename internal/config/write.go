package config

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"strconv"
	"strings"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/slowpath"
)

// Write writes c as a configuration file that loads as c again. The services
// section comes from services, which writes it whole.
func Write(w io.Writer, c *Config, services func(io.Writer, []lb.ServiceSpec) error) error {
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("node: %q\n\n", c.Node)
	writeList(&b, "interfaces", c.Interfaces, func(i Interface) string {
		queues := ""
		if i.Queues != nil {
			queues = ", queues: " + numbers(i.Queues)
		}
		return fmt.Sprintf("{name: %q, role: %s, mode: %s%s, ring_size: %d}", i.Name, i.Role, i.Mode, queues, i.RingSize)
	})
	k, cpus := &c.Workers, "auto"
	if k.CPUs != nil {
		cpus = numbers(k.CPUs)
	}
	p("workers:\n  cpus: %s\n  batch: %d\n  idle: %s\n  idle_spin: %s\n", cpus, k.Batch, k.Idle, k.IdleSpin)
	p("  umem_frames: %d\n  frame_size: %d\n  huge_pages: %s\n\n", k.UMEMFrames, k.FrameSize, k.HugePages)
	t := c.Spec.Timeouts
	p("connections:\n  max: %d\n  timeouts: {tcp: %s, tcp_fin: %s, udp: %s}\n\n", c.Connections.Max, t.TCP, t.TCPFin, t.UDP)
	writeSysctl(&b, &c.Spec.Sysctl)
	if len(c.FTPPorts) > 0 {
		p("helpers:\n  ftp: {ports: %s}\n\n", numbers(c.FTPPorts))
	}
	writeSlowPath(&b, &c.SlowPath)
	writeList(&b, "marks", c.Spec.Marks, markLine)
	if err := services(&b, c.Spec.Services); err != nil {
		return err
	}
	writeNetwork(&b, &c.Network)
	p("control:\n  socket: %q\n  listen: %q\nlog: {level: %s, format: %s}\n", c.Control.Socket, c.Control.Listen, c.Log.Level, c.Log.Format)
	_, err := w.Write(b.Bytes())
	return err
}

// writeList writes a section of one line an item; nothing if there is none.
func writeList[T any](b *bytes.Buffer, name string, items []T, line func(T) string) {
	if len(items) == 0 {
		return
	}
	fmt.Fprintf(b, "%s:\n", name)
	for _, i := range items {
		fmt.Fprintf(b, "  - %s\n", line(i))
	}
	b.WriteByte('\n')
}

// numbers is a list in flow style.
func numbers[T int | uint16](list []T) string {
	var out []string
	for _, n := range list {
		out = append(out, strconv.Itoa(int(n)))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// writeSysctl writes the tunables that are not at their defaults.
func writeSysctl(b *bytes.Buffer, s *lb.Sysctl) {
	defaults := lb.DefaultSysctl()
	is, was := reflect.ValueOf(*s), reflect.ValueOf(defaults)
	title := "sysctl:\n"
	for i := range is.NumField() {
		if is.Field(i).Equal(was.Field(i)) {
			continue
		}
		text := fmt.Sprint(is.Field(i).Interface())
		if is.Field(i).Kind() == reflect.Array {
			text = strings.ReplaceAll(text, " ", ", ")
		}
		fmt.Fprintf(b, "%s  %s: %s\n", title, is.Type().Field(i).Tag.Get("json"), text)
		title = ""
	}
	if title == "" {
		b.WriteByte('\n')
	}
}

// writeSlowPath writes the budgets and the limits of ICMP errors.
func writeSlowPath(b *bytes.Buffer, s *SlowPath) {
	b.WriteString("slowpath:\n")
	for class, x := range s.Budgets() {
		fmt.Fprintf(b, "  %s: {ring: %d, rate: %d, burst: %d}\n", slowpath.Class(class), x.Ring, x.Rate, x.Burst)
	}
	fmt.Fprintf(b, "  reassembly: {memory: %d, share: %d, timeout: %s, timeout6: %s}\n", s.Reassembly.Memory, s.Reassembly.Share, s.Reassembly.Timeout, s.Reassembly.Timeout6)
	fmt.Fprintf(b, "  helpers: {rate: %d, burst: %d}\n", s.Helpers.Rate, s.Helpers.Burst)
	e := &s.Errors
	fmt.Fprintf(b, "  errors: {ratelimit: %s, ratemask: %d, msgs_per_sec: %d, msgs_burst: %d, ratelimit6: %s, ratemask6: %q}\n\n",
		e.Ratelimit, e.Ratemask, e.MsgsPerSec, e.MsgsBurst, e.Ratelimit6, e.Ratemask6)
}

// markLine is a rule with the fields that it sets.
func markLine(m lb.MarkRule) string {
	out := fmt.Sprintf("{mark: %d", m.Mark)
	add := func(set bool, format string, value any) {
		if set {
			out += fmt.Sprintf(", "+format, value)
		}
	}
	add(m.Interface != "", "interface: %q", m.Interface)
	add(m.Proto != 0, "protocol: %s", lb.ProtoName(m.Proto))
	add(m.Source.IsValid(), "source: %q", m.Source)
	add(m.Destination.IsValid(), "destination: %q", m.Destination)
	add(m.PortLow != 0 || m.PortHigh != 0, "ports: %s", fmt.Sprintf("%d-%d", m.PortLow, m.PortHigh))
	return out + "}"
}

// writeNetwork writes what the file says of links, routes and neighbours.
func writeNetwork(b *bytes.Buffer, n *Network) {
	if len(n.Interfaces)+len(n.Routes)+len(n.Neighbors) == 0 {
		return
	}
	b.WriteString("network:\n")
	var part bytes.Buffer
	writeList(&part, "interfaces", n.Interfaces, func(i NetworkInterface) string {
		out := fmt.Sprintf("{name: %q", i.Name)
		if i.MAC != (MAC{}) {
			out += fmt.Sprintf(", mac: %q", i.MAC)
		}
		if i.MTU != 0 {
			out += fmt.Sprintf(", mtu: %d", i.MTU)
		}
		if i.Addresses != nil {
			out += ", addresses: " + prefixes(i.Addresses)
		}
		if i.VLANProtocol == packet.EtherQinQ {
			out += ", vlan_protocol: 802.1ad"
		} else if i.VLANProtocol != 0 {
			out += ", vlan_protocol: 802.1q"
		}
		return out + "}"
	})
	writeList(&part, "routes", n.Routes, func(r Route) string { return fmt.Sprintf("{to: %q, via: %q}", r.To, r.Via) })
	writeList(&part, "neighbors", n.Neighbors, func(r Neighbor) string {
		return fmt.Sprintf("{address: %q, mac: %q, interface: %q}", r.Address, r.MAC, r.Interface)
	})
	for line := range strings.Lines(part.String()) {
		if line != "\n" {
			b.WriteString("  " + line)
		}
	}
	b.WriteByte('\n')
}

// prefixes is a list in flow style.
func prefixes(list []netip.Prefix) string {
	var out []string
	for _, p := range list {
		out = append(out, strconv.Quote(p.String()))
	}
	return "[" + strings.Join(out, ", ") + "]"
}
