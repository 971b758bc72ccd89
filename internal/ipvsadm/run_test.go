package ipvsadm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/sluice-lb/sluice/lb"
)

// TestRefusals: whose text a refusal has, and its status.
func TestRefusals(t *testing.T) {
	frozen := newBackend()
	frozen.Frozen = errors.New("edit FILE instead")
	bare := &DirectorBackend{Director: lb.NewDirector(1)}
	named := newBackend()
	if err := named.Director.AddService(lb.ServiceSpec{Name: "tcp-10.0.0.2-80", Key: lb.ServiceKey{Mark: 1}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		b    Backend
		args string
		errs string
		exit int
	}{
		{"every change of a file is refused", frozen, "-A -t 10.0.0.1:80", "edit FILE instead\n", 255},
		{"", frozen, "-E -t 10.0.0.1:80", "edit FILE instead\n", 255},
		{"", frozen, "-D -t 10.0.0.1:80", "edit FILE instead\n", 255},
		{"", frozen, "-C", "edit FILE instead\n", 255},
		{"", frozen, "-a -t 10.0.0.1:80 -r 10.0.0.2", "edit FILE instead\n", 255},
		{"", frozen, "-e -t 10.0.0.1:80 -r 10.0.0.2", "edit FILE instead\n", 255},
		{"", frozen, "-d -t 10.0.0.1:80 -r 10.0.0.2", "edit FILE instead\n", 255},
		{"", frozen, "-Z", "edit FILE instead\n", 255},
		{"", frozen, "--set 1 2 3", "edit FILE instead\n", 255},
		{"", frozen, "--start-daemon master", "edit FILE instead\n", 255},
		{"", frozen, "--stop-daemon master", "edit FILE instead\n", 255},
		{"looking is not", frozen, "-L --daemon", "", 0},
		{"there are no daemons", bare, "--start-daemon master", "Protocol not available\n", 255},
		{"", bare, "--stop-daemon backup", "No daemon is running\n", 255},
		{"", bare, "-L --daemon", "", 0},
		{"nothing is counted", bare, "-Z", "", 0},
		{"", bare, "-Lnc", "", 0},
		{"a reason of the director's own", named, "-A -t 10.0.0.2:80", "service name already in use\n", 2},
		{"of two reasons, the kernel's first", named, "-A -f 1 -s nosuch", "Service already exists\n", 255},
	} {
		_, errs, exit := do(c.b, "", strings.Fields(c.args)...)
		if errs != c.errs || exit != c.exit {
			t.Errorf("%s: %s: exit %d, %q; want %d, %q", c.what, c.args, exit, errs, c.exit, c.errs)
		}
	}
}

// TestRestoreIsOneBatch: the rules of many services are published once, and
// what is asked between the lines is answered with all that stands above.
func TestRestoreIsOneBatch(t *testing.T) {
	var rules strings.Builder
	for i := range 300 {
		fmt.Fprintf(&rules, "-A -t 10.0.0.1:%d -s rr\n-a -t 10.0.0.1:%d -r 10.1.0.1:80 -m\n", i+1, i+1)
	}
	b := newBackend()
	was := b.Director.Current().Generation
	if out, errs, exit := do(b, rules.String(), "-R"); out != "" || errs != "" || exit != 0 {
		t.Fatalf("exit %d, %s%s", exit, out, errs)
	}
	if s := b.Director.Current(); s.Generation != was+1 || len(s.Services) != 300 {
		t.Errorf("%d services published in %d steps, want one", len(s.Services), s.Generation-was)
	}
	for _, c := range []struct{ what, lines, errs string }{
		{
			"a daemon runs, and then there is a server of another family",
			"-A -t 10.0.0.2:80\n--start-daemon master\n-a -t 10.0.0.2:80 -r [2001:db8::1]:80 -i\n", lb.ErrInvalid.Text,
		},
		{"there is no service for it", "-a -t 10.0.0.3:80 -r [2001:db8::1]:80 -i\n", lb.ErrServiceUnknown.Text},
		{
			"the daemon comes after it",
			"--stop-daemon master\n-a -t 10.0.0.2:80 -r [2001:db8::1]:80 -i\n--start-daemon master\n", lb.ErrInvalid.Text,
		},
		{"a service just added can be reset, another cannot", "-A -t 10.0.0.4:80\n-Z -t 10.0.0.4:80\n-Z -t 10.0.0.5:80\n", lb.ErrNoService.Text},
	} {
		if _, errs, exit := do(b, c.lines, "-R"); errs != c.errs+"\n" || exit != 255 {
			t.Errorf("%s: exit %d, %q, want %q", c.what, exit, errs, c.errs)
		}
	}
	b.Frozen = errors.New("edit FILE instead")
	was = b.Director.Current().Generation
	if _, errs, exit := do(b, "-C\n-A -t 10.0.0.9:80\n", "-R"); errs != "edit FILE instead\nedit FILE instead\n" || exit != 255 || b.Director.Current().Generation != was {
		t.Errorf("frozen: exit %d, %q", exit, errs)
	}
}

// TestRestoreReads: an input that cannot be read is told; none is no rules.
func TestRestoreReads(t *testing.T) {
	var errs bytes.Buffer
	env := Env{Stdin: iotest.ErrReader(os.ErrClosed), Stdout: io.Discard, Stderr: &errs, Backend: newBackend()}
	if exit := Run([]string{"-R"}, env); exit != 255 || !strings.HasPrefix(errs.String(), "read rules: ") {
		t.Errorf("exit %d, %q", exit, errs.String())
	}
	env.Stdin = nil
	if exit := Run([]string{"-R"}, env); exit != 0 {
		t.Errorf("no input: exit %d", exit)
	}
}

// TestNamesAreNotLookedUp: hosts are addresses, whatever /etc/hosts says.
func TestNamesAreNotLookedUp(t *testing.T) {
	b := newBackend()
	if _, errs, exit := do(b, "", "-A", "-t", "localhost:80"); exit != 2 || errs != "illegal virtual server address[:port] specified\n" {
		t.Errorf("exit %d, %q", exit, errs)
	}
	do(b, "", "-A", "-t", "127.0.0.1:80")
	if out, _, _ := do(b, "", "-S"); out != "-A -t 127.0.0.1:http -s wlc\n" {
		t.Errorf("%q", out)
	}
}

func TestReadServices(t *testing.T) {
	s, err := ReadServices(strings.NewReader(`# comment
http	80/tcp	www web # WorldWideWeb
other	80/tcp
web	81/tcp
bad
worse	x/tcp
worst	99999/tcp
none	82
sctp-only	83/sctp
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		proto uint8
		port  uint16
		ok    bool
	}{
		{"http", lb.ProtoTCP, 80, true},
		{"www", lb.ProtoTCP, 80, true},
		{"web", lb.ProtoTCP, 80, true}, // the first counts
		{"other", lb.ProtoTCP, 80, true},
		{"http", lb.ProtoUDP, 0, false},
		{"sctp-only", lb.ProtoSCTP, 83, true},
		{"worst", lb.ProtoTCP, 0, false},
		{"none", lb.ProtoTCP, 0, false},
		{"#", lb.ProtoTCP, 0, false},
	} {
		if port, ok := s.port(c.name, c.proto); port != c.port || ok != c.ok {
			t.Errorf("%s/%d: %d %v, want %d %v", c.name, c.proto, port, ok, c.port, c.ok)
		}
	}
	if got := s.name(80, lb.ProtoTCP) + s.name(80, lb.ProtoUDP) + s.name(83, lb.ProtoSCTP); got != "http80sctp-only" {
		t.Errorf("names %s", got)
	}
	var no *Services
	if _, ok := no.port("http", lb.ProtoTCP); ok || no.name(80, lb.ProtoTCP) != "80" {
		t.Error("no services have names")
	}
}

// TestFill: the defaults of a daemon, measured with Linux 6.1.
func TestFill(t *testing.T) {
	for _, c := range []struct {
		mtu    int
		group  string
		maxLen uint16
	}{{1500, "224.0.0.81", 1472}, {9000, "224.0.0.81", 1472}, {1280, "224.0.0.81", 1252}, {1500, "ff02::81", 1452}, {10, "224.0.0.81", 0}} {
		d := Daemon{State: Master, Group: netip.MustParseAddr(c.group)}
		d.Fill(c.mtu)
		if want := (Daemon{State: Master, Interface: "eth0", MaxLen: c.maxLen, Group: netip.MustParseAddr(c.group), Port: 8848, TTL: 1}); d != want {
			t.Errorf("MTU %d: %+v, want %+v", c.mtu, d, want)
		}
	}
}

// TestSortTotal: where no addresses compare in circles, the order is that of
// numbers, whatever the order was before.
func TestSortTotal(t *testing.T) {
	want := []string{"10.0.0.1:79", "10.0.0.1:80", "10.0.0.2:1", "10.0.0.255:1", "10.255.0.0:1", "11.0.0.0:1", "100.0.0.0:65535"}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 3))
	for range 50 {
		var servers []Server
		for _, i := range r.Perm(len(want)) {
			e := netip.MustParseAddrPort(want[i])
			servers = append(servers, Server{Spec: lb.RealSpec{Key: lb.RealKey{Addr: e.Addr(), Port: e.Port()}}})
		}
		var got []string
		for _, s := range order([]Service{{Servers: servers}})[0].Servers {
			got = append(got, s.Spec.Key.String())
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
	}
}
