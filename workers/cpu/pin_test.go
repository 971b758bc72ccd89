package cpu

import (
	"os"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Every thread of the process moves, those too that wait for work.
func TestPinProcess(t *testing.T) {
	var before, now unix.CPUSet
	_ = unix.SchedGetaffinity(0, &before)
	var all []int
	for c := 0; len(all) < before.Count(); c++ {
		if before.IsSet(c) {
			all = append(all, c)
		}
	}
	defer func() { _ = PinProcess(all...) }()
	if err := PinProcess(all[0]); err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		id, _ := strconv.Atoi(task.Name())
		if err := unix.SchedGetaffinity(id, &now); err == nil && (now.Count() != 1 || !now.IsSet(all[0])) {
			t.Errorf("thread %d may run on %d CPUs, want CPU %d alone", id, now.Count(), all[0])
		}
	}
}

// A process leaves workers their CPUs.
func TestWithout(t *testing.T) {
	machine := Topology{{ID: 0}, {ID: 2}, {ID: 5}}
	if got := machine.Without([]int{2, 7}); !slices.Equal(got, []int{0, 5}) {
		t.Errorf("%v, want 0 and 5", got)
	}
	if got := machine.Without([]int{5, 0, 2}); got != nil {
		t.Errorf("%v, want none", got)
	}
}
