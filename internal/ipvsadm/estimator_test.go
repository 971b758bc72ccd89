package ipvsadm

import (
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/lb"
)

// tick is one tick of the kernel's estimator: the counters that it saw, those
// since -Z, and the rates that it then showed. Zero 1: -Z; 2: another estimator.
type tick struct {
	Zero        int
	Stats, Rate [5]uint64
}

// TestEstimatorRecorded drives estimators with what the kernel's saw.
func TestEstimatorRecorded(t *testing.T) {
	var e Estimator
	var base, now lb.Counters
	for i, r := range readLines[tick](t, "testdata/rates.jsonl") {
		switch {
		case r.Zero == 2:
			e, base, now = Estimator{}, lb.Counters{}, lb.Counters{}
			continue
		case r.Zero == 1:
			e.Zero()
			base = now
			continue
		case r.Stats == [5]uint64{}: // right after -Z, before a tick
			if e.Rates() != (Rates{}) {
				t.Errorf("line %d: %v after -Z", i+1, e.Rates())
			}
			continue
		}
		now = base
		now.Add(&lb.Counters{Conns: r.Stats[0], InPackets: r.Stats[1], OutPackets: r.Stats[2], InBytes: r.Stats[3], OutBytes: r.Stats[4]})
		e.Tick(now)
		if got, want := e.Rates(), (Rates{r.Rate[0], r.Rate[1], r.Rate[2], r.Rate[3], r.Rate[4]}); got != want {
			t.Errorf("line %d: rates %v, want %v", i+1, got, want)
		}
	}
	// The last ones are the oracle's case "rates", which goes on with the last
	// 12 of its packets and then silence.
	now.Add(&lb.Counters{InPackets: 12, InBytes: 12 * 140})
	for _, silence := range []struct {
		ticks int
		want  Rates
	}{{2, Rates{0, 7, 0, 919, 0}}, {10, Rates{0, 0, 0, 52, 0}}} {
		for range silence.ticks {
			e.Tick(now)
		}
		if e.Rates() != silence.want {
			t.Errorf("after %d more ticks: %v, want %v", silence.ticks, e.Rates(), silence.want)
		}
	}
}

// TestEstimatorLong: at a steady pace the rate comes to it, and to nothing
// without.
func TestEstimatorLong(t *testing.T) {
	var e Estimator
	var c lb.Counters
	for range 100 {
		c.Add(&lb.Counters{Conns: 2000, InPackets: 20e6, OutPackets: 2, InBytes: 25e9, OutBytes: 2})
		e.Tick(c)
	}
	if got, want := e.Rates(), (Rates{1000, 10e6, 1, 12.5e9, 1}); got != want {
		t.Errorf("steady: %v, want %v", got, want)
	}
	for range 200 {
		e.Tick(c)
	}
	if got := e.Rates(); got != (Rates{}) {
		t.Errorf("after silence: %v", got)
	}
}

// TestEstimatorAnew: counters that begin anew do not become a rate of 2^64.
func TestEstimatorAnew(t *testing.T) {
	var e Estimator
	e.Tick(lb.Counters{Conns: 1000, InPackets: 1000, InBytes: 1000})
	e.Tick(lb.Counters{Conns: 8, InPackets: 16, InBytes: 24})
	if got := e.Rates(); got.Conns > 100 || got.InPackets > 100 || got.InBytes > 130 {
		t.Errorf("rates %v", got)
	}
}

// TestMeter: -Z of a service, of all, and what a slot's or an ID's next holder
// gets to see.
func TestMeter(t *testing.T) {
	b := newBackend()
	live := &liveCounts{}
	b.Live = live
	must := func(stdin string) {
		t.Helper()
		if _, errs, exit := do(b, stdin, "-R"); exit != 0 || errs != "" {
			t.Fatalf("%s: %d %s", stdin, exit, errs)
		}
	}
	stats := func(what string, want ...string) {
		t.Helper()
		out, _, _ := do(b, "", "-Ln", "--stats")
		var got []string
		for _, line := range strings.Split(out, "\n")[3:] {
			if f := strings.Fields(line); len(f) > 0 {
				got = append(got, strings.Join(f[len(f)-5:], " "))
			}
		}
		if strings.Join(got, ", ") != strings.Join(want, ", ") {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	must("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.1.0.1:80 -m\n-A -t 10.0.0.1:81 -s rr\n-a -t 10.0.0.1:81 -r 10.1.0.1:81 -m\n")
	c := func(n uint64) lb.Counters {
		return lb.Counters{Conns: n, InPackets: 2 * n, OutPackets: 3 * n, InBytes: 4 * n, OutBytes: 5 * n}
	}
	live.c = Counts{Services: []lb.Counters{c(100), c(200)}, Reals: []lb.Counters{c(100), c(200)}}
	b.Meter.Tick(b.Director.Current(), live.c)
	stats("first", "100 200 300 400 500", "100 200 300 400 500", "200 400 600 800 1000", "200 400 600 800 1000")
	if out, _, _ := do(b, "", "-Ln", "--rate", "-t", "10.0.0.1:80"); !strings.Contains(out, "12       25       37       50       62") {
		// 100 in 2 s, a quarter: 12.5, cut; 25; 37.5, cut; of bytes 50 and 62.5
		t.Errorf("rates:\n%s", out)
	}
	if _, _, exit := do(b, "", "-Z", "-t", "10.0.0.1:80"); exit != 0 {
		t.Errorf("-Z exits %d", exit)
	}
	stats("-Z of one", "0 0 0 0 0", "0 0 0 0 0", "200 400 600 800 1000", "200 400 600 800 1000")
	live.c.Services[0], live.c.Reals[0] = c(101), c(101)
	stats("one more", "1 2 3 4 5", "1 2 3 4 5", "200 400 600 800 1000", "200 400 600 800 1000")
	do(b, "", "-Z")
	stats("-Z of all", "0 0 0 0 0", "0 0 0 0 0", "0 0 0 0 0", "0 0 0 0 0")
	if out, _, _ := do(b, "", "-Ln", "--rate"); strings.Contains(strings.ReplaceAll(out, "10.", ""), "12 ") {
		t.Errorf("rates after -Z:\n%s", out)
	}
	// The kernel's zero is what it published last: what came since shows again.
	b.Meter.Tick(b.Director.Current(), live.c)
	stats("-Z of what had not been published", "1 2 3 4 5", "1 2 3 4 5", "0 0 0 0 0", "0 0 0 0 0")
	live.c.Reals[0] = c(104)
	must("-D -t 10.0.0.1:80\n")
	b.Meter.Tick(b.Director.Current(), live.c) // not of removed servers
	must("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.1.0.1:80 -m\n")
	live.c.Services[0] = c(0) // workers clear a slot's counters for its next holder
	stats("a server of a service that was made again", "0 0 0 0 0", "0 0 0 0 0", "0 0 0 0 0", "0 0 0 0 0")
	b.Meter.Tick(b.Director.Current(), live.c)
	stats("and what it had counted last", "0 0 0 0 0", "3 6 9 12 15", "0 0 0 0 0", "0 0 0 0 0")
	must("-D -t 10.0.0.1:80\n")
	must("-A -u 10.0.0.9:53 -s rr\n") // takes the slot, and counts from nothing
	live.c.Services[0] = c(0)
	stats("another in the slot", "0 0 0 0 0", "0 0 0 0 0", "0 0 0 0 0")
	live.c.Services[0] = c(7)
	stats("counted in the slot", "0 0 0 0 0", "0 0 0 0 0", "7 14 21 28 35")
	live.err = lb.ErrInvalid
	if _, errs, exit := do(b, "", "-Ln"); exit != 255 || !strings.HasPrefix(errs, "Invalid operation.") {
		t.Errorf("without counts: exit %d, %q", exit, errs)
	}
}

// liveCounts is a Live with given counts.
type liveCounts struct {
	c   Counts
	err error
}

func (l *liveCounts) Counts() (Counts, error)       { return l.c, l.err }
func (l *liveCounts) Conns(visit func(*Conn)) error { return l.err }
