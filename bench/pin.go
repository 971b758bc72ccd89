package bench

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/workers/cpu"
)

// CPUs says what runs where.
type CPUs struct {
	Worker    int   // the measured worker
	Generator int   // of wire: the sender, and the kernel's side of receiving, which is run by the sender's softirq
	Rest      []int // whatever else
	// Warning says what the machine is too small for; empty: nothing.
	Warning string
}

// Assign gives out the CPUs that this process may run on. CPU 0, where the
// kernel and everybody else like to run, is the last choice. With two there is
// none for the rest, and with one nothing of wire can be measured: an error.
func Assign(t cpu.Topology) (CPUs, error) {
	if len(t) < 2 {
		return CPUs{}, fmt.Errorf("%d CPU: measuring wants one for the worker and one for the generator", len(t))
	}
	order, err := t.Choose(len(t), -1)
	if err != nil {
		return CPUs{}, err
	}
	c := CPUs{Worker: order[0], Generator: order[1], Rest: order[2:]}
	if len(c.Rest) == 0 {
		c.Rest = []int{c.Generator}
		c.Warning = "2 CPUs: everything but the worker shares the generator's; figures of wire are lower and spread more"
	}
	return c, nil
}

// String names the CPUs.
func (c CPUs) String() string {
	return fmt.Sprintf("worker on CPU %d, generator on %d, the rest on %v", c.Worker, c.Generator, c.Rest)
}

// Pin moves the calling thread, to which the caller has locked its goroutine,
// to a CPU; restore lets it run where it might before.
func Pin(to int) (restore func(), err error) {
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, fmt.Errorf("read a thread's CPU affinity: %w", err)
	}
	return func() { _ = unix.SchedSetaffinity(0, &before) }, cpu.Pin(0, to)
}
