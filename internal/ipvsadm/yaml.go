package ipvsadm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"strings"

	"github.com/sluice-lb/sluice/lb"
)

// WriteServices writes services, with every default filled in, as the
// services section of a configuration file. To load it gives the same
// services.
func WriteServices(w io.Writer, services []lb.ServiceSpec) error {
	var b bytes.Buffer
	if len(services) == 0 {
		b.WriteString("services: []\n")
	} else {
		b.WriteString("services:\n")
	}
	for i := range services {
		writeService(&b, &services[i])
	}
	_, err := w.Write(b.Bytes())
	return err
}

func writeService(b *bytes.Buffer, s *lb.ServiceSpec) {
	indent := "  - "
	line := func(key, format string, args ...any) {
		fmt.Fprintf(b, "%s%s: %s\n", indent, key, fmt.Sprintf(format, args...))
		indent = "    "
	}
	if s.Name != "" && s.Name != s.Key.DefaultName() {
		line("name", "%s", scalar(s.Name))
	}
	if k := &s.Key; k.Mark != 0 {
		line("fwmark", "%d", k.Mark)
		if k.V6 {
			line("family", "ipv6")
		}
	} else {
		line("protocol", "%s", lb.ProtoName(k.Proto))
		line("address", "%s", address(k.Addr))
		line("port", "%d", k.Port)
	}
	line("scheduler", "%s", s.Scheduler)
	if len(s.SchedulerFlags) > 0 {
		line("scheduler_flags", "[%s]", strings.Join(s.SchedulerFlags, ", "))
	}
	if p := s.Persistence; p != nil {
		fields := []string{fmt.Sprintf("timeout: %ds", int(p.Timeout.Seconds()))}
		if p.Mask.IsValid() {
			fields = append(fields, fmt.Sprintf("netmask: %s", p.Mask))
		} else if mask(p, s.Key.Is6()) != "" {
			fields = append(fields, fmt.Sprintf("netmask: %d", p.Prefix))
		}
		if p.Engine != "" {
			fields = append(fields, "engine: "+scalar(p.Engine))
		}
		line("persistence", "{%s}", strings.Join(fields, ", "))
	}
	if s.OnePacket {
		line("one_packet", "true")
	}
	if s.MSS != 0 {
		line("mss", "%v", s.MSS)
	}
	if len(s.Servers) == 0 {
		line("servers", "[]")
		return
	}
	usual := s.Servers[0]
	line("forward", "%s", usual.Forward)
	if usual.Tunnel != (lb.Tunnel{}) {
		line("tunnel", "%s", tunnel(usual.Tunnel))
	}
	fmt.Fprintf(b, "%sservers:\n", indent)
	for i := range s.Servers {
		fmt.Fprintf(b, "      - {%s}\n", strings.Join(serverFields(&s.Servers[i], &usual, s.Key.Port), ", "))
	}
}

// serverFields returns the keys of a server; what is as usual, or follows from
// the service's port, is left out.
func serverFields(r, usual *lb.RealSpec, port uint16) []string {
	fields := []string{"address: " + address(r.Key.Addr)}
	add := func(format string, value any) { fields = append(fields, fmt.Sprintf(format, value)) }
	if r.Key.Port != port {
		add("port: %d", r.Key.Port)
	}
	add("weight: %d", r.Weight)
	if r.Forward != usual.Forward {
		add("forward: %s", r.Forward)
	}
	if r.Forward == lb.TUN && r.Tunnel != usual.Tunnel {
		add("tunnel: %s", tunnel(r.Tunnel))
	}
	if r.Upper != 0 {
		add("upper_threshold: %d", r.Upper)
	}
	if r.Lower != 0 {
		add("lower_threshold: %d", r.Lower)
	}
	return fields
}

func tunnel(t lb.Tunnel) string {
	return fmt.Sprintf("{type: %s, port: %d, checksum: %s}", t.Type, t.Port, t.Checksum)
}

// address returns an address as a scalar; colons are quoted.
func address(a netip.Addr) string {
	if a.Is6() {
		return `"` + a.String() + `"`
	}
	return a.String()
}

// plain are texts that need no quotes. Words that YAML takes for another type
// (no, null, ...) have at most five letters and no other character.
var plain = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*[0-9_-][A-Za-z0-9_-]*$|^[A-Za-z]{6,}$|^(www|sip)$`)

// scalar returns a text as YAML; JSON's quoting is also YAML's.
func scalar(s string) string {
	if plain.MatchString(s) {
		return s
	}
	quoted, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string can always be written
	}
	return string(quoted)
}
