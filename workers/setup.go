package workers

import (
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/fastpath"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/rings"
)

// Sizes of the inboxes, in packets.
const (
	peerInboxSlots = 512
	slowInboxSlots = 1024
	hostInboxSlots = 2048 // bursts of whole windows
)

// New returns a Worker that is connected to nobody yet; see NewPool.
func New(c Config) (*Worker, error) {
	w := &Worker{Config: c, requests: make(chan request, 16), stopped: make(chan struct{})}
	w.pipe = fastpath.New(fastpath.Config{Worker: c.ID, Conns: c.Conns, Templates: c.Templates, Random: c.Random, Steering: c.Steering, Roles: c.Roles, ICMP: c.ICMP, Room: c.Ports[0].Room, MaxLearnt: c.MaxLearnt, Helper: c.Helper})
	w.frames = make([]rings.Frame, c.Batch)
	w.spare = make([]rings.Frame, 0, fastpath.MaxBatch)
	w.tx = make([]outbox, len(c.Ports))
	w.lastTick = clock.TicksAt(c.Clock.Now())
	if err := w.wake.open(); err != nil {
		return nil, err
	}
	w.pollFDs = []unix.PollFd{{Fd: int32(w.wake.fd), Events: unix.POLLIN}}
	for _, p := range c.Ports {
		if fd := p.FD(); fd >= 0 {
			w.pollFDs = append(w.pollFDs, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
	}
	return w, nil
}

// NewPool connects workers: each gets an inbox from every other and one from
// the slow path. frameSize is the largest packet, in bytes.
func NewPool(workers []*Worker, frameSize int) *Pool {
	p := &Pool{Workers: workers}
	for _, to := range workers {
		slow := NewInbox(slowInboxSlots, frameSize)
		p.slow = append(p.slow, peer{to, slow})
		to.inboxes = append(to.inboxes, slow)
		for _, from := range workers {
			var in *Inbox
			if from != to {
				in = NewInbox(peerInboxSlots, frameSize)
				to.inboxes = append(to.inboxes, in)
			}
			from.peers = append(from.peers, peer{worker: to, inbox: in})
		}
	}
	p.host = peer{workers[0], NewInbox(hostInboxSlots, frameSize)}
	workers[0].inboxes = append(workers[0].inboxes, p.host.inbox)
	return p
}
