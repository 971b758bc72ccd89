package fastpath

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
)

// persistent makes a service remember its clients.
func persistent(s lb.ServiceSpec, timeout time.Duration, prefix int) lb.ServiceSpec {
	s.Persistence = &lb.Persistence{Timeout: timeout, Prefix: prefix}
	return s
}

// synFrom opens a connection from another client to a port of the VIP.
func synFrom(client string, sport, dport uint16) arrival {
	return in(fromClient().IP4(client, vip).TCP(sport, dport, synFlag))
}

// K-PERS-3: netmasks that are no prefixes group clients too, 0.0.0.0 all of them,
// and 24 is 0.0.0.24 to ipvsadm. As Linux 6.1 does.
func TestPersistenceMask(t *testing.T) {
	for _, tt := range []struct{ mask, templates, servers string }{
		{"0.0.0.0", "0.0.0.0", "2222"},
		{"255.0.255.0", "172.0.5.0; 172.0.6.0", "2212"},
		{"0.0.0.24", "0.0.0.0; 0.0.0.8", "2112"},
	} {
		s := service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:80 1", "nat 10.0.2.12:80 1")
		s.Persistence = &lb.Persistence{Timeout: time.Minute, Mask: netip.MustParseAddr(tt.mask)}
		r := newRig(t, options{}, s)
		servers := ""
		for i, client := range []string{"172.16.5.1", "172.20.5.9", "172.16.6.9", "172.16.5.1"} {
			_, to, _ := strings.Cut(r.fate(synFrom(client, uint16(1000+i), 80)), "> 10.0.2.1")
			servers += to[:1]
		}
		var templates []string
		for t := range strings.SplitSeq(r.listTemplates(), "; ") {
			client, _, _ := strings.Cut(strings.TrimPrefix(t, "6 "), ":")
			templates = append(templates, client)
		}
		slices.Sort(templates)
		if got := strings.Join(templates, "; "); got != tt.templates || servers != tt.servers {
			t.Errorf("-M %s: templates of %s, servers %s; want %s, %s", tt.mask, got, servers, tt.templates, tt.servers)
		}
	}
}

// templates are the persistence templates in words.
func (r *rig) listTemplates() string {
	var out []string
	r.templates.Scan(func(s *conn.Stripe, id conn.ID, c *conn.Conn) {
		out = append(out, fmt.Sprintf("%d %s:%d %s:%d %d %s held %d", c.Proto, c.Client, c.ClientPort, c.Virtual, c.VirtualPort, c.RealPort,
			conn.StateName(c.Proto, true, c.State), s.Held(id)))
	})
	return strings.Join(out, "; ")
}

// K-PERS-1: a client comes back to its server, other clients are scheduled;
// the template lives as long as it has connections, and its time after.
func TestPersistence(t *testing.T) {
	r := newRig(t, options{}, persistent(service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:80 1", "nat 10.0.2.12:80 1"), 60*time.Second, 0))
	for i, step := range []struct {
		a    arrival
		want string
	}{
		{synFrom("10.0.1.10", 1000, 80), "> 10.0.2.12:80"},
		{synFrom("10.0.1.10", 1001, 80), "> 10.0.2.12:80"},
		{synFrom("172.16.0.1", 1000, 80), "> 10.0.2.11:80"},
		{synFrom("10.0.1.10", 1002, 80), "> 10.0.2.12:80"},
	} {
		if got := r.fate(step.a); !strings.Contains(got, step.want) {
			t.Errorf("step %d: %s, want %s", i, got, step.want)
		}
	}
	want := "6 10.0.1.10:0 10.0.1.100:80 80 NONE held 3"
	if got := r.listTemplates(); !strings.Contains(got, want) || strings.Count(got, ";") != 1 {
		t.Errorf("templates are %s, want two, one %s", got, want)
	}
	// K-CONN-14: seen in both directions, the template is ASSURED.
	r.process(back(fromServer().IP4("10.0.2.12", client).TCP(80, 1000, synFlag|ackFlag)), in(fromClient().IP4(client, vip).TCP(1000, 80, ackFlag)))
	if got := r.listTemplates(); !strings.Contains(got, "6 10.0.1.10:0 10.0.1.100:80 80 ASSURED held 3") {
		t.Errorf("templates are %s, want the client's ASSURED", got)
	}
	// K-CONN-13: half-open connections end after 60 s, the established one
	// after 900 s, and the template only then.
	r.pass(61 * time.Second)
	if got := r.listTemplates(); got != "6 10.0.1.10:0 10.0.1.100:80 80 ASSURED held 1" {
		t.Errorf("after a minute templates are %s, want the one that is held", got)
	}
	r.pass(900 * time.Second)
	r.pass(60 * time.Second)
	if got := r.listTemplates(); got != "" || r.conns.Len() != 0 {
		t.Errorf("after all that there are %d connections and templates %s, want none", r.conns.Len(), got)
	}
	snap := r.director.Current()
	for i := range snap.Reals {
		if snap.Persistent(uint32(i)) != 0 || snap.Refs(uint32(i)) != 0 {
			t.Errorf("server %d keeps %d templates and %d references", i, snap.Persistent(uint32(i)), snap.Refs(uint32(i)))
		}
	}
}

// Each row is two connections to a persistent service and whether the second
// goes to the first one's server; rr alone would take another.
func TestPersistenceGroups(t *testing.T) {
	two := []string{"nat 10.0.2.11:0 1", "nat 10.0.2.12:0 1"}
	every := persistent(service("tcp 10.0.1.100:0 rr", two...), time.Minute, 0)
	net24 := persistent(service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:80 1", "nat 10.0.2.12:80 1"), time.Minute, 24)
	ftp := persistent(service("tcp 10.0.1.100:21 rr", "nat 10.0.2.11:21 1", "nat 10.0.2.12:21 1"), time.Minute, 0)
	for _, row := range []struct {
		stake         string
		service       lb.ServiceSpec
		first, second arrival
		same          bool
	}{
		{"K-PERS-3: a network of clients", net24, synFrom("172.16.5.1", 1, 80), synFrom("172.16.5.200", 1, 80), true},
		{"K-PERS-3: another network", net24, synFrom("172.16.5.1", 1, 80), synFrom("172.16.6.1", 1, 80), false},
		{"K-PERS-2: all ports of a port-0 service", every, synFrom("172.16.5.1", 1, 80), synFrom("172.16.5.1", 1, 443), true},
		{"K-PERS-2: FTP's passive data", ftp, synFrom("172.16.5.1", 1, 21), synFrom("172.16.5.1", 2, 40000), true},
	} {
		r := newRig(t, options{}, row.service)
		r.process(row.first)
		r.process(row.second)
		var reals []uint32
		r.conns.Scan(0, 10, func(_ conn.ID, c *conn.Conn) { reals = append(reals, c.Real) })
		if len(reals) != 2 || (reals[0] == reals[1]) != row.same {
			t.Errorf("%s: servers %v, want the same: %v", row.stake, reals, row.same)
		}
	}
}

// K-PERS-4, K-PERS-5: a server of weight 0 keeps its clients, unless
// expire_quiescent_template says otherwise; a removed one loses them.
func TestTemplateValidity(t *testing.T) {
	for _, row := range []struct {
		stake string
		edit  func(*lb.Spec)
		want  string
	}{
		{"weight 0", func(s *lb.Spec) { s.Services[0].Servers[1].Weight = 0 }, "> 10.0.2.12:80"},
		{"weight 0, quiescent templates expire", func(s *lb.Spec) {
			s.Services[0].Servers[1].Weight = 0
			s.Sysctl.ExpireQuiescentTemplate = 1
		}, "> 10.0.2.11:80"},
		{"removed", func(s *lb.Spec) { s.Services[0].Servers = s.Services[0].Servers[:1] }, "> 10.0.2.11:80"},
	} {
		r := newRig(t, options{}, persistent(service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:80 1", "nat 10.0.2.12:80 1"), time.Minute, 0))
		r.process(syn(1000))
		r.edit(row.edit)
		if got := r.fate(syn(1001)); !strings.Contains(got, row.want) {
			t.Errorf("%s: %s, want %s", row.stake, got, row.want)
		}
		if invalid := strings.Contains(r.listTemplates(), ":65535"); invalid == strings.Contains(row.want, ".12:") {
			t.Errorf("%s: templates are %s", row.stake, r.listTemplates())
		}
	}
}

// One-packet datagrams of a client go to one server and leave only the
// template, which is not held (K-CONN-8).
func TestPersistentOnePacket(t *testing.T) {
	svc := persistent(service("udp 10.0.1.100:53 rr", "nat 10.0.2.11:53 1", "nat 10.0.2.12:53 1"), time.Minute, 0)
	svc.OnePacket = true
	r := newRig(t, options{}, svc)
	query := func(port uint16) arrival { return in(fromClient().IP4(client, vip).UDP(port, 53)) }
	for _, got := range r.process(query(1), query(1), query(2)) {
		if !strings.Contains(got, "> 10.0.2.12:53") {
			t.Errorf("%s, want 10.0.2.12:53", got)
		}
	}
	if got := r.listTemplates(); got != "17 10.0.1.10:0 10.0.1.100:53 53 NONE held 0" || r.conns.Len() != 0 {
		t.Errorf("%d connections and templates %s, want none and one", r.conns.Len(), got)
	}
}

// The first packet may establish, and so mark the template that it just got.
func TestSloppyPersistence(t *testing.T) {
	r := newRig(t, options{}, persistent(natService(), time.Minute, 0))
	r.edit(func(s *lb.Spec) { s.Sysctl.SloppyTCP = 1 })
	if got := r.fate(in(fromClient().IP4(client, vip).TCP(1000, 80, packettest.ACK))); !strings.Contains(got, "> 10.0.2.11:8080") {
		t.Errorf("%s, want it scheduled", got)
	}
	if got := r.listTemplates(); !strings.Contains(got, "ASSURED held 1") {
		t.Errorf("templates are %s, want it ASSURED", got)
	}
}

// K-DST-7: a server takes no new connections from its upper threshold on until
// it is below its lower one.
func TestThresholds(t *testing.T) {
	svc := service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:80 1")
	svc.Servers[0].Upper, svc.Servers[0].Lower = 2, 1
	r := newRig(t, options{}, svc)
	for i, want := range []string{"> 10.0.2.11:80", "> 10.0.2.11:80", "no_server"} {
		if got := r.fate(syn(uint16(1000 + i))); !strings.Contains(got, want) {
			t.Errorf("connection %d: %s, want %s", i, got, want)
		}
	}
	r.pass(61 * time.Second) // both half-open connections end
	if got := r.fate(syn(2000)); !strings.Contains(got, "> 10.0.2.11:80") {
		t.Errorf("below the lower threshold: %s, want it taken", got)
	}
}
