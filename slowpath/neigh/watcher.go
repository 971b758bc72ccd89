package neigh

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
)

// Config is what a Watcher needs for its life.
type Config struct {
	Ports    []string               // the node's interfaces, in the order of their numbers
	Override Network                // the configuration's network section
	OnChange func(t *nexthop.Table) // called by Run's goroutine when there is a new table; may be nil
	Refresh  time.Duration          // how often neighbours in use are confirmed; 0: 5 s
	Log      *slog.Logger           // nil: the default one
}

// Watcher follows the kernel's links, addresses, routes and neighbours of one network
// namespace.
type Watcher struct {
	cfg    Config
	events *os.File        // rtnetlink multicast; read by Run
	dumps  *dumps          // used by Run
	asks   *netlink.Handle // used by the resolver
	ask    chan neighbor

	view    view
	places  *places
	version uint64
	said    string // the last complaint that was logged
	current atomic.Pointer[nexthop.Table]

	mu       sync.Mutex // guards what follows: others' wishes
	override Network
	keep     []netip.Addr
	wishes   atomic.Bool // they changed since Run looked
	turn     neighbor    // where the last round of confirmations of stale entries ended

	counts struct{ tables, resyncs, asked, unasked atomic.Uint64 }
}

// Counters are a Watcher's counts since it was made.
type Counters struct {
	Tables  uint64 // built
	Resyncs uint64 // times that the kernel dropped events and everything was read again
	Asked   uint64 // neighbours that the kernel was asked to resolve or confirm
	Unasked uint64 // neighbours that it could not be asked for
}

// Open begins to follow the calling thread's network namespace and reads its state: Table
// has it when Open returns. Call Run then, or Close.
func Open(c Config) (*Watcher, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Refresh <= 0 {
		c.Refresh = refreshEvery
	}
	w := &Watcher{cfg: c, override: c.Override, places: newPlaces(c.Ports), ask: make(chan neighbor, 1024)}
	w.view.neighbors = map[neighbor]state{}
	err := w.open()
	if err == nil {
		err = w.view.read(w.dumps, partAll)
	}
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("follow the kernel's network by netlink: %w", err)
	}
	w.complain(w.build())
	return w, nil
}

// open subscribes before anything is read, so that no change falls between.
func (w *Watcher) open() (err error) {
	if w.events, err = subscribe(); err != nil {
		return err
	}
	if w.dumps, err = newDumps(); err != nil {
		return err
	}
	w.asks, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	return err
}

// subscribe opens a socket that the kernel reports changes to. The library's own
// subscriptions end when events are lost; and one socket keeps events in order.
func subscribe() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	groups := uint32(0)
	for _, g := range []uint{
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_NEXTHOP,
	} {
		groups |= 1 << (g - 1)
	}
	const buffer = 4 << 20 // some 10,000 events; what does not fit is found out by reading all again
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "netlink events"), nil
}

// Close ends a Watcher that was not run. Run does it itself.
func (w *Watcher) Close() {
	if w.events != nil {
		_ = w.events.Close()
	}
	if w.dumps != nil {
		w.dumps.close()
	}
	if w.asks != nil {
		w.asks.Close()
	}
}

// Table returns the current table; any goroutine may ask.
func (w *Watcher) Table() *nexthop.Table { return w.current.Load() }

// Published is where the current table is, for workers that look at it once a batch.
func (w *Watcher) Published() *atomic.Pointer[nexthop.Table] { return &w.current }

// Counters returns the counts so far; any goroutine may ask.
func (w *Watcher) Counters() Counters {
	return Counters{
		Tables: w.counts.tables.Load(), Resyncs: w.counts.resyncs.Load(),
		Asked: w.counts.asked.Load(), Unasked: w.counts.unasked.Load(),
	}
}

// SetOverride replaces the configuration's network section, as at a reload.
func (w *Watcher) SetOverride(n Network) {
	w.mu.Lock()
	w.override = n
	w.mu.Unlock()
	w.wish()
}

// Keep names the addresses, real servers', whose next hops are to be resolved before
// they are needed and confirmed for as long as they are named.
func (w *Watcher) Keep(addrs []netip.Addr) {
	w.mu.Lock()
	w.keep = addrs
	w.mu.Unlock()
	w.wish()
}

// wish has Run look at what others want now.
func (w *Watcher) wish() {
	w.wishes.Store(true)
	_ = w.events.SetReadDeadline(time.Now()) // interrupts its Read; after Run's end there is none
}

// build publishes a table of the view. The error is of what had to be left out.
func (w *Watcher) build() error {
	w.mu.Lock()
	override := w.override
	w.mu.Unlock()
	w.version++
	t, err := w.view.table(w.version, w.places, &override)
	w.current.Store(t)
	w.counts.tables.Add(1)
	if w.cfg.OnChange != nil {
		w.cfg.OnChange(t)
	}
	return err
}

// complain logs what is wrong, once until it changes; nil: nothing any more.
func (w *Watcher) complain(err error) {
	said := w.said
	if w.said = ""; err == nil {
		return
	}
	if w.said = err.Error(); w.said != said {
		w.cfg.Log.Warn("network is not followed in all", "error", err)
	}
}
