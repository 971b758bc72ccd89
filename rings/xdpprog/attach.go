package xdpprog

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Mode is where an interface runs the program.
type Mode uint8

// Driver runs it in the driver, before the kernel makes a packet of the frame;
// Generic after that, on any interface, at the price of a copy.
const (
	Driver Mode = iota
	Generic
)

func (m Mode) String() string {
	if m == Generic {
		return "generic"
	}
	return "driver"
}

func (m Mode) flags() link.XDPAttachFlags {
	if m == Generic {
		return link.XDPGenericMode
	}
	return link.XDPDriverMode
}

// ErrOccupied reports an interface that has an XDP program already.
var ErrOccupied = errors.New("interface has an XDP program")

// Attachment is the program on one interface: its sockets and counts. Its
// methods may be called from any goroutine.
type Attachment struct {
	steer   *Steer
	ifindex int
	mode    Mode
	loaded  struct {
		Program *ebpf.Program `ebpf:"sluice_steer"`
		Sockets *ebpf.Map     `ebpf:"sockets"`
		Counts  *ebpf.Map     `ebpf:"counts"`
	}
	link    link.Link // nil: attached by netlink
	lingers bool
}

// Attach runs the program on an interface of the calling thread's network
// namespace. All its frames pass until SetSocket. The error is ErrOccupied if
// a program is attached, sluice's or another's; after any other error of
// Driver the caller may try Generic.
func (s *Steer) Attach(ifindex int, mode Mode) (*Attachment, error) {
	nic, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return nil, fmt.Errorf("interface %d: %w", ifindex, err)
	}
	name := nic.Attrs().Name
	if err := refuse(nic); err != nil {
		return nil, err
	}
	a, err := s.instance(ifindex, mode)
	if err != nil {
		return nil, fmt.Errorf("load XDP program for %s: %w", name, err)
	}
	a.link, err = link.AttachXDP(link.XDPOptions{Program: a.loaded.Program, Interface: ifindex, Flags: mode.flags()})
	if errors.Is(err, ebpf.ErrNotSupported) {
		err = a.attachNetlink(nic)
	}
	if err != nil {
		err = fmt.Errorf("attach XDP program to %s in %s mode: %w", name, mode, err)
		return nil, errors.Join(err, a.release())
	}
	s.mu.Lock()
	s.attachments = append(s.attachments, a)
	s.mu.Unlock()
	return a, nil
}

// instance loads the program with sockets and counts of its own.
func (s *Steer) instance(ifindex int, mode Mode) (*Attachment, error) {
	a := &Attachment{steer: s, ifindex: ifindex, mode: mode}
	spec := s.spec.Copy()
	if mode == Generic {
		if err := spec.Variables[steerVarReturned].Set(s.returned); err != nil {
			return a, err
		}
	}
	return a, spec.LoadAndAssign(&a.loaded, &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		steerMapEndpoints: s.shared.Endpoints,
		steerMapAddresses: s.shared.Addresses,
		steerMapMarks:     s.shared.Marks,
		steerMapMarkNets:  s.shared.MarkNets,
		steerMapLearnt:    s.shared.Learnt,
		steerMapLearning:  s.shared.Learning,
	}})
}

// attachNetlink is for a kernel without bpf_link: the program stays on the
// interface when the process is killed.
func (a *Attachment) attachNetlink(nic netlink.Link) error {
	const onlyIfNone = unix.XDP_FLAGS_UPDATE_IF_NOEXIST
	if err := netlink.LinkSetXdpFdWithFlags(nic, a.loaded.Program.FD(), int(a.mode.flags())|onlyIfNone); err != nil {
		return err
	}
	a.lingers = true
	return nil
}

// Ifindex is the index of the interface that Attach was given.
func (a *Attachment) Ifindex() int { return a.ifindex }

// Mode is the mode that Attach was given.
func (a *Attachment) Mode() Mode { return a.mode }

// Lingers reports that the kernel has no bpf_link for XDP, so that a killed
// process leaves its program on the interface: worth a warning at start.
func (a *Attachment) Lingers() bool { return a.lingers }

// SetSocket has a receive queue's frames redirected to the AF_XDP socket fd,
// which has to be bound to that queue. The kernel forgets a socket that closes.
func (a *Attachment) SetSocket(queue, fd int) error {
	if queue < 0 || queue >= a.steer.queues {
		return fmt.Errorf("xdp: queue %d is out of range: 0 to %d", queue, a.steer.queues-1)
	}
	if err := a.loaded.Sockets.Put(uint32(queue), uint32(fd)); err != nil {
		return fmt.Errorf("AF_XDP socket of queue %d: %w", queue, err)
	}
	return nil
}

// RemoveSocket has a queue's frames pass again; no error if it has no socket.
func (a *Attachment) RemoveSocket(queue int) error {
	err := a.loaded.Sockets.Delete(uint32(queue))
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove AF_XDP socket of queue %d: %w", queue, err)
	}
	return nil
}

// Close takes the program off the interface. A second Close does nothing.
func (a *Attachment) Close() error {
	s := a.steer
	s.mu.Lock()
	i := slices.Index(s.attachments, a)
	if i >= 0 {
		s.attachments = slices.Delete(s.attachments, i, i+1)
	}
	s.mu.Unlock()
	if i < 0 {
		return nil
	}
	return a.release()
}

func (a *Attachment) release() error {
	var errs []error
	if a.link != nil {
		errs = append(errs, a.link.Close())
	}
	if a.lingers {
		errs = append(errs, a.detachNetlink())
	}
	return errors.Join(append(errs, a.loaded.Program.Close(), a.loaded.Sockets.Close(), a.loaded.Counts.Close())...)
}

func (a *Attachment) detachNetlink() error {
	nic, err := netlink.LinkByIndex(a.ifindex)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil // the program went with it
	}
	if err != nil {
		return err
	}
	return netlink.LinkSetXdpFdWithFlags(nic, -1, int(a.mode.flags()))
}

// Foreign returns the XDP program of an interface that is not sluice's; id 0:
// none. The name needs CAP_SYS_ADMIN: without, it is empty and a program of
// sluice's own counts as foreign.
func Foreign(ifindex int) (id uint32, name string, err error) {
	nic, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return 0, "", fmt.Errorf("interface %d: %w", ifindex, err)
	}
	id, name, err = attached(nic)
	if name == steerProgSluiceSteer {
		return 0, "", err
	}
	return id, name, err
}

// refuse returns an error that says what to do if nic has a program.
func refuse(nic netlink.Link) error {
	dev := nic.Attrs().Name
	id, name, err := attached(nic)
	switch {
	case err != nil:
		return err
	case id == 0:
		return nil
	case name == steerProgSluiceSteer:
		return fmt.Errorf("%s: another sluice runs here (XDP program id %d): stop it, or if it is gone, ip link set dev %s xdp off: %w", dev, id, dev, ErrOccupied)
	}
	return fmt.Errorf("%s: XDP program %q id %d is attached: stop what attached it, or ip link set dev %s xdp off, or leave %s out of the configuration: %w",
		dev, cmp.Or(name, "(name needs CAP_SYS_ADMIN)"), id, dev, dev, ErrOccupied)
}

// attached returns the program on nic, id 0: none.
func attached(nic netlink.Link) (id uint32, name string, err error) {
	xdp := nic.Attrs().Xdp
	if xdp == nil || !xdp.Attached {
		return 0, "", nil
	}
	if xdp.ProgId == 0 { // one in the NIC and one in the driver have no common id
		return 0, "", fmt.Errorf("%s: several XDP programs are attached: stop what attached them: %w", nic.Attrs().Name, ErrOccupied)
	}
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(xdp.ProgId))
	if err != nil { // without leave to look, or gone by now: what is certain is the id
		return xdp.ProgId, "", nil
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return xdp.ProgId, "", nil
	}
	return xdp.ProgId, info.Name, nil
}
