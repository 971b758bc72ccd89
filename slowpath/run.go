package slowpath

import (
	"context"
	"time"
)

// turn is how many packets of one ring are handled before the next ring has its
// turn, so that one flood does not delay another worker's packets, or another class's.
const turn = 32

// nap is the longest sleep without a look at the rings, for the case that
// whoever filled one has not called Wake.
const nap = 100 * time.Millisecond

// Wake has a sleeping Run look at its rings and at the table. A worker calls it
// after it has filled slots, once a batch; any goroutine may. While Run is awake it costs
// one load.
func (p *Path) Wake() {
	if p.asleep.Load() && p.asleep.CompareAndSwap(true, false) {
		p.wake <- struct{}{} // there is room: Run makes asleep true only when it has taken the last one
	}
}

// Run handles the workers' packets, in turns, until ctx is done. Its goroutine is
// the Intakes' consumer and the Path's owner. It sleeps while there is nothing to do.
func (p *Path) Run(ctx context.Context, workers []*Intake) {
	alarm := time.NewTimer(nap)
	defer alarm.Stop()
	for ctx.Err() == nil {
		if p.work(workers) {
			continue
		}
		p.asleep.Store(true)
		if !p.idle(workers) && p.asleep.CompareAndSwap(true, false) {
			continue // filled after work had looked, by someone who saw us awake
		}
		alarm.Reset(p.untilDue(p.cfg.Now(), nap))
		select {
		case <-ctx.Done():
		case <-p.wake:
			continue
		case <-alarm.C:
		}
		if !p.asleep.CompareAndSwap(true, false) {
			<-p.wake // someone was just about to
		}
	}
}

// work does a turn of every Intake and what is due, and says whether there was anything.
func (p *Path) work(workers []*Intake) (busy bool) {
	if p.cfg.Tables().Version != p.version {
		p.TableChanged()
	}
	if due, ok := p.NextDue(); ok {
		if now := p.cfg.Now(); due <= now {
			p.Tick(now)
		}
	}
	for _, in := range workers {
		busy = p.Take(in, turn) || busy
	}
	return busy
}

// idle says whether there is nothing to do but wait.
func (p *Path) idle(workers []*Intake) bool {
	for _, in := range workers {
		if !p.Idle(in) {
			return false
		}
	}
	return p.cfg.Tables().Version == p.version
}
