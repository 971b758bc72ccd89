package neigh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// gather is how long changes are gathered before a table is built.
	gather = 10 * time.Millisecond
	// share bounds the time spent on building: the next table is not begun before
	// this many times what the last one took.
	share = 10
	// retry is when what could not be read is read again.
	retry = time.Second
	// refreshEvery is how often neighbours in use are confirmed by default.
	refreshEvery = 5 * time.Second
)

// agenda is what Run has to do and when.
type agenda struct {
	stale   parts     // of the view, to be read again
	dirty   bool      // the table is not that of the view
	build   time.Time // when it will be, if dirty
	soonest time.Time // not before
	refresh time.Time // when neighbours in use are confirmed
}

// mark notes that parts have changed and a table is due after a while. More changes until
// then do not put it off.
func (a *agenda) mark(what parts, after time.Duration) {
	a.stale |= what
	if a.dirty {
		return
	}
	a.dirty, a.build = true, time.Now().Add(after)
	if a.build.Before(a.soonest) {
		a.build = a.soonest
	}
}

// next is when something is due.
func (a *agenda) next() time.Time {
	if a.dirty && a.build.Before(a.refresh) {
		return a.build
	}
	return a.refresh
}

// Run follows the kernel until ctx is done, and then frees what Open took. An error
// before that is one that following cannot go on with.
func (w *Watcher) Run(ctx context.Context) error {
	var resolver sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	resolver.Go(func() { w.resolve(ctx) })
	stop := context.AfterFunc(ctx, func() { _ = w.events.Close() })
	defer func() {
		stop()
		cancel()
		resolver.Wait()
		w.Close()
	}()
	a := agenda{refresh: time.Now()}
	buf := make([]byte, 64<<10) // the longest datagram of events
	for {
		err := w.listen(&a, buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("follow the kernel's network by netlink: %w", err)
		}
		if w.wishes.Swap(false) {
			a.mark(0, 0)
			a.refresh = time.Now()
		}
		now := time.Now()
		if a.dirty && !now.Before(a.build) {
			w.catchUp(&a, now)
		}
		if !now.Before(a.refresh) {
			w.confirm()
			a.refresh = now.Add(w.cfg.Refresh)
		}
	}
}

// catchUp reads what has changed and publishes a table of it.
func (w *Watcher) catchUp(a *agenda, now time.Time) {
	what := a.stale
	a.stale, a.dirty = 0, false
	err := w.view.read(w.dumps, what)
	w.complain(errors.Join(err, w.build()))
	a.soonest = now.Add(share * time.Since(now))
	if err != nil {
		a.mark(what, retry)
	}
}

// listen waits for events until something is due, and takes them over.
func (w *Watcher) listen(a *agenda, buf []byte) error {
	if err := w.events.SetReadDeadline(a.next()); err != nil {
		return err
	}
	if w.wishes.Load() {
		return nil // their interruption may have come before the deadline was set
	}
	n, err := w.events.Read(buf)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	case errors.Is(err, unix.ENOBUFS): // events were lost
		w.counts.resyncs.Add(1)
		a.mark(partAll, gather)
		return nil
	case err != nil:
		return err
	}
	w.take(a, buf[:n])
	return nil
}

// take takes over the events of a datagram. Neighbours come one by one and many; of
// the rest an event only says that something has changed: when a link goes down the
// kernel does not report each route that it takes along.
func (w *Watcher) take(a *agenda, b []byte) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		a.mark(partAll, gather)
		return
	}
	for _, m := range messages {
		switch m.Header.Type {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR:
			a.mark(partLinks|partRoutes, gather)
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			if len(m.Data) < unix.SizeofRtMsg || nl.DeserializeRtMsg(m.Data).Flags&unix.RTM_F_CLONED == 0 {
				a.mark(partRoutes, gather)
			}
		case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
			a.mark(partRoutes, gather)
		case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
			w.takeNeighbor(a, &m)
		}
	}
}

func (w *Watcher) takeNeighbor(a *agenda, m *syscall.NetlinkMessage) {
	if len(m.Data) < unix.SizeofNdMsg {
		a.mark(partNeighbors, gather)
		return
	}
	k, err := netlink.NeighDeserialize(m.Data)
	switch {
	case err != nil:
		a.mark(partNeighbors, gather)
	case w.view.note(k, m.Header.Type == unix.RTM_DELNEIGH):
		a.mark(0, gather)
	}
}
