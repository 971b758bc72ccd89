package cpu

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// machine is the part of /sys that is read, of CPUs in words:
// "package core node", by ID.
func machine(online string, cpus ...string) fstest.MapFS {
	sys := fstest.MapFS{"devices/system/cpu/online": {Data: []byte(online + "\n")}}
	for id, text := range cpus {
		var pkg, core, node int
		if _, err := fmt.Sscan(text, &pkg, &core, &node); err != nil {
			panic(err)
		}
		dir := fmt.Sprintf("devices/system/cpu/cpu%d/", id)
		sys[dir+"topology/physical_package_id"] = &fstest.MapFile{Data: fmt.Appendln(nil, pkg)}
		sys[dir+"topology/core_id"] = &fstest.MapFile{Data: fmt.Appendln(nil, core)}
		sys[dir+fmt.Sprintf("node%d/cpulist", node)] = &fstest.MapFile{}
	}
	return sys
}

func TestChoose(t *testing.T) {
	hyper := machine("0-3", "0 0 0", "0 1 0", "0 0 0", "0 1 0")              // two cores of two threads
	sockets := machine("0-3", "0 0 0", "0 1 0", "1 0 1", "1 1 1")            // two sockets, core numbers the same
	flat := fstest.MapFS{"devices/system/cpu/online": {Data: []byte("0-2")}} // a virtual machine that tells nothing
	for _, row := range []struct {
		stake   string
		sys     fstest.MapFS
		n, node int
		want    []int
		err     string
	}{
		{"CPU 0 is left to the rest", flat, 2, -1, []int{1, 2}, ""},
		{"unless all are wanted", flat, 3, -1, []int{1, 2, 0}, ""},
		{"too many", flat, 4, -1, nil, "4 workers want a CPU each, and there are 3"},
		{"a core before a second thread", hyper, 2, -1, []int{1, 0}, ""},
		{"second threads when cores are out", hyper, 4, -1, []int{1, 0, 2, 3}, ""},
		{"the NIC's node first", sockets, 2, 1, []int{2, 3}, ""},
		{"then the other", sockets, 3, 1, []int{2, 3, 1}, ""},
		{"equal core numbers of two sockets are two cores", sockets, 3, -1, []int{1, 2, 3}, ""},
	} {
		top, err := read(row.sys)
		if err != nil {
			t.Fatalf("%s: %v", row.stake, err)
		}
		got, err := top.Choose(row.n, row.node)
		if !slices.Equal(got, row.want) || (err == nil) != (row.err == "") || err != nil && err.Error() != row.err {
			t.Errorf("%s: %v, %v; want %v, %q", row.stake, got, err, row.want, row.err)
		}
	}
}

func TestCheck(t *testing.T) {
	top, err := read(machine("0,2", "0 0 0", "0 1 0", "0 2 0"))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		cpus []int
		want string
	}{{[]int{2, 0}, ""}, {[]int{1}, "CPU 1 is not online"}, {[]int{2, 2}, "CPU 2 stands there twice"}} {
		if err := top.Check(row.cpus); (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%v: %v, want %q", row.cpus, err, row.want)
		}
	}
}

func TestParseList(t *testing.T) {
	for text, want := range map[string][]int{"0": {0}, "0-2": {0, 1, 2}, "0,4-5,9": {0, 4, 5, 9}, "": nil, "3-1": nil, "a": nil, "-1": nil, "0-99999999": nil} {
		got, err := ParseList(text)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
}

// This machine, whatever it is, has CPUs to run on, and a variant.
func TestHere(t *testing.T) {
	top, err := Read(osSys())
	if err != nil || len(top) == 0 {
		t.Fatalf("%v, %v", top, err)
	}
	if got, err := top.Choose(1, -1); err != nil || top.Check(got) != nil {
		t.Errorf("%v, %v", got, err)
	}
	if got := NodeOf(osSys(), "no such interface"); got != -1 {
		t.Errorf("node of no interface is %d, want -1", got)
	}
	if got := Variant([]string{"unheard-of", "plain"}); got != "plain" {
		t.Errorf("variant %q, want the one that runs everywhere", got)
	}
}

func osSys() fs.FS { return os.DirFS("/sys") }
