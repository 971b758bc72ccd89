package rings

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Mode is how an interface's frames reach the UMEM: configuration key
// interfaces[].mode.
type Mode uint8

// The modes; the last two differ in where the XDP program runs.
const (
	Auto     Mode = iota // the first of the following that works
	ZeroCopy             // the NIC reads and writes the UMEM itself
	Driver               // the driver runs the XDP program, the kernel copies
	Generic              // any driver: the kernel runs the program on its skbs and copies
)

var modeNames = [...]string{"auto", "zerocopy", "driver", "generic"}

func (m Mode) String() string { return modeNames[m] }

// ParseMode returns the mode of that name.
func ParseMode(s string) (Mode, error) {
	if i := slices.Index(modeNames[:], s); i >= 0 {
		return Mode(i), nil
	}
	return 0, fmt.Errorf("mode %q: want one of %s", s, strings.Join(modeNames[:], ", "))
}

// HugePages says what memory a UMEM is of: configuration key workers.huge_pages.
type HugePages uint8

// The settings of huge_pages.
const (
	HugeAuto    HugePages = iota // huge pages if enough of them are reserved
	HugeRequire                  // huge pages, or an error
	HugeOff                      // ordinary pages
)

var hugeNames = [...]string{"auto", "require", "off"}

func (h HugePages) String() string { return hugeNames[h] }

// ParseHugePages returns the setting of that name.
func ParseHugePages(s string) (HugePages, error) {
	if i := slices.Index(hugeNames[:], s); i >= 0 {
		return HugePages(i), nil
	}
	return 0, fmt.Errorf("huge_pages %q: want one of %s", s, strings.Join(hugeNames[:], ", "))
}

// Interface is one queue of one interface, to be opened for a worker.
type Interface struct {
	Name     string
	Index    int // kernel ifindex
	Queue    int
	RingSize int // entries of each of the four rings, a power of two
	Mode     Mode
}

// OpenConfig is what one worker opens.
type OpenConfig struct {
	Worker     int // for messages
	Interfaces []Interface
	Frames     int // of the UMEM, a power of two
	FrameSize  int // bytes: 2048 or 4096
	HugePages  HugePages
	Log        *slog.Logger
}

// Binding is how a queue was bound.
type Binding struct {
	Interface    string
	Index, Queue int
	ZeroCopy     bool
	HugePages    bool   // of the worker's UMEM
	BusyPoll     error  // nil: the busy-poll options are set; else why not
	Attach       []Mode // how the XDP program may be attached: Driver, Generic or first one, then the other
}

// A Set is a worker's UMEM and its ports, in the order of
// OpenConfig.Interfaces. Queues and Ports are the same objects.
type Set struct {
	UMEM   *UMEM
	Queues []*Queue
	Ports  []Port
}

// Close closes all ports. It may be called again.
func (s *Set) Close() error {
	var errs []error
	for _, q := range slices.Backward(s.Queues) {
		errs = append(errs, q.Close())
	}
	s.Queues, s.Ports = nil, nil
	return errors.Join(errs...)
}

// opening lets one Open or Close of a socket run at a time: asavie/xdp takes
// its bind flags from a global, and what it leaves mapped is found by looking
// at what the process has mapped.
var opening sync.Mutex

// Open binds a worker's queues to one UMEM. Sockets that share a UMEM are all
// zero-copy or all copying, so the ladder of mode auto is climbed by all of
// them together; what was bound, and why what comes before it failed, is
// logged. An error says what was tried and what to do.
func Open(c OpenConfig) (*Set, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	ladder, err := c.ladder()
	if err != nil {
		return nil, err
	}
	opening.Lock()
	defer opening.Unlock()
	var failed []error
	for _, zeroCopy := range ladder {
		s, err := c.bindRetrying(zeroCopy)
		if err == nil {
			c.report(s)
			return s, nil
		}
		c.Log.Info("AF_XDP bind failed", "worker", c.Worker, "zerocopy", zeroCopy, "error", err)
		failed = append(failed, err)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, errNoHugePages) {
			break // so it would be in any mode
		}
	}
	return nil, fmt.Errorf("open AF_XDP sockets of worker %d: %w", c.Worker, errors.Join(failed...))
}

// ladder returns the kinds of bind to try, in order: true is zero-copy.
func (c *OpenConfig) ladder() ([]bool, error) {
	zero, copied := true, true
	var modes []string
	for _, i := range c.Interfaces {
		zero = zero && (i.Mode == Auto || i.Mode == ZeroCopy)
		copied = copied && i.Mode != ZeroCopy
		modes = append(modes, fmt.Sprintf("%s %s", i.Name, i.Mode))
	}
	switch {
	case zero && copied:
		return []bool{true, false}, nil
	case zero, copied:
		return []bool{zero}, nil
	}
	return nil, fmt.Errorf("interfaces.mode: %s: a worker's interfaces share one UMEM, which is zero-copy for all of them or for none: set all to zerocopy, or none",
		strings.Join(modes, ", "))
}

// bindRetrying binds, and waits up to a second for queues that are busy: the
// kernel frees those of a socket that was just closed, or of a process that
// was just killed, in the background.
func (c *OpenConfig) bindRetrying(zeroCopy bool) (*Set, error) {
	for tries := 0; ; tries++ {
		s, err := c.bind(zeroCopy)
		if !errors.Is(err, unix.EBUSY) || tries == 50 {
			return s, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// bind opens all sockets, the first with the UMEM, or none.
func (c *OpenConfig) bind(zeroCopy bool) (*Set, error) {
	s := &Set{}
	flags, huge := uint16(unix.XDP_USE_NEED_WAKEUP|unix.XDP_COPY), false
	if zeroCopy {
		flags = unix.XDP_USE_NEED_WAKEUP | unix.XDP_ZEROCOPY
	}
	var first *socket
	for n := range c.Interfaces {
		i := &c.Interfaces[n]
		var k *socket
		var err error
		if n == 0 {
			k, huge, err = c.first(i, flags)
			first = k
		} else {
			k, err = openShared(i, first)
		}
		if err == nil {
			err = k.mapRings(i.RingSize)
		}
		if err == nil && n == 0 {
			s.UMEM, err = NewUMEM(k.umem, c.FrameSize)
		}
		if err != nil {
			if k != nil {
				err = errors.Join(err, k.close())
			}
			for _, q := range slices.Backward(s.Queues) {
				err = errors.Join(err, q.kernel.(*socket).close())
			}
			return nil, bindError(i, zeroCopy, err)
		}
		q := NewQueue(s.UMEM, k.memory, k)
		q.bound = Binding{
			Interface: i.Name, Index: i.Index, Queue: i.Queue, ZeroCopy: zeroCopy, HugePages: huge,
			BusyPoll: k.tune(i.RingSize, c.FrameSize), Attach: i.Mode.attach(zeroCopy),
		}
		// Copied frames are brought by the driver's own interrupts; busy polling
		// has nothing to fetch there.
		q.pollRx = zeroCopy && q.bound.BusyPoll == nil
		s.Queues, s.Ports = append(s.Queues, q), append(s.Ports, q)
	}
	return s, nil
}

// first opens the socket that has the UMEM. asavie/xdp makes both, with the
// ordinary pages that it knows; a UMEM of huge pages is made by us, because
// its constructor takes no memory.
func (c *OpenConfig) first(i *Interface, flags uint16) (k *socket, huge bool, err error) {
	if c.HugePages != HugeOff {
		k, err = openHuge(i, c.Frames*c.FrameSize, c.FrameSize, flags)
		if err == nil || c.HugePages == HugeRequire || !errors.Is(err, errNoHugePages) {
			return k, err == nil, err
		}
	}
	k, err = openAsavie(i, c.Frames, c.FrameSize, flags)
	return k, false, err
}

// attach returns how the program of a queue in this mode may be attached, in
// the order to try.
func (m Mode) attach(zeroCopy bool) []Mode {
	switch {
	case zeroCopy || m == Driver:
		return []Mode{Driver}
	case m == Generic:
		return []Mode{Generic}
	}
	return []Mode{Driver, Generic}
}

// report logs how each queue was bound.
func (c *OpenConfig) report(s *Set) {
	for _, q := range s.Queues {
		b := &q.bound
		busy := "on"
		if b.BusyPoll != nil {
			busy = b.BusyPoll.Error()
		}
		c.Log.Info("AF_XDP bound", "worker", c.Worker, "interface", b.Interface, "queue", b.Queue,
			"zerocopy", b.ZeroCopy, "huge_pages", b.HugePages, "busy_poll", busy)
	}
}

// bindError says what could not be bound and what to do about it.
func bindError(i *Interface, zeroCopy bool, err error) error {
	how, advice := "copy", ""
	if zeroCopy {
		how = "zero-copy"
	}
	switch {
	case errors.Is(err, errNoHugePages):
		advice = ": raise vm.nr_hugepages, or set workers.huge_pages to auto"
	case errors.Is(err, unix.EBUSY):
		advice = ": another AF_XDP socket has this queue; is another sluice running?"
	case errors.Is(err, unix.EOPNOTSUPP) && zeroCopy:
		advice = ": the driver has no zero-copy; interfaces.mode driver or auto does without"
	case errors.Is(err, unix.EPERM):
		advice = ": needs root, or CAP_NET_RAW and CAP_NET_ADMIN"
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		advice = ": too little memory or RLIMIT_MEMLOCK; lower workers.umem_frames, or raise the limit"
	case errors.Is(err, unix.EINVAL):
		advice = ": has the interface this queue?"
	case errors.Is(err, unix.ENODEV):
		advice = ": the interface is gone"
	case errors.Is(err, unix.EAFNOSUPPORT):
		advice = ": the kernel has no AF_XDP (CONFIG_XDP_SOCKETS)"
	}
	return fmt.Errorf("bind %s queue %d (%s): %w%s", i.Name, i.Queue, how, err, advice)
}
