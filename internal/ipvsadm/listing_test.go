package ipvsadm

import (
	"bytes"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/lb"
)

// fake is a Backend that only shows.
type fake struct {
	DirectorBackend
	services []Service
	conns    []Conn
}

func (f *fake) Services() ([]Service, error) { return f.services, nil }

func (f *fake) Conns(visit func(*Conn)) error {
	for i := range f.conns {
		visit(&f.conns[i])
	}
	return nil
}

func readText(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

func parseUint(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// rowViews are the listings of testdata/rows.txt and how many words of
// numbers their rows end with.
var rowViews = map[string][]string{
	"list":       {"-Ln"},
	"stats":      {"-Ln", "--stats", "--exact"},
	"rate":       {"-Ln", "--rate", "--exact"},
	"thresholds": {"-Ln", "--thresholds"},
	"persistent": {"-Ln", "--persistent-conn"},
}

// TestRows takes rows of the kernel's listings apart and prints them again:
// every column must come out where it was.
func TestRows(t *testing.T) {
	for _, line := range readText(t, "testdata/rows.txt") {
		view, row, _ := strings.Cut(line, "|")
		s := parseRow(t, view, row)
		out, errs, exit := do(&fake{services: []Service{s}}, "", rowViews[view]...)
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		if got := lines[len(lines)-1]; got != row || errs != "" || exit != 0 {
			t.Errorf("%s:\n got %q\nwant %q", view, got, row)
		}
	}
}

// parseRow makes a service of a row: its own, or that of its only server.
func parseRow(t *testing.T, view, row string) Service {
	t.Helper()
	words := strings.Fields(row)
	var s Service
	s.Spec.Key = lb.ServiceKey{Proto: lb.ProtoTCP, Addr: netip.MustParseAddr("10.0.0.1"), Port: 80}
	numbers := func(words []string) (n [5]uint64) {
		for i, w := range words {
			n[i] = parseUint(t, w)
		}
		return n
	}
	fill := func(n [5]uint64, c *lb.Counters, r *Rates) {
		*c = lb.Counters{Conns: n[0], InPackets: n[1], OutPackets: n[2], InBytes: n[3], OutBytes: n[4]}
		*r = Rates{n[0], n[1], n[2], n[3], n[4]}
	}
	if words[0] != "->" {
		if words[0] == "FWM" {
			s.Spec.Key = lb.ServiceKey{Mark: uint32(parseUint(t, words[1])), V6: words[2] == "IPv6"}
		} else {
			e := netip.MustParseAddrPort(words[1])
			proto := map[string]uint8{"TCP": lb.ProtoTCP, "UDP": lb.ProtoUDP, "SCTP": lb.ProtoSCTP}[words[0]]
			s.Spec.Key = lb.ServiceKey{Proto: proto, Addr: e.Addr(), Port: e.Port()}
		}
		fill(numbers(words[len(words)-5:]), &s.Stats, &s.Rates)
		return s
	}
	e := netip.MustParseAddrPort(words[1])
	server := Server{Spec: lb.RealSpec{Key: lb.RealKey{Addr: e.Addr(), Port: e.Port()}}}
	if view == "stats" || view == "rate" {
		fill(numbers(words[2:]), &server.Stats, &server.Rates)
		s.Servers = []Server{server}
		return s
	}
	if view == "list" {
		server.Spec.Forward = map[string]lb.Forward{"Masq": lb.NAT, "Route": lb.DR, "Tunnel": lb.TUN}[words[2]]
		server.Spec.Weight = int32(parseUint(t, words[3]))
	} else if n := numbers(words[2:4]); view == "thresholds" {
		server.Spec.Upper, server.Spec.Lower = uint32(n[0]), uint32(n[1])
	} else {
		server.Spec.Weight, server.Persistent = int32(n[0]), uint32(n[1])
	}
	last := numbers(words[len(words)-2:])
	server.Active, server.Inactive = uint32(last[0]), uint32(last[1])
	s.Servers = []Server{server}
	return s
}

// TestConns takes rows of -Lc apart, with names of ports and without, and
// prints them again.
func TestConns(t *testing.T) {
	for _, row := range readText(t, "testdata/conns.txt") {
		words := strings.Fields(row)
		args := []string{"-L", "-c"}
		if words[3] == "NONE" || len(words) > 6 {
			args = append(args, "--persistent-conn")
		}
		proto := map[string]uint8{"IP": 0, "TCP": lb.ProtoTCP, "UDP": lb.ProtoUDP, "SCTP": lb.ProtoSCTP}[words[0]]
		named := false
		endpoint := func(s string) netip.AddrPort {
			colon := strings.LastIndexByte(s, ':')
			if port, ok := testServices().port(s[colon+1:], proto); ok {
				named, s = true, s[:colon+1]+strconv.Itoa(int(port))
			}
			return netip.MustParseAddrPort(s)
		}
		minutes, seconds, _ := strings.Cut(words[1], ":")
		c := Conn{
			Proto: proto, State: words[2], Client: endpoint(words[3]), Virtual: endpoint(words[4]), Server: endpoint(words[5]),
			Expires: time.Duration(parseUint(t, minutes))*time.Minute + time.Duration(parseUint(t, seconds))*time.Second + 999*time.Millisecond,
		}
		if len(words) > 6 {
			c.Engine, c.EngineData = words[6], words[7]
		}
		if !named {
			args = append(args, "-n")
		}
		out, errs, exit := do(&fake{conns: []Conn{c}}, "", args...)
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		if len(lines) != 3 || lines[0] != "IPVS connection entries" || lines[2] != row || errs != "" || exit != 0 {
			t.Errorf("%q:\n got %q\nwant %q", args, lines, row)
		}
	}
}

// TestConnsTitle holds the title line of -Lc to what was recorded.
func TestConnsTitle(t *testing.T) {
	for args, want := range map[string]string{
		"-Lnc":                   "IPVS connection entries\npro expire state       source             virtual            destination\n",
		"-Lnc --persistent-conn": "IPVS connection entries\npro expire state       source             virtual            destination        pe name          pe_data\n",
	} {
		if out, _, _ := do(&fake{}, "", strings.Fields(args)...); out != want {
			t.Errorf("%s:\n%q, want\n%q", args, out, want)
		}
	}
}

// TestOddConns: what the kernel can have, but no case of the oracle shows.
func TestOddConns(t *testing.T) {
	f := &fake{conns: []Conn{
		{
			Proto: 50, Client: netip.MustParseAddrPort("1.2.3.4:500"), Virtual: netip.MustParseAddrPort("1.2.3.5:500"),
			Server: netip.MustParseAddrPort("0.0.0.0:0"), State: "NONE", Expires: -time.Second,
		},
	}}
	out, _, _ := do(f, "", "-Lnc")
	const want = "IP_50 00:00  NONE        1.2.3.4:500        1.2.3.5:500        0.0.0.0:0"
	if lines := strings.Split(out, "\n"); lines[2] != want {
		t.Errorf("%q, want %q", lines[2], want)
	}
}

// TestLarge: where numbers are shortened, and by how much.
func TestLarge(t *testing.T) {
	for _, c := range []struct {
		n            uint64
		short, exact string
	}{
		{0, "        0", "        0"},
		{99_999_999, " 99999999", " 99999999"},
		{100_000_000, "  100000K", " 100000000"},
		{999_999_999, "  999999K", " 999999999"},
		{1_000_000_000, "    1000M", " 1000000000"},
		{99_999_999_999, "   99999M", " 99999999999"},
		{100_000_000_000, "     100G", " 100000000000"},
		{99_999_999_999_999, "   99999G", " 99999999999999"},
		{100_000_000_000_000, "     100T", " 100000000000000"},
		{1<<64 - 1, "18446744T", " 18446744073709551615"},
	} {
		if got := (layout{}).large(c.n); got != c.short {
			t.Errorf("%d is %q, want %q", c.n, got, c.short)
		}
		if got := (layout{set(optExact)}).large(c.n); got != c.exact {
			t.Errorf("%d with --exact is %q, want %q", c.n, got, c.exact)
		}
	}
}

// TestRateColumns: of rates, only bytes are shortened.
func TestRateColumns(t *testing.T) {
	s := Service{Spec: lb.ServiceSpec{Key: lb.ServiceKey{Mark: 1}}, Rates: Rates{1e9, 2e9, 3e9, 4e9, 5e9}}
	out, _, _ := do(&fake{services: []Service{s}}, "", "-Ln", "--rate")
	const want = "FWM  1                            1000000000 2000000000 3000000000    4000M    5000M\n"
	if !strings.HasSuffix(out, want) {
		t.Errorf("%q, want %q at the end", out, want)
	}
}

// failing is a writer to nobody.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestOutputFails(t *testing.T) {
	var errs bytes.Buffer
	exit := Run([]string{"-L"}, Env{Stdout: failing{}, Stderr: &errs, Backend: newBackend()})
	if exit != 1 || !strings.Contains(errs.String(), "write output: ") {
		t.Errorf("exit %d, %q", exit, errs.String())
	}
}
