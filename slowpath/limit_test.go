package slowpath

import (
	"fmt"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
)

func TestBucket(t *testing.T) {
	const second = int64(time.Second)
	for _, row := range []struct {
		stake string
		rate  Rate
		at    []int64 // nanoseconds
		want  string  // y: taken, n: refused
	}{
		{"a full bucket first", Rate{1, 3}, []int64{0, 0, 0, 0}, "yyyn"},
		{"one comes back a second", Rate{1, 2}, []int64{0, 0, second - 1, second, second}, "yynyn"},
		{"it never holds more than its burst", Rate{10, 2}, []int64{0, 60 * second, 60 * second, 60 * second}, "yyyn"},
		{"what is refused costs nothing", Rate{1, 1}, []int64{0, 1, 2, 3, second}, "ynnny"},
		{"0 is no limit", Rate{0, 0}, []int64{0, 0, 0}, "yyy"},
		{"a clock that begins late", Rate{1, 1}, []int64{1 << 60, 1 << 60}, "yn"},
	} {
		var b bucket
		got := ""
		for _, now := range row.at {
			if b.has(row.rate, now) {
				b.take(row.rate, now)
				got += "y"
			} else {
				got += "n"
			}
		}
		if got != row.want {
			t.Errorf("%s: %s, want %s", row.stake, got, row.want)
		}
	}
}

// ask has an error sent to 10.0.1.n and says whether it was.
func (s *stage) ask(n int, kind Kind) bool {
	before := len(s.frames)
	frame := packettest.Eth(nicMAC, clientMAC).IP4(fmt.Sprintf("10.0.1.%d", n), vip).UDP(5, 6)
	s.Handle(&Meta{Kind: kind, Virtual: addr(vip)}, frame.Bytes())
	return len(s.frames) > before
}

// linux are Linux's limits of ICMP errors, without budgets.
func linux() Limits {
	l := DefaultLimits()
	l.Kinds = [Kinds]Rate{}
	return l
}

func TestErrorLimits(t *testing.T) {
	s := set(t, linux())
	var known []string
	for n := 2; n < 250; n++ {
		known = append(known, fmt.Sprintf("10.0.1.%d 0", n))
	}
	s.table = table(t, 1, known...)
	count := func(n int, kind Kind, times int) (sent int) {
		for range times {
			if s.ask(n, kind) {
				sent++
			}
		}
		return sent
	}
	if got := count(2, TimeExceeded, 20); got != 6 {
		t.Errorf("%d errors to one destination at once, want Linux's burst of 6", got)
	}
	if got := count(3, PortUnreachable, 1); got != 1 {
		t.Error("another destination must not pay for the first")
	}
	if got := count(2, TooBig, 20); got != 20 {
		t.Errorf("%d of 20 about MTU: path MTU discovery is not limited, or a transfer would stall", got)
	}
	s.clock.Advance(2 * time.Second)
	if got := count(2, TimeExceeded, 20); got != 2 {
		t.Errorf("%d after 2 s, want one a second", got)
	}
	s.clock.Advance(time.Minute)
	sent := 0
	for n := 2; n < 250; n++ {
		sent += count(n, HostUnreachable, 1)
	}
	if sent != 50 {
		t.Errorf("%d to many destinations at once, want the global burst of 50", sent)
	}
	s.clock.Advance(10 * time.Millisecond)
	if got := count(2, PortUnreachable, 4) + count(3, PortUnreachable, 4) + count(4, PortUnreachable, 4); got != 10 {
		t.Errorf("%d of 12 to three destinations after 10 ms, want the 10 of 1000 a second", got)
	}
	c := s.Counters()
	const refused = 14 + 18 + (248 - 50) + 2
	if c.Errors[ErrorLimited] != refused || c.Packets[TimeExceeded][Unanswered] != 14+18 {
		t.Errorf("counters %+v, want %d refused", c, refused)
	}
}

func TestManyDestinationsNeedNoMoreMemory(t *testing.T) {
	// More destinations than places: some begin anew, none is refused that should not be.
	s := set(t, Limits{ErrorsEach: Rate{1, 6}})
	for i := range 3 * peers {
		a := addr("10.0.1.1")
		a[13], a[14], a[15] = byte(i>>16), byte(i>>8), byte(i)
		if !s.errors.allow(&a, 0) {
			t.Fatalf("destination %d refused at its first error", i)
		}
	}
}

func TestBudgets(t *testing.T) {
	l := Limits{}
	l.Kinds[Host] = Rate{10, 3}
	s := set(t, l)
	frame := fromClient().UDP(1, 2).Bytes()
	for range 5 {
		s.Handle(&Meta{Kind: Host}, frame)
	}
	s.Handle(&Meta{Kind: TimeExceeded}, frame)
	s.clock.Advance(100 * time.Millisecond)
	s.Handle(&Meta{Kind: Host}, frame)
	s.sent = nil
	s.check(t, "a flood of one kind leaves the others theirs", nil, "host passed 4, host over_budget 2, time_exceeded answered 1, error sent 1")
}

func TestFloodAllocatesNothing(t *testing.T) {
	s := set(t, Limits{})
	s.cfg.Host, s.cfg.Emit = &counted{}, func(*Out, []byte) bool { return true }
	frame := fromClient().UDP(1, 2).Bytes()
	waits := held(server, 1).Bytes()
	for _, m := range []Meta{{Kind: Host}, {Kind: TimeExceeded}, {Kind: TooBig}, {Kind: NoNeighbour, Target: addr(server)}} {
		if m.Kind == NoNeighbour {
			frame = waits
		}
		s.Handle(&m, frame)
		if n := testing.AllocsPerRun(300, func() { s.Handle(&m, frame) }); n != 0 {
			t.Errorf("Handle of %v allocates %v times a packet, want 0", m.Kind, n)
		}
	}
}
