package xdpprog

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MaxLocals is how many local servers Answers can be told of.
const MaxLocals = 16384

// answersFragments is FRAGMENTS of answers.bpf.c.
const answersFragments = 1

// Filters of tc go by priority and handle: those of sluice's, which replace what
// a killed one left.
const (
	answersPriority = 0x51ce
	answersHandle   = 1
)

// Local is where a server that is the host itself answers from.
type Local struct {
	Proto uint8 // TCP, UDP or SCTP
	Addr  Addr
	Port  uint16 // host order; 0: every port
}

// Answers turns round what servers on the host itself answer: a tc program
// (answers.bpf.c) sends it out of the tap device in place of the NIC. It is on the
// NICs while there are such servers. A process that is killed leaves a filter
// behind that does nothing. Its methods may be called from any goroutine, in the
// network namespace of the NICs.
type Answers struct {
	tap    int
	nics   []int
	loaded struct {
		Answers *ebpf.Program `ebpf:"sluice_answers"`
		Local   *ebpf.Program `ebpf:"sluice_local"`
		Locals  *ebpf.Map     `ebpf:"locals"`
		Program *ebpf.Map     `ebpf:"program"`
	}

	mu     sync.Mutex                   // guards what follows
	locals table[steerEndpoint, uint32] // answersEndpoint is the same
	on     []egress
}

// egress is the filter on one NIC.
type egress struct {
	filter *netlink.BpfFilter
	qdisc  *netlink.GenericQdisc // nil: it was there before
}

// NewAnswers prepares to turn round what local servers send by nics, to the
// device tap; both are interface indexes. Nothing is loaded before the first Update
// that names a server.
func NewAnswers(tap int, nics []int) *Answers { return &Answers{tap: tap, nics: nics} }

// Update makes want the local servers. An order has no meaning, and an entry
// may be there twice. It needs what Load needs, and of the kernel
// CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF.
func (a *Answers) Update(want []Local) error {
	keys := make(map[steerEndpoint]uint32, len(want))
	for _, l := range want {
		if !served(l.Proto) {
			return fmt.Errorf("local server %s port %d: protocol %d has no ports: %w", netip.AddrFrom16(l.Addr).Unmap(), l.Port, l.Proto, ErrInvalid)
		}
		keys[endpoint(l.Proto, l.Addr, l.Port)] = 1
		fragments := endpoint(l.Proto, l.Addr, 0)
		fragments.Zero = answersFragments
		keys[fragments] = 1
	}
	if len(keys) > 2*MaxLocals {
		return fmt.Errorf("%d local servers, the tc program holds %d: %w", len(want), MaxLocals, ErrTooManyEntries)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(keys) == 0 && len(a.on) == 0 {
		return nil
	}
	if err := a.update(keys); err != nil {
		return fmt.Errorf("answers of servers on this host: %w", err)
	}
	return nil
}

func (a *Answers) update(keys map[steerEndpoint]uint32) error {
	if a.loaded.Locals == nil {
		if err := a.load(); err != nil {
			return err
		}
	}
	if err := a.locals.widen(keys); err != nil {
		return err
	}
	if len(keys) == 0 {
		if err := a.detach(); err != nil {
			return err
		}
	} else if len(a.on) == 0 {
		if err := a.attach(); err != nil {
			return errors.Join(err, a.detach())
		}
	}
	return a.locals.narrow(keys)
}

func (a *Answers) load() error {
	spec, err := loadAnswers()
	if err != nil {
		return err
	}
	if err := spec.Variables[answersVarTap].Set(uint32(a.tap)); err != nil {
		return err
	}
	if err := spec.LoadAndAssign(&a.loaded, nil); err != nil {
		return fmt.Errorf("load tc program: %w", err)
	}
	a.locals.to(a.loaded.Locals)
	return a.loaded.Program.Put(uint32(0), a.loaded.Answers)
}

// attach puts the filter on every NIC.
func (a *Answers) attach() error {
	for _, index := range a.nics {
		qdisc := &netlink.GenericQdisc{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
			QdiscType:  "clsact",
		}
		on := egress{qdisc: qdisc, filter: &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: answersHandle, Protocol: unix.ETH_P_ALL, Priority: answersPriority,
			},
			Fd: a.loaded.Local.FD(), Name: "sluice_local", DirectAction: true,
		}}
		switch err := netlink.QdiscAdd(qdisc); {
		case errors.Is(err, unix.EEXIST):
			on.qdisc = nil
		case err != nil:
			return fmt.Errorf("interface %d: add qdisc clsact (CONFIG_NET_SCH_INGRESS?): %w", index, err)
		}
		a.on = append(a.on, on)
		if err := netlink.FilterReplace(on.filter); err != nil {
			return fmt.Errorf("interface %d: add tc filter (CONFIG_NET_CLS_BPF?): %w", index, err)
		}
	}
	return nil
}

// detach takes the filters off, and the qdiscs that are then nobody's.
func (a *Answers) detach() error {
	var errs []error
	for _, on := range a.on {
		errs = append(errs, gone(netlink.FilterDel(on.filter)))
		if on.qdisc == nil {
			continue
		}
		used, err := filtered(on.qdisc.LinkIndex)
		if errs = append(errs, gone(err)); err == nil && !used {
			errs = append(errs, gone(netlink.QdiscDel(on.qdisc)))
		}
	}
	a.on = nil
	return errors.Join(errs...)
}

// filtered reports whether an interface's clsact has any filter.
func filtered(index int) (bool, error) {
	nic, err := netlink.LinkByIndex(index)
	if err != nil {
		return false, err
	}
	in, err := netlink.FilterList(nic, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return false, err
	}
	out, err := netlink.FilterList(nic, netlink.HANDLE_MIN_EGRESS)
	return len(in)+len(out) > 0, err
}

// gone is err, but for what a vanished interface or filter gives.
func gone(err error) error {
	if errors.As(err, &netlink.LinkNotFoundError{}) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// Close takes the program off the NICs and frees it.
func (a *Answers) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.loaded.Locals == nil {
		return nil
	}
	return errors.Join(a.detach(), a.loaded.Answers.Close(), a.loaded.Local.Close(), a.loaded.Locals.Close(), a.loaded.Program.Close())
}
