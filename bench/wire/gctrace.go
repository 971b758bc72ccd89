package wire

import (
	"strconv"
	"strings"
	"time"
)

// pause is a collection of garbage in a program in Go.
type pause struct {
	at      time.Time     // when it was reported
	stopped time.Duration // how long the program stood still, the longer of both times
}

// parsePause reads a line of GODEBUG=gctrace=1 (package runtime, Environment
// Variables): "gc 7 @0.5s 1%: 0.016+0.45+0.003 ms clock, …". The first and the last
// of the three are how long all goroutines stood still.
func parsePause(line string) (stopped time.Duration, ok bool) {
	rest, ok := strings.CutPrefix(line, "gc ")
	if !ok {
		return 0, false
	}
	_, rest, _ = strings.Cut(rest, ": ")
	clock, _, ok := strings.Cut(rest, " ms clock")
	phases := strings.Split(clock, "+")
	if !ok || len(phases) != 3 {
		return 0, false
	}
	for _, phase := range []string{phases[0], phases[2]} {
		ms, err := strconv.ParseFloat(phase, 64)
		if err != nil {
			return 0, false
		}
		stopped = max(stopped, time.Duration(ms*float64(time.Millisecond)))
	}
	return stopped, true
}

// pausesSince returns how many collections were reported since then, and how long
// the longest stopped the program. A nil process has none.
func (p *process) pausesSince(then time.Time) (n int, longest time.Duration) {
	if p == nil {
		return 0, 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, gc := range p.pauses {
		if gc.at.After(then) {
			n++
			longest = max(longest, gc.stopped)
		}
	}
	return n, longest
}
