package slowpath

import (
	"context"
	"time"

	"github.com/sluice-lb/sluice/internal/spsc"
)

// turn is how many packets of one ring are handled before the next ring has its
// turn, so that one worker's flood does not delay another's packets.
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

// Run handles the packets of the rings, in turns, until ctx is done. Its goroutine is
// the rings' consumer and the Path's owner. It sleeps while there is nothing to do.
func (p *Path) Run(ctx context.Context, rings []*spsc.Ring[Meta]) {
	alarm := time.NewTimer(nap)
	defer alarm.Stop()
	for ctx.Err() == nil {
		if p.work(rings) {
			continue
		}
		p.asleep.Store(true)
		if !p.idle(rings) && p.asleep.CompareAndSwap(true, false) {
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

// work does a turn of every ring and what is due, and says whether there was anything.
func (p *Path) work(rings []*spsc.Ring[Meta]) (busy bool) {
	if p.cfg.Tables().Version != p.version {
		p.TableChanged()
	}
	if due, ok := p.NextDue(); ok {
		if now := p.cfg.Now(); due <= now {
			p.Tick(now)
		}
	}
	for _, r := range rings {
		for range turn {
			m, frame, ok := r.Front()
			if !ok {
				break
			}
			p.Handle(m, frame)
			r.Release()
			busy = true
		}
	}
	return busy
}

// idle says whether there is nothing to do but wait.
func (p *Path) idle(rings []*spsc.Ring[Meta]) bool {
	for _, r := range rings {
		if _, _, ok := r.Front(); ok {
			return false
		}
	}
	return p.cfg.Tables().Version == p.version
}
