// Package xdpprog tells the kernel which frames are the load balancer's.
//
// Its idea is one small XDP program, steer.bpf.c: a frame that concerns a
// service or a real server is redirected to the AF_XDP socket of its receive
// queue, any other goes to the host's stack as if nothing were attached. The
// program only reads tables; control owns them through one Steer and makes
// them equal to its snapshot by Update. Each interface runs an instance of its
// own, an Attachment, with its own sockets and counts; the tables are shared.
//
// The object file is committed. Regenerating it (go generate, clang 14 of
// Debian 12) gives the same bytes in any directory.
package xdpprog

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
)

//go:generate go run -modfile=../../tools.mod github.com/cilium/ebpf/cmd/bpf2go -target bpfel -type reason -type mark_net -type mark_row -type mark_rows -type mark_side steer steer.bpf.c -- -Wall -Wextra -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go run -modfile=../../tools.mod github.com/cilium/ebpf/cmd/bpf2go -target bpfel answers answers.bpf.c -- -Wall -Wextra -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu

// Defaults of Options.
const (
	DefaultQueues     = 64
	DefaultMaxEntries = 65536
)

// Options sizes a Steer. The memory is allocated by Load: about 300 bytes an
// entry, and 128 bytes a queue, interface and possible CPU.
type Options struct {
	Queues     int // receive queues an interface may have; 0: DefaultQueues
	MaxEntries int // distinct endpoints, and distinct addresses, in a Want; 0: DefaultMaxEntries
	// Returned is the source address of frames that are handed back to the stack
	// by an interface of generic mode, whose program they meet again; zero: none are.
	Returned [6]byte
}

// Steer is the steering tables, shared by all interfaces. Its methods may be
// called from any goroutine.
type Steer struct {
	spec     *ebpf.CollectionSpec
	queues   int
	max      int
	returned [6]byte
	shared   struct {
		Endpoints *ebpf.Map `ebpf:"endpoints"`
		Addresses *ebpf.Map `ebpf:"addresses"`
		Marks     *ebpf.Map `ebpf:"marks"`
		MarkNets  *ebpf.Map `ebpf:"mark_nets"`
		Learnt    *ebpf.Map `ebpf:"learnt"`
		Learning  *ebpf.Map `ebpf:"learning"`
	}

	mu          sync.Mutex // guards what follows, and the order of writes
	endpoints   table[steerEndpoint, steerEndpointFlag]
	addresses   table[steerAddr, steerAddressFlag]
	marks       marks
	attachments []*Attachment

	memory memory
}

// Load makes the tables, empty: every frame passes until Update. It and Attach
// need CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (without that the verifier allows
// no offset into a packet that the packet determines), but no locked memory:
// the kernel charges the control group.
func Load(opts Options) (*Steer, error) {
	if opts.Queues == 0 {
		opts.Queues = DefaultQueues
	}
	if opts.MaxEntries == 0 {
		opts.MaxEntries = DefaultMaxEntries
	}
	if opts.Queues < 1 || opts.Queues > 1<<16 || opts.MaxEntries < 1 || opts.MaxEntries > 1<<24 {
		return nil, fmt.Errorf("xdp: %d queues and %d entries are out of range: 1 to 65536 and 1 to 16777216", opts.Queues, opts.MaxEntries)
	}
	spec, err := loadSteer()
	if err != nil {
		return nil, err
	}
	// Update adds before it removes, so both states have to fit.
	spec.Maps[steerMapEndpoints].MaxEntries = uint32(2 * opts.MaxEntries)
	spec.Maps[steerMapAddresses].MaxEntries = uint32(2 * opts.MaxEntries)
	spec.Maps[steerMapLearnt].MaxEntries = 2 * MaxLearnt // what is forgotten stays until there is need
	spec.Maps[steerMapSockets].MaxEntries = uint32(opts.Queues)
	spec.Maps[steerMapCounts].MaxEntries = uint32(opts.Queues + 1)

	s := &Steer{spec: spec, queues: opts.Queues, max: opts.MaxEntries, returned: opts.Returned}
	if err := spec.LoadAndAssign(&s.shared, nil); err != nil {
		return nil, fmt.Errorf("make XDP tables: %w", err)
	}
	s.memory.generation.Store(1)
	s.endpoints.to(s.shared.Endpoints)
	s.addresses.to(s.shared.Addresses)
	s.marks = marks{nets: s.shared.MarkNets, outer: s.shared.Marks, inner: spec.Maps[steerMapMarks].InnerMap}
	return s, nil
}

// Close detaches the program from every interface and frees the tables.
func (s *Steer) Close() error {
	s.mu.Lock()
	attachments := s.attachments
	s.attachments = nil
	s.mu.Unlock()
	var errs []error
	for _, a := range attachments {
		errs = append(errs, a.release())
	}
	return errors.Join(append(errs, s.shared.Endpoints.Close(), s.shared.Addresses.Close(), s.shared.Marks.Close(), s.shared.MarkNets.Close(),
		s.shared.Learnt.Close(), s.shared.Learning.Close())...)
}
