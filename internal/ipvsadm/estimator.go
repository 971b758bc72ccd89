package ipvsadm

import (
	"time"

	"github.com/sluice-lb/sluice/lb"
)

// EstimatorPeriod is how often an Estimator ticks.
const EstimatorPeriod = 2 * time.Second

// Rates are what --rate shows, a second: connections, packets, bytes of IP.
type Rates struct{ Conns, InPackets, OutPackets, InBytes, OutBytes uint64 }

// Estimator works out the rates of one service or server as the kernel does:
// every two seconds each moves a quarter of the way to what was counted since
// (K-STAT-2). Rates are kept in fixed point, connections and packets in 1/1024
// and bytes in 1/32. The zero Estimator is ready; it belongs to whoever ticks it.
type Estimator struct {
	last  lb.Counters // at the last tick
	rates [5]int64    // in the order of Rates
}

// Shifts of the fixed point: a count of two seconds, shifted by one bit less,
// is a rate.
const (
	packetShift = 10
	byteShift   = 5
)

var estimatorShifts = [5]int{packetShift, packetShift, packetShift, byteShift, byteShift}

// Tick takes in the counters as they are now. Counters that went back have
// begun anew.
func (e *Estimator) Tick(now lb.Counters) {
	if wentBack(&now, &e.last) {
		e.last = lb.Counters{}
	}
	counted := counts(&now)
	for i, last := range counts(&e.last) {
		rate := int64((counted[i] - last) << (estimatorShifts[i] - 1))
		e.rates[i] += (rate - e.rates[i]) >> 2
	}
	e.last = now
}

// Rates returns the rates as of the last tick, rounded as the kernel does.
func (e *Estimator) Rates() Rates {
	var r [5]uint64
	for i, rate := range e.rates {
		shift := estimatorShifts[i]
		r[i] = uint64(rate+1<<(shift-1)-1) >> shift
	}
	return Rates{r[0], r[1], r[2], r[3], r[4]}
}

// Zero sets the rates to nothing (K-STAT-3). What is counted until the next
// tick still enters it.
func (e *Estimator) Zero() { e.rates = [5]int64{} }

func counts(c *lb.Counters) [5]uint64 {
	return [5]uint64{c.Conns, c.InPackets, c.OutPackets, c.InBytes, c.OutBytes}
}

// wentBack says whether now cannot follow was.
func wentBack(now, was *lb.Counters) bool {
	before := counts(was)
	for i, n := range counts(now) {
		if n < before[i] {
			return true
		}
	}
	return false
}
