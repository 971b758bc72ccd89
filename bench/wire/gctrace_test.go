package wire

import (
	"strings"
	"testing"
	"time"
)

// A line that the runtime writes is a pause, and nothing else is.
func TestParsePause(t *testing.T) {
	const line = "gc 7 @0.512s 1%: 0.016+0.45+0.034 ms clock, 0.12+0.33/0.43/0+0.027 ms cpu, 4->4->1 MB, 4 MB goal, 0 MB stacks, 0 MB globals, 8 P"
	if got, ok := parsePause(line); !ok || got != 34*time.Microsecond {
		t.Errorf("%v %v, want 34 µs", got, ok)
	}
	for _, other := range []string{
		"", "time=2026-01-01 level=INFO msg=running", "gc 7 @0.5s 1%: 0.016+0.45 ms clock", "gc 7 @0.5s 1%: a+b+c ms clock", "gc pauses: 1+2+3", strings.TrimPrefix(line, "gc "),
	} {
		if got, ok := parsePause(other); ok {
			t.Errorf("%q is a pause of %v", other, got)
		}
	}
}

// A process's pauses are kept apart from what it says, and from those of before.
func TestPausesSince(t *testing.T) {
	p := &process{}
	p.read(strings.NewReader("hello\ngc 1 @0.1s 0%: 0.5+1+0.1 ms clock\n"), "", nil)
	began := time.Now()
	p.read(strings.NewReader("gc 2 @0.2s 0%: 0.1+1+0.2 ms clock\ngc 3 @0.2s 0%: 0.1+1+0.1 ms clock\n"), "", nil)
	if n, longest := p.pausesSince(began); n != 2 || longest != 200*time.Microsecond {
		t.Errorf("%d pauses, the longest %v", n, longest)
	}
	if len(p.said) != 1 || p.said[0] != "hello" {
		t.Errorf("said %q", p.said)
	}
	p = nil
	if n, _ := p.pausesSince(began); n != 0 {
		t.Errorf("no process has %d pauses", n)
	}
}

func TestNICMode(t *testing.T) {
	p := &process{said: []string{"hello", `time=x level=INFO msg="interface attached" interface=front role=client mode=driver workers=1`}}
	if got := p.nicMode(); got != "driver" {
		t.Errorf("mode %q, want driver", got)
	}
	p.said = p.said[:1]
	if got := p.nicMode(); got != "" {
		t.Errorf("who says nothing has mode %q", got)
	}
}
