package xdpprog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
)

// checkTables compares the kernel's tables with w.
func checkTables(t *testing.T, s *Steer, w Want) {
	t.Helper()
	c, err := w.compile(s.max)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.endpoints.read(); err != nil || !maps.Equal(got, c.endpoints) {
		t.Errorf("%d endpoints, %v, want %d", len(got), err, len(c.endpoints))
	}
	if got, err := s.addresses.read(); err != nil || !maps.Equal(got, c.addresses) {
		t.Errorf("%d addresses, %v, want %d", len(got), err, len(c.addresses))
	}
	var inner *ebpf.Map
	var got steerMarkTable
	err = s.shared.Marks.Lookup(uint32(0), &inner)
	if errors.Is(err, ebpf.ErrKeyNotExist) && c.marks.N == 0 {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	if err := inner.Lookup(uint32(0), &got); err != nil || got != c.marks {
		t.Errorf("%d marks, %v, want %d", got.N, err, c.marks.N)
	}
}

// farm is n services of ten NAT servers each, beginning with the first'th.
func farm(first, n int) (w Want) {
	for i := first; i < first+n; i++ {
		a := netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}).As16()
		w.Services = append(w.Services, ServiceKey{tcp, a, 80})
		for r := range 10 {
			a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 10<<24|uint32(10*i+r)))).As16()
			w.Reals = append(w.Reals, RealKey{tcp, a, 8080, true})
		}
	}
	return w
}

// 1,000 services with 10,000 real servers is what one reload may bring.
func TestUpdateLarge(t *testing.T) {
	s, _ := load(t, Options{Queues: 1}, Want{})
	for _, w := range []Want{farm(0, 1000), farm(500, 1000), farm(500, 1000), {}} {
		start := time.Now()
		if err := s.Update(w); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d services and %d real servers in %v", len(w.Services), len(w.Reals), time.Since(start))
		checkTables(t, s, w)
	}
}

func TestUpdateRandom(t *testing.T) {
	s, _ := load(t, Options{Queues: 1}, Want{})
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	all := steered()
	pick := func() bool { return rng.IntN(2) == 0 }
	for range 30 {
		var w Want
		for _, x := range all.Services {
			if pick() {
				w.Services = append(w.Services, x)
			}
		}
		for _, x := range all.Reals {
			x.NAT = x.NAT && pick() // a server may change its forwarding method
			if pick() {
				w.Reals = append(w.Reals, x)
			}
		}
		for _, x := range all.Marks {
			if pick() {
				w.Marks = append(w.Marks, x)
			}
		}
		for _, x := range all.IPsec {
			if pick() && (w.isVIP(x) || w.isReal(x, false)) {
				w.IPsec = append(w.IPsec, x)
			}
		}
		if err := s.Update(w); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if checkTables(t, s, w); t.Failed() {
			t.Fatalf("seed %d: %+v", seed, w)
		}
	}
}

// What two configurations have in common is redirected while one replaces
// the other, over and over.
func TestUpdateHasNoGap(t *testing.T) {
	base := steered()
	s, a := load(t, Options{Queues: 1}, base)
	giveSocket(t, a, 0)
	other := farm(0, 50)
	other.Services = append(other.Services, ServiceKey{tcp, addr(vip), 80})
	other.Reals = append(other.Reals, RealKey{tcp, addr(natRIP), 0, true}) // was port 8080
	// Here by a mark, there by a service; and a NAT server's address in both.
	server := RealKey{tcp, addr(marked), 80, true}
	base.Reals, other.Reals = append(base.Reals, server), append(other.Reals, server)
	other.Services = append(other.Services, ServiceKey{tcp, addr(marked), 80})
	frames := [][]byte{
		eth4(ip4(tcp, cip, vip, ports(40000, 80))),
		eth4(ip4(tcp, natRIP, cip, ports(8080, 40000))),
		eth4(ip4(tcp, cip, marked, ports(40000, 80))),
	}
	stop := make(chan struct{})
	var traffic errgroup.Group
	traffic.Go(func() error {
		for n := 0; ; n++ {
			select {
			case <-stop:
				if n < len(frames) {
					return errors.New("no traffic")
				}
				return nil
			default:
			}
			verdict, err := a.loaded.Program.Run(&ebpf.RunOptions{Data: frames[n%len(frames)]})
			if err != nil || verdict != 4 {
				return fmt.Errorf("frame %d: verdict %d, %w", n, verdict, errors.Join(err))
			}
			runtime.Gosched()
		}
	})
	for i := range 40 {
		w := base
		if i%2 == 0 {
			w = other
		}
		if err := s.Update(w); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if err := traffic.Wait(); err != nil {
		t.Error(err)
	}
}

func TestUpdateRefuses(t *testing.T) {
	s, _ := load(t, Options{Queues: 1, MaxEntries: 20}, steered())
	marks := func(n int) []MarkRule { return make([]MarkRule, n) }
	for _, tt := range []struct {
		name string
		w    Want
		err  error
		text string
	}{
		{"a rule more than the program compares with", Want{Marks: marks(65)}, ErrTooManyMarks, "65, the XDP program compares with 64"},
		{"an entry more than the tables hold", Want{Reals: farm(0, 3).Reals[:21]}, ErrTooManyEntries, "21 entries, the XDP tables hold 20"},
		{"a real server without ports", Want{Reals: []RealKey{{0, addr(natRIP), 80, false}}}, ErrInvalid, "real server 10.0.1.11 port 80: protocol 0"},
		{"a service without ports", Want{Services: []ServiceKey{{1, addr(vip), 80}}}, ErrInvalid, "service 203.0.113.10 port 80: protocol 1"},
		{"a rule without ports", Want{Marks: []MarkRule{{}, {Proto: 1}}}, ErrInvalid, "mark rule 2: protocol 1"},
		{"ports the wrong way round", Want{Marks: []MarkRule{{PortLow: 2, PortHigh: 1}}}, ErrInvalid, "ports 2 to 1"},
		{"a negative interface", Want{Marks: []MarkRule{{Ifindex: -1}}}, ErrInvalid, "interface index -1"},
		{"an IPsec address of nobody", Want{IPsec: []Addr{addr(cip)}}, ErrInvalid, "172.16.5.1 is of no service"},
	} {
		err := s.Update(tt.w)
		if !errors.Is(err, tt.err) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.text)
		}
		checkTables(t, s, steered()) // untouched
	}
	full := Want{Marks: marks(64), Reals: farm(0, 2).Reals}
	for _, w := range []Want{full, {Marks: marks(1), Reals: farm(7, 2).Reals}} { // both fit at once
		if err := s.Update(w); err != nil {
			t.Fatal(err)
		}
		checkTables(t, s, w)
	}
}

// The last of 64 rules is compared with, and no rule after the last.
func TestAllMarksMatch(t *testing.T) {
	w := Want{Marks: make([]MarkRule, MaxMarks)}
	for i := range w.Marks {
		w.Marks[i] = MarkRule{Destination: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 32)}
	}
	s, a := load(t, Options{Queues: 1}, w)
	giveSocket(t, a, 0)
	p := probe{a: a}
	for n := MaxMarks; n >= 0; n -= 8 {
		w.Marks = w.Marks[:n]
		if err := s.Update(w); err != nil {
			t.Fatal(err)
		}
		for i := range MaxMarks {
			redirected, r, err := p.run(eth4(ip4(udp, cip, fmt.Sprintf("198.51.100.%d", i), ports(1, 2))))
			if err != nil || redirected != (i < n) || redirected && r != Marked {
				t.Fatalf("rule %d of %d: redirected %v as %v, %v", i, n, redirected, r, err)
			}
		}
	}
}

// After a write that failed half-way the next Update starts from what the
// kernel has.
func TestUpdateRecovers(t *testing.T) {
	s, _ := load(t, Options{Queues: 1}, farm(0, 100))
	w := farm(50, 100)
	before := farm(0, 100)
	c, err := before.compile(s.max)
	if err != nil {
		t.Fatal(err)
	}
	for k := range c.endpoints { // somebody deletes an entry behind our back
		if err := s.shared.Endpoints.Delete(k); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Update(w); err == nil {
		t.Fatal("removing what is not there gives no error")
	}
	if err := s.Update(w); err != nil {
		t.Fatal(err)
	}
	checkTables(t, s, w)
}

func TestPrefixMasks(t *testing.T) {
	for _, tt := range []struct{ prefix, addr, mask string }{
		{"10.1.2.3/8", "::ffff:10.0.0.0", "ffff:ffff:ffff:ffff:ffff:ffff:ff00:0"},
		{"0.0.0.0/0", "::ffff:0.0.0.0", "ffff:ffff:ffff:ffff:ffff:ffff::"},
		{"10.1.2.3/32", "::ffff:10.1.2.3", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"2001:db8:ffff::/35", "2001:db8:e000::", "ffff:ffff:e000::"},
		{"::/0", "::", "::"},
	} {
		a, m := prefix(netip.MustParsePrefix(tt.prefix))
		if a != words(addr(tt.addr)) || m != words(addr(tt.mask)) {
			t.Errorf("%s: %x mask %x, want %s mask %s", tt.prefix, a.W, m.W, tt.addr, tt.mask)
		}
	}
	if a, m := prefix(netip.Prefix{}); a != (steerAddr{}) || m != (steerAddr{}) {
		t.Errorf("any: %x mask %x", a.W, m.W)
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, o := range []Options{{Queues: -1}, {Queues: 1<<16 + 1}, {MaxEntries: -1}, {MaxEntries: 1<<24 + 1}} {
		if s, err := Load(o); err == nil {
			t.Errorf("%+v is accepted", o)
			_ = s.Close()
		}
	}
}
