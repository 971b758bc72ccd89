package ipvsadm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/config"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/sched"
)

// randomServices returns n services with all that ipvsadm can say of them.
func randomServices(r *rand.Rand, n int) []lb.ServiceSpec {
	addr := func(v6 bool) netip.Addr {
		if v6 {
			return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(r.IntN(2)), 14: byte(r.IntN(256)), 15: byte(r.IntN(256))})
		}
		return netip.AddrFrom4([4]byte{byte(1 + r.IntN(223)), byte(r.IntN(256)), byte(r.IntN(256)), byte(1 + r.IntN(254))})
	}
	var out []lb.ServiceSpec
	seen := map[lb.ServiceKey]bool{}
	for len(out) < n {
		v6 := r.IntN(3) == 0
		s := lb.ServiceSpec{Scheduler: sched.Names()[r.IntN(len(sched.Names()))]}
		if r.IntN(5) == 0 {
			s.Key = lb.ServiceKey{Mark: r.Uint32N(50) + 1<<31*r.Uint32N(2) + 1, V6: v6}
		} else {
			s.Key = lb.ServiceKey{Proto: []uint8{lb.ProtoTCP, lb.ProtoUDP, lb.ProtoSCTP}[r.IntN(3)], Addr: addr(v6), Port: uint16(r.IntN(1 << 16))}
		}
		if r.IntN(2) == 0 || s.Key.Mark == 0 && s.Key.Port == 0 {
			s.Persistence = &lb.Persistence{Timeout: time.Duration(1+r.IntN(maxTimeout)) * time.Second, Prefix: 1 + r.IntN(32+96*b2i(v6))}
			s.Persistence.Engine = []string{"", "sip"}[r.IntN(2)]
			if !v6 && r.IntN(5) == 0 {
				s.Persistence.Prefix, s.Persistence.Mask = 0, netip.AddrFrom4([4]byte{byte(r.IntN(2) * 255), 0, byte(r.IntN(256)), 0})
			}
		}
		s.OnePacket = (s.Key.Mark != 0 || s.Key.Proto == lb.ProtoUDP) && r.IntN(2) == 0
		flags := []string{"flag-1", "flag-2", "flag-3"}
		if s.Scheduler == "sh" || s.Scheduler == "mh" {
			flags = []string{s.Scheduler + "-fallback", s.Scheduler + "-port"} // the third is not shown
		}
		for _, f := range flags {
			if r.IntN(2) == 0 {
				s.SchedulerFlags = append(s.SchedulerFlags, f)
			}
		}
		if seen[s.Key] {
			continue
		}
		seen[s.Key] = true
		servers := map[lb.RealKey]bool{}
		for range r.IntN(6) {
			real := randomServer(r, s.Key, addr)
			if !servers[real.Key] {
				servers[real.Key] = true
				s.Servers = append(s.Servers, real)
			}
		}
		out = append(out, s)
	}
	return out
}

func randomServer(r *rand.Rand, key lb.ServiceKey, addr func(bool) netip.Addr) lb.RealSpec {
	s := lb.RealSpec{Forward: []lb.Forward{lb.NAT, lb.TUN, lb.DR}[r.IntN(3)], Weight: int32(r.IntN(1 << 31)), Upper: r.Uint32N(1 << 31)}
	s.Lower = r.Uint32N(s.Upper + 1)
	s.Key = lb.RealKey{Addr: addr(key.Is6() != (s.Forward == lb.TUN && r.IntN(4) == 0)), Port: key.Port}
	switch {
	case key.Mark != 0:
		s.Key.Port = uint16(r.IntN(3))
	case s.Forward == lb.NAT:
		s.Key.Port = uint16(r.IntN(2) * r.IntN(1<<16))
	}
	if s.Forward == lb.TUN {
		s.Tunnel = []lb.Tunnel{
			{},
			{Type: lb.GRE},
			{Type: lb.GRE, Checksum: lb.Checksum},
			{Type: lb.GUE, Port: 6080},
			{Type: lb.GUE, Port: 1, Checksum: lb.Checksum},
			{Type: lb.GUE, Port: 65535, Checksum: lb.ChecksumRemote},
		}[r.IntN(6)]
	}
	return s
}

// apply returns the backend of a director that has the services, and what its
// director makes of them.
func apply(t *testing.T, services []lb.ServiceSpec) (*DirectorBackend, []lb.ServiceSpec) {
	t.Helper()
	b := newBackend()
	spec := b.Director.Spec()
	spec.Services = services
	if _, err := b.Director.Apply(spec); err != nil {
		t.Fatal(err)
	}
	return b, b.Director.Spec().Services
}

// TestSaveImportSave: the text of -S of 500 services, imported and saved
// again, is the same text; so is that of -S restored by -R.
func TestSaveImportSave(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	b, _ := apply(t, randomServices(rand.New(rand.NewPCG(seed, 1)), 500))
	for _, c := range []struct {
		args []string
		load func(text string) *DirectorBackend
	}{
		{[]string{"-S", "-n"}, func(text string) *DirectorBackend {
			imported, err := importText(text)
			if err != nil {
				t.Fatal(err)
			}
			again, _ := apply(t, imported.Services)
			return again
		}},
		{[]string{"-S"}, func(text string) *DirectorBackend {
			again := newBackend()
			if out, errs, exit := do(again, text, "-R"); out != "" || errs != "" || exit != 0 {
				t.Fatalf("-R: exit %d, %s", exit, errs)
			}
			return again
		}},
	} {
		text, errs, exit := do(b, "", c.args...)
		if exit != 0 || errs != "" || strings.Count(text, "-A ") != 500 {
			t.Fatalf("%q: exit %d, %s", c.args, exit, errs)
		}
		if got, _, _ := do(c.load(text), "", c.args...); got != text {
			t.Errorf("%q again:\n%s", c.args, lineDiff(text, got))
		}
	}
}

// importText is Import with the names of ports that the tests know.
func importText(text string) (*Imported, error) {
	return importRules(strings.NewReader(text), testServices)
}

// TestWriteServices: what is written loads as the same services.
func TestWriteServices(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	services := randomServices(r, 200)
	for i := range services {
		services[i].Name = []string{"", fmt.Sprintf("name-%d", i), fmt.Sprintf("%d:#\"{}\\ü[&*!|>'%%@`]", i)}[r.IntN(3)]
	}
	services = append(services, lb.ServiceSpec{Name: "no", Key: lb.ServiceKey{Mark: 60}, Scheduler: "rr"},
		lb.ServiceSpec{Name: "1e3", Key: lb.ServiceKey{Mark: 61}, Scheduler: "rr"},
		lb.ServiceSpec{Name: "www", Key: lb.ServiceKey{Mark: 62}, Scheduler: "rr"})
	_, want := apply(t, services)
	var text bytes.Buffer
	text.WriteString("interfaces: [{name: eth0, role: both}]\n")
	if err := WriteServices(&text, want); err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse("test.yaml", text.Bytes())
	if err != nil {
		t.Fatalf("%v\n%s", err, text.Bytes())
	}
	_, got := apply(t, c.Spec.Services)
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Fatalf("got  %+v\nwant %+v", got[i], want[i])
		}
	}
}

// TestWriteServicesText: the style of the written text.
func TestWriteServicesText(t *testing.T) {
	imported, err := importText(`# a comment
-A -t 203.0.113.10:80 -s wrr -p 600 -M 255.255.255.0
-a -t 203.0.113.10:80 -r 10.0.1.11:8080 -m -w 3 -x 100 -y 50
-a -t 203.0.113.10:80 -r 10.0.1.12:80 -m -w 1
-a -t 203.0.113.10:80 -r 10.0.1.13:80 -g -w 1

-A -u [2001:db8::1]:5060 -s sh -p 360 --pe sip -o -b sh-port
-a -u [2001:db8::1]:5060 -r [2001:db8::2]:5060 -i -w 0 --tun-type gue --tun-port 6080 --tun-csum
-a -u [2001:db8::1]:5060 -r 10.0.1.14:5060 -i -w 1 --tun-type ipip
-A -f 7 -6 -s rr
--set 100 0 20
`)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := WriteServices(&text, imported.Services); err != nil {
		t.Fatal(err)
	}
	const want = `services:
  - protocol: tcp
    address: 203.0.113.10
    port: 80
    scheduler: wrr
    persistence: {timeout: 600s, netmask: 24}
    forward: nat
    servers:
      - {address: 10.0.1.11, port: 8080, weight: 3, upper_threshold: 100, lower_threshold: 50}
      - {address: 10.0.1.12, weight: 1}
      - {address: 10.0.1.13, weight: 1, forward: dr}
  - protocol: udp
    address: "2001:db8::1"
    port: 5060
    scheduler: sh
    scheduler_flags: [sh-port]
    persistence: {timeout: 360s, engine: sip}
    one_packet: true
    forward: tun
    tunnel: {type: gue, port: 6080, checksum: csum}
    servers:
      - {address: "2001:db8::2", weight: 0}
      - {address: 10.0.1.14, weight: 1, tunnel: {type: ipip, port: 0, checksum: none}}
  - fwmark: 7
    family: ipv6
    scheduler: rr
    servers: []
`
	if text.String() != want {
		t.Errorf("written:\n%s\nwant:\n%s", text.String(), want)
	}
	if want := (lb.Timeouts{TCP: 100 * time.Second, UDP: 20 * time.Second}); imported.Timeouts != want {
		t.Errorf("timeouts %v, want %v", imported.Timeouts, want)
	}
	if !slices.Equal(imported.Marks, []uint32{7}) {
		t.Errorf("marks %v, want 7", imported.Marks)
	}
	text.Reset()
	if err := WriteServices(&text, nil); err != nil || text.String() != "services: []\n" {
		t.Errorf("no services: %v, %q", err, text.String())
	}
}

// TestImportFaults: every fault is told, with its line, and nothing returned.
func TestImportFaults(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"-A -t 10.0.0.1:80 -s nosuch", "line 1: service tcp-10.0.0.1-80: Scheduler or persistence engine not found: nosuch"},
		{"\n-A -t 10.0.0.1\n-A -t x\n", "line 2: Zero port specified for non-persistent service\nline 3: illegal virtual server address[:port] specified"},
		{"-A -t 10.0.0.1:80\n-A -t 10.0.0.1:80", "line 2: service tcp-10.0.0.1-80: Service already exists"},
		{"-L -n", "line 1: the 'list' command makes no rule"},
		{"-h", "line 1: the 'help' command makes no rule"},
		{"-R", "line 1: " + tryHelp},
		{"--start-daemon master", "line 1: the 'start-daemon' command makes no rule"},
		{"# -A\nno rule", "line 2: " + tryHelp},
	} {
		imported, err := importText(c.text)
		if imported != nil || err == nil || err.Error() != c.want {
			t.Errorf("%q: %v, want %s", c.text, err, c.want)
		}
	}
	if _, err := Import(strings.NewReader(strings.Repeat("x", 1<<20))); err == nil {
		t.Error("a line of 1 MB is taken")
	}
	if imported, err := Import(strings.NewReader("-A -t 1.2.3.4:5\n-E -t 1.2.3.4:5 -s rr\n-C\n-A -t 1.2.3.4:6\n-D -t 1.2.3.4:6\n")); err != nil || len(imported.Services) != 0 {
		t.Errorf("all taken back: %v, %v", imported, err)
	}
}
