package slowpath

import "testing"

// roomy are budgets of rings of 64 without rates.
func roomy() (b Budgets) {
	for c := range b {
		b[c].Ring = 64
	}
	return b
}

// give puts a packet into an Intake, and says whether it was taken.
func give(in *Intake, m Meta, frame []byte, now int64) bool {
	meta, buf := in.Reserve(m.Kind, len(frame), now)
	if meta == nil {
		return false
	}
	*meta = m
	in.Commit(m.Kind, copy(buf, frame))
	return true
}

// A flood of a class, faster than its rate or than the slow path, is refused
// before it is copied, and leaves the other classes theirs.
func TestClassesDoNotCrowdEachOther(t *testing.T) {
	kinds := [Classes]Kind{HandBack: Host, Unresolved: NoNeighbour, ICMP: TimeExceeded, Fragments: Fragment}
	frame := fromClient().UDP(1, 2).Bytes()
	for _, row := range []struct {
		stake  string
		budget Budget
		taken  int
		why    Refusal
	}{
		{"faster than its rate", Budget{Ring: 64, Rate: 1000, Burst: 5}, 5, OverBudget},
		{"faster than the slow path", Budget{Ring: 4, Rate: 1000, Burst: 50}, 4, RingFull},
		{"without a rate", Budget{Ring: 16}, 16, RingFull},
	} {
		for flooded := range Classes {
			budgets := roomy()
			budgets[flooded] = row.budget
			in, taken := NewIntake(budgets, 2048), 0
			for range 100 {
				if give(in, Meta{Kind: kinds[flooded]}, frame, 1e9) {
					taken++
				}
			}
			want := Refused{}
			want[flooded][row.why] = uint64(100 - row.taken)
			if taken != row.taken || in.Refused != want {
				t.Errorf("%s, %v: took %d and refused %v, want %d and %v", row.stake, flooded, taken, in.Refused, row.taken, want)
			}
			for other, kind := range kinds {
				if Class(other) != flooded && !give(in, Meta{Kind: kind}, frame, 1e9) {
					t.Errorf("%s: a flood of %v left %v no room", row.stake, flooded, Class(other))
				}
			}
		}
	}
}

// Tokens are for what is copied: what a full ring refuses takes none.
func TestRefusedTakesNoToken(t *testing.T) {
	budgets := roomy()
	budgets[HandBack] = Budget{Ring: 1, Rate: 1, Burst: 2}
	s, in, frame := set(t, Limits{}), NewIntake(budgets, 64), fromClient().UDP(1, 2).Bytes()
	if give(in, Meta{Kind: Host}, make([]byte, 65), 1) || in.Refused[HandBack][TooLong] != 1 {
		t.Errorf("a frame longer than a slot: refused %v", in.Refused)
	}
	if !give(in, Meta{Kind: Host}, frame, 1) || give(in, Meta{Kind: Host}, frame, 1) {
		t.Fatal("a ring of 1 takes one packet")
	}
	if !s.Take(in, 9) || s.Take(in, 9) || !s.Idle(in) {
		t.Error("the packet is handled once")
	}
	if !give(in, Meta{Kind: Host}, frame, 1) {
		t.Errorf("the second token is gone: refused %v", in.Refused)
	}
	if s.Idle(in) {
		t.Error("idle with a packet in it")
	}
}

// Take gives every class its turn.
func TestTakeTurns(t *testing.T) {
	s, in, frame := set(t, Limits{}), NewIntake(roomy(), 2048), fromClient().UDP(1, 2).Bytes()
	for range 40 {
		give(in, Meta{Kind: Host}, frame, 1)
	}
	give(in, Meta{Kind: TimeExceeded}, frame, 1)
	s.Take(in, 8)
	c := s.Counters()
	if c.Packets[Host][Passed] != 8 || c.Packets[TimeExceeded][Answered] != 1 {
		t.Errorf("handled %v, want 8 for the host and 1 answered", c.Packets)
	}
}

func TestRefusingCostsNoMemory(t *testing.T) {
	budgets := roomy()
	budgets[ICMP] = Budget{Ring: 1, Rate: 1, Burst: 1}
	in, frame := NewIntake(budgets, 2048), fromClient().UDP(1, 2).Bytes()
	if n := testing.AllocsPerRun(100, func() { give(in, Meta{Kind: TooBig}, frame, 1) }); n != 0 {
		t.Errorf("a refusal allocates %v times, want 0", n)
	}
}
