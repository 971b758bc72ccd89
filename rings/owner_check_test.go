//go:build frameowner

package rings_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/rings"
)

// TestOwnerPanics: a frame given away twice is caught where it happens, and
// the message names both owners.
func TestOwnerPanics(t *testing.T) {
	for _, row := range []struct {
		stake string
		do    func(q *rings.Queue, b []rings.Frame) // b: a frame that was allocated
		words []string
	}{
		{"released twice", func(q *rings.Queue, b []rings.Frame) { q.Release(b); q.Release(b) }, []string{"rx batch or slow path to free stack", "free stack has it"}},
		{"sent after its release", func(q *rings.Queue, b []rings.Frame) { q.Release(b); q.Transmit(b) }, []string{"to tx ring", "free stack has it"}},
		{"released while it is sent", func(q *rings.Queue, b []rings.Frame) { q.Transmit(b); q.Release(b) }, []string{"to free stack", "tx ring has it"}},
		{"sent twice", func(q *rings.Queue, b []rings.Frame) { q.Transmit(append(b, b...)) }, []string{"to tx ring", "tx ring has it"}},
		{"taken from the fill ring", func(q *rings.Queue, b []rings.Frame) { b[0].ID = 0; q.Transmit(b) }, []string{"frame 0", "fill ring has it"}},
	} {
		t.Run(row.stake, func(t *testing.T) {
			k := newKernel(t, base(nil))
			q := k.Ports()[0]
			b := make([]rings.Frame, 1)
			q.Alloc(b)
			b[0].Len = 60
			defer func() {
				text := fmt.Sprint(recover())
				for _, w := range row.words {
					if !strings.Contains(text, w) {
						t.Errorf("panics with %q, want %q", text, w)
					}
				}
			}()
			row.do(q, b)
		})
	}
}
