package fastpath

import "github.com/sluice-lb/sluice/internal/clock"

// Budget bounds packets that cost more than others: a token bucket that fills
// by the tick. The zero Budget is no limit.
type Budget struct {
	Rate, Burst int // packets a second in the long run, and at once

	left   int // hundredths of a packet: a tick is that part of a second
	filled clock.Ticks
}

// take says whether there is a token now, and takes it.
func (b *Budget) take(now clock.Ticks) bool {
	if b.Rate == 0 {
		return true
	}
	if d := now - b.filled; d != 0 {
		b.left, b.filled = min(b.left+int(d)*b.Rate, 100*b.Burst), now
	}
	if b.left < 100 {
		return false
	}
	b.left -= 100
	return true
}
