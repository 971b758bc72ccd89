package rings

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"slices"
	"strings"
	"sync"

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
	Bond     string // of a bond's member: the bond
	Index    int    // kernel ifindex
	Queue    int
	RingSize int // entries of each of the four rings, a power of two
	Mode     Mode
}

// OpenConfig is what one worker opens: a port for each interface, and one for the
// members of a bond, which stand one after the other.
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

// A Set is a worker's UMEM with its ports and their queues, in the order of
// OpenConfig.Interfaces; queues that join stand at the end.
type Set struct {
	UMEM   *UMEM
	Queues []*Queue
	Ports  []Port

	region   *region
	zeroCopy bool
	huge     bool
}

// Close closes all ports and frees the UMEM. It may be called again.
func (s *Set) Close() error {
	opening.Lock()
	defer opening.Unlock()
	return s.close()
}

func (s *Set) close() error {
	if s.region == nil {
		return nil
	}
	var errs []error
	for _, q := range slices.Backward(s.Queues) {
		errs = append(errs, q.closed(q.kernel.(*socket).close()))
	}
	for _, p := range s.Ports {
		if b, ok := p.(*Bond); ok {
			errs = append(errs, unix.Close(b.waits))
		}
	}
	errs = append(errs, s.region.drop())
	s.Queues, s.Ports, s.region = nil, nil, nil
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
		var s *Set
		err := retryBusy(func() (err error) { s, err = c.bind(zeroCopy); return err })
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

// bind opens all sockets, the first with the UMEM, or none.
func (c *OpenConfig) bind(zeroCopy bool) (*Set, error) {
	s := &Set{zeroCopy: zeroCopy}
	for n := range c.Interfaces {
		i := &c.Interfaces[n]
		var k *socket
		var err error
		if n == 0 {
			k, err = c.first(s, i)
		} else {
			k, err = s.next(i)
		}
		if err == nil {
			err = s.add(i, k)
		}
		if err != nil {
			return nil, errors.Join(bindError(i, zeroCopy, err), s.close())
		}
	}
	return s, nil
}

// bindFlags are those of a socket that has a UMEM to itself.
func bindFlags(zeroCopy bool) uint16 {
	if zeroCopy {
		return unix.XDP_USE_NEED_WAKEUP | unix.XDP_ZEROCOPY
	}
	return unix.XDP_USE_NEED_WAKEUP | unix.XDP_COPY
}

// first opens the socket that has the UMEM, and makes that the Set's. asavie/xdp
// makes both, with the ordinary pages that it knows; a UMEM of huge pages is made by
// us, because its constructor takes no memory.
func (c *OpenConfig) first(s *Set, i *Interface) (*socket, error) {
	k, err := c.firstSocket(s, i)
	if err != nil {
		return nil, err
	}
	s.region = k.region
	s.UMEM, err = NewUMEM(k.region.mem, c.FrameSize)
	return k, err
}

func (c *OpenConfig) firstSocket(s *Set, i *Interface) (*socket, error) {
	if c.HugePages != HugeOff {
		k, err := openHuge(i, c.Frames*c.FrameSize, c.FrameSize, bindFlags(s.zeroCopy))
		if s.huge = err == nil; s.huge || c.HugePages == HugeRequire || !errors.Is(err, errNoHugePages) {
			return k, err
		}
	}
	return openAsavie(i, c.Frames, c.FrameSize, bindFlags(s.zeroCopy))
}

// next opens a further socket on the UMEM. It is shared from any whose interface is
// still there; if there is none, the memory becomes another UMEM of the kernel's.
func (s *Set) next(i *Interface) (*socket, error) {
	for _, q := range s.Queues {
		k, err := openShared(i, q.kernel.(*socket))
		if !errors.Is(err, unix.EBADF) {
			return k, err
		}
	}
	return openOn(i, s.region, s.UMEM.FrameSize(), bindFlags(s.zeroCopy))
}

// add makes the queue on a socket, and of it a port, or a member of a bond's.
func (s *Set) add(i *Interface, k *socket) error {
	q, err := s.queue(i, k)
	if err != nil {
		return err
	}
	if i.Bond == "" {
		s.Ports = append(s.Ports, q)
		return s.UMEM.adopt(q)
	}
	b := s.Bond(i.Bond)
	if b == nil {
		if b, err = newBond(i.Bond, s.UMEM); err != nil {
			return err
		}
		s.Ports = append(s.Ports, b)
	}
	return b.Add(q)
}

// queue makes the queue on a socket, its fill ring empty. Of an error it closes the
// socket.
func (s *Set) queue(i *Interface, k *socket) (*Queue, error) {
	err := k.mapRings(i.RingSize)
	if err != nil {
		return nil, errors.Join(err, k.close())
	}
	q := newQueue(s.UMEM, k.memory, k)
	q.bound = Binding{
		Interface: i.Name, Index: i.Index, Queue: i.Queue, ZeroCopy: s.zeroCopy, HugePages: s.huge,
		BusyPoll: k.tune(i.RingSize, s.UMEM.FrameSize()), Attach: i.Mode.attach(s.zeroCopy),
	}
	// Copied frames are brought by the driver's own interrupts; busy polling
	// has nothing to fetch there.
	q.pollRx = s.zeroCopy && q.bound.BusyPoll == nil
	s.Queues = append(s.Queues, q)
	return q, nil
}

// NewUMEM makes a UMEM of memory whose length is a multiple of frameSize bytes,
// a power of two of at least 2048. All frames are free.
func NewUMEM(mem []byte, frameSize int) (*UMEM, error) {
	if frameSize < 2048 || frameSize&(frameSize-1) != 0 {
		return nil, fmt.Errorf("UMEM frame size %d: want a power of two, 2048 or more", frameSize)
	}
	if len(mem) == 0 || len(mem)%frameSize != 0 {
		return nil, fmt.Errorf("UMEM of %d bytes: want a multiple of the frame size %d", len(mem), frameSize)
	}
	n := len(mem) / frameSize
	u := &UMEM{mem: mem, shift: uint(bits.TrailingZeros(uint(frameSize))), free: make([]uint32, n), given: make([]uint8, n)}
	for i := range u.free {
		u.free[i] = uint32(n - 1 - i) // frame 0 on top
	}
	u.owners.init(n)
	return u, nil
}

// NewQueue returns the Port on the given rings, with its fill ring full.
func NewQueue(u *UMEM, m Memory, k Kernel) *Queue {
	q := newQueue(u, m, k)
	if err := u.adopt(q); err != nil {
		panic(err) // no worker opens so many
	}
	return q
}

// newQueue is NewQueue, with the fill ring empty.
func newQueue(u *UMEM, m Memory, k Kernel) *Queue {
	q := &Queue{umem: u, kernel: k}
	q.fill.ring = mapRing[uint64](m.Fill, m.Offsets.Fr, m.RingSize)
	q.completion.ring = mapRing[uint64](m.Completion, m.Offsets.Cr, m.RingSize)
	q.rx.ring = mapRing[unix.XDPDesc](m.Rx, m.Offsets.Rx, m.RingSize)
	q.tx.ring = mapRing[unix.XDPDesc](m.Tx, m.Offsets.Tx, m.RingSize)
	q.fill.start()
	q.completion.start()
	q.rx.start()
	q.tx.start()
	return q
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
