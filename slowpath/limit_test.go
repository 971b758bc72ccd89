package slowpath

import (
	"fmt"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb/flow"
)

func TestBucket(t *testing.T) {
	const second = int64(time.Second)
	for _, row := range []struct {
		stake            string
		perSecond, burst int
		at               []int64 // nanoseconds
		want             string  // y: taken, n: refused
	}{
		{"a full bucket first", 1, 3, []int64{0, 0, 0, 0}, "yyyn"},
		{"one comes back a second", 1, 2, []int64{0, 0, second - 1, second, second}, "yynyn"},
		{"it never holds more than its burst", 10, 2, []int64{0, 60 * second, 60 * second, 60 * second}, "yyyn"},
		{"what is refused costs nothing", 1, 1, []int64{0, 1, 2, 3, second}, "ynnny"},
		{"0 is no limit", 0, 0, []int64{0, 0, 0}, "yyy"},
		{"a clock that begins late", 1, 1, []int64{1 << 60, 1 << 60}, "yn"},
	} {
		var b bucket
		got, p := "", newPace(row.perSecond, row.burst)
		for _, now := range row.at {
			if b.has(p, now) {
				b.take(p, now)
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

func TestTypeSet(t *testing.T) {
	for _, row := range []struct{ text, want string }{
		{"", ""},
		{"0-1,3-127", "0-1,3-127"},
		{"255", "255"},
		{"0-255", "0-255"},
		{"63-64,127-128", "63-64,127-128"}, // over the words' ends
		{"3,1,2", "1-3"},
	} {
		set, err := ParseTypeSet(row.text)
		if err != nil || set.String() != row.want {
			t.Errorf("%q is %q, %v, want %q", row.text, set, err, row.want)
		}
	}
	for _, text := range []string{"256", "-", "1-", "-1", "2-1", "1,,2", "a", " 1"} {
		if set, err := ParseTypeSet(text); err == nil {
			t.Errorf("%q is %q, want an error", text, set)
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

func TestErrorLimits(t *testing.T) {
	s := set(t, Limits{ICMP: DefaultICMPLimits()})
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

// What is limited, and how much, is Linux's: by type, by family, and in IPv6 by
// the route.
func TestWhatIsLimited(t *testing.T) {
	const unreachable, echo, tooBig6, unreachable6, echo6 = packet.ICMPUnreachable, 0, packet.ICMPv6TooBig, packet.ICMPv6Unreachable, 129
	v4, v6 := addr(client), addr(client6)
	for _, row := range []struct {
		stake      string
		dst        flow.Addr
		prefix     uint8
		kind, code uint8
		want       int // of 40 at once and one each 100 ms for 2 s
	}{
		{"unreachable", v4, 24, unreachable, packet.ICMPPortUnreachable, 6 + 2},
		{"path MTU discovery is left alone", v4, 24, unreachable, packet.ICMPFragNeeded, 60},
		{"echo replies are not in the mask", v4, 24, echo, 0, 60},
		{"to one address of IPv6: as in IPv4", v6, 128, unreachable6, 0, 6 + 2},
		{"to a subnet of 64 bits: four times as often", v6, 64, unreachable6, 0, 6 + 8},
		{"by the default route: sixteen times, so that each of ours gets through", v6, 0, unreachable6, 0, 6 + 20},
		{"packet too big is not in the mask", v6, 64, tooBig6, 0, 60},
		{"nor are echo replies", v6, 64, echo6, 0, 60},
	} {
		l, got := newLimits(DefaultICMPLimits()), 0
		for range 40 {
			if l.allow(&row.dst, row.prefix, row.kind, row.code, 0) {
				got++
			}
		}
		for i := range int64(20) {
			if l.allow(&row.dst, row.prefix, row.kind, row.code, (i+1)*1e8) {
				got++
			}
		}
		if got != row.want {
			t.Errorf("%s: %d of 60, want %d", row.stake, got, row.want)
		}
	}
}

func TestManyDestinationsNeedNoMoreMemory(t *testing.T) {
	// More destinations than places: some begin anew, none is refused that should not be.
	l := newLimits(ICMPLimits{Ratelimit: time.Second, Ratemask: 1 << packet.ICMPTimeExceeded})
	for i := range 3 * peers {
		a := addr("10.0.1.1")
		a[13], a[14], a[15] = byte(i>>16), byte(i>>8), byte(i)
		if !l.allow(&a, 32, packet.ICMPTimeExceeded, 0, 0) {
			t.Fatalf("destination %d refused at its first error", i)
		}
	}
}

func TestFloodAllocatesNothing(t *testing.T) {
	s := set(t, Limits{})
	s.cfg.Host, s.cfg.Emit = &counted{}, func(*Out, []byte) bool { return true }
	s.cfg.Answered = func(uint16, []byte) {}
	frame := fromClient().UDP(1, 2).Bytes()
	waits := held(server, 1).Bytes()
	for _, m := range []Meta{{Kind: Host}, {Kind: TimeExceeded}, {Kind: TooBig}, {Kind: Echo}, {Kind: NoNeighbour, Target: addr(server)}} {
		switch m.Kind {
		case NoNeighbour:
			frame = waits
		case Echo:
			frame = fromClient().ICMP4(8, 0, 1).Bytes()
		}
		s.Handle(&m, frame)
		if n := testing.AllocsPerRun(300, func() { s.Handle(&m, frame) }); n != 0 {
			t.Errorf("Handle of %v allocates %v times a packet, want 0", m.Kind, n)
		}
	}
}
