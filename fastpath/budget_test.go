package fastpath

import (
	"testing"

	"github.com/sluice-lb/sluice/internal/clock"
)

// A budget lets its burst through, then its rate, whatever its fraction of a
// tick, and no more after a long silence.
func TestBudget(t *testing.T) {
	const begin = clock.Ticks(1 << 31)
	for _, row := range []struct {
		stake  string
		budget Budget
		steps  []clock.Ticks // ticks that pass; then 1000 packets come
		want   []int         // how many of them pass
	}{
		{"no limit", Budget{}, []clock.Ticks{0, 1}, []int{1000, 1000}},
		{"the burst, then the rate", Budget{Rate: 1000, Burst: 50}, []clock.Ticks{0, 1, 3, 0}, []int{50, 10, 30, 0}},
		{"a part of a packet in a tick", Budget{Rate: 33, Burst: 1}, []clock.Ticks{0, 1, 1, 1, 1, 1, 1, 1}, []int{1, 0, 0, 0, 1, 0, 0, 0}},
		{"no more than the burst after days", Budget{Rate: 10_000_000, Burst: 20}, []clock.Ticks{0, 1 << 30}, []int{20, 20}},
	} {
		now := begin
		for i, d := range row.steps {
			now += d
			passed := 0
			for range 1000 {
				if row.budget.take(now) {
					passed++
				}
			}
			if passed != row.want[i] {
				t.Errorf("%s: step %d lets %d pass, want %d", row.stake, i, passed, row.want[i])
			}
		}
	}
}
