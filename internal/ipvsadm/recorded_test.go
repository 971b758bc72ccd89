package ipvsadm

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-lb/sluice/lb"
)

// step is one run of the real ipvsadm 1.31 on Linux 6.1. Err and Out are what
// it wrote; "@usage" stands for the text of -h.
type step struct {
	Args     []string
	Stdin    string
	Out, Err string
	Exit     int
}

// difference is where sluice differs from the recording on purpose: a step
// that is not held against it, or lines that are left out of every listing of
// the file.
type difference struct {
	file  string
	args  string // a step; "": lines
	lines string // regexp
	why   string
}

var differences = []difference{
	{"addrs", "-A -t 0.0.0.0:80", "", "the director wants unicast addresses"},
	{"addrs", "-A -t 255.255.255.255:80", "", "the director wants unicast addresses"},
	{"addrs", "-A -t 224.0.0.1:80", "", "the director wants unicast addresses"},
	{"addrs", "-A -t [::]:85", "", "the director wants unicast addresses"},
	{"addrs", "-A -t [ff02::1]:87", "", "the director wants unicast addresses"},
	{"addrs", "-A -t [::ffff:10.0.1.105]:84", "", "no packet has such an address"},
	{"addrs", "-A -t localhost:85", "", "hosts are addresses"},
	{"addrs", "", ` (0\.0\.0\.0|255\.255\.255\.255|224\.0\.0\.1|\[::\]|\[ff02::1\]|\[::ffff:10\.0\.1\.105\]|127\.0\.0\.1|localhost):`, "follows from these"},
	{"addrs", "", `(-t|TCP ) 10\.0\.1\.100:(53|domain) `, "where it stands among addresses that compare in circles depends on the kernel's order"},
	{"last", "-A -t 4294967295:55", "", "the director wants unicast addresses"},
	{"last", "", ` 255\.255\.255\.255:55`, "follows from that"},
	{"last", "", `-[Aa] -t 172\.16\.100\.100:8990 `, "where it stands among addresses that compare in circles depends on the kernel's order"},
	{"reals", "-a -t 10.0.1.100:80 -r 10.0.2.255:80 -m", "", "the director does not know broadcast addresses"},
	{"reals", "-a -t [fd00:1::100]:80 -r [::ffff:10.0.2.11]:80 -m", "", "no packet has such an address; ipvsadm leaves it to the kernel to say so"},
	{"reals", "", ` (10\.0\.2\.255):|localhost|127\.0\.0\.1`, "follows from these, and from hosts being addresses"},
	{"fwmark", "", `-A -f (-1|-2147483648|2147483648|4294967295) |FWM  -`, "-S writes marks as -f takes them; the order of such marks depends on the kernel's"},
	{"flags", "", `-A -t 10\.0\.1\.100:6 `, "-S writes no -b without flags"},
	{"scheds", "", ` 10\.0\.1\.100:20 -s`, "-S leaves out the engine of a service that is not persistent"},
	{"v6fwm", "", ` 10\.0\.1\.100:5060 -s`, "-S leaves out the engine of a service that is not persistent"},
	{"transcript-cli", "", `localhost|127\.0\.0\.1`, "hosts are addresses"},
}

func TestRecorded(t *testing.T) {
	files, err := filepath.Glob("testdata/recorded/*.jsonl")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d recordings, %v", len(files), err)
	}
	used := map[int]bool{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".jsonl")
		t.Run(name, func(t *testing.T) {
			b := newBackend()
			for i, s := range readLines[step](t, file) {
				out, errs, exit := do(b, s.Stdin, s.Args...)
				if allowed(name, &s, &out, used) {
					continue
				}
				if got, want := fmt.Sprintf("%s2> %s", out, errs), fmt.Sprintf("%s2> %s", s.Out, s.Err); got != want || exit != s.Exit {
					t.Errorf("step %d: ipvsadm %q < %q exits %d, want %d\n%s", i+1, s.Args, s.Stdin, exit, s.Exit, lineDiff(want, got))
				}
			}
		})
	}
	for i, d := range differences {
		if !used[i] && !t.Failed() {
			t.Errorf("%s: the difference %q (%s) does not occur", d.file, d.args+d.lines, d.why)
		}
	}
}

// The differences of every listing: -S saves thresholds, and the order of
// --nosort, in the kernel, depends on where it put things.
var thresholds = regexp.MustCompile(` -[xy] \d+`)

// allowed makes a step and what came out of it comparable; true: it is a
// difference as a whole.
func allowed(file string, s *step, out *string, used map[int]bool) bool {
	if s.Out == "@usage" {
		s.Out = versionLine + usage
	}
	args := strings.Join(s.Args, " ")
	if strings.HasPrefix(args, "-S") || strings.HasPrefix(args, "--save") {
		*out = thresholds.ReplaceAllString(*out, "")
	}
	for i, d := range differences {
		switch {
		case d.file != file:
		case d.args == args:
			used[i] = true
			return true
		case d.args == "":
			re := regexp.MustCompile(d.lines)
			for _, text := range []*string{&s.Out, out} {
				lines := strings.SplitAfter(*text, "\n")
				kept := slices.DeleteFunc(slices.Clone(lines), re.MatchString)
				used[i] = used[i] || len(kept) != len(lines)
				*text = strings.Join(kept, "")
			}
		}
	}
	if slices.Contains(s.Args, "--nosort") {
		s.Out, *out = inBlocks(s.Out), inBlocks(*out)
	}
	return false
}

// inBlocks sorts the services of a listing, each with its servers, which stay.
func inBlocks(text string) string {
	blocks := regexp.MustCompile(`(?m)^\S.*\n(  .*\n)*`).FindAllString(text, -1)
	slices.Sort(blocks)
	return strings.Join(blocks, "")
}

// recordedCase is a case of the oracle: rules, what was done with ipvsadm, and
// what was listed at the end, without the columns of connections.
type recordedCase struct {
	Name          string
	Rules         []string
	Steps         []step
	List          *string // nil: not listed
	Save, Timeout string
}

var connColumns = regexp.MustCompile(`(?m)^(  -> .*?) +\d+ +\d+ *$`)

// TestCases replays the rules of every case of the oracle.
func TestCases(t *testing.T) {
	cases := readLines[recordedCase](t, "testdata/cases.jsonl")
	if len(cases) < 160 {
		t.Fatalf("%d cases", len(cases))
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			b := newBackend()
			if _, errs, exit := do(b, strings.Join(c.Rules, "\n"), "-R"); errs != "" || exit != 0 {
				t.Fatalf("rules: exit %d: %s", exit, errs)
			}
			compare := func(what, got, want string) {
				if got != want {
					t.Errorf("%s:\n%s", what, lineDiff(want, got))
				}
			}
			for _, s := range c.Steps {
				out, errs, exit := do(b, s.Stdin, s.Args...)
				if c.Name != "ipvsadm-errors" {
					out = connColumns.ReplaceAllString(out, "$1")
				}
				if slices.Contains(s.Args, "--nosort") {
					out, s.Out = inBlocks(out), inBlocks(s.Out)
				}
				if slices.Contains(s.Args, "-Sn") {
					out = thresholds.ReplaceAllString(out, "")
				}
				compare(fmt.Sprintf("ipvsadm %q", s.Args), fmt.Sprintf("%s2> %s%d", out, errs, exit), fmt.Sprintf("%s2> %s%d", s.Out, s.Err, s.Exit))
			}
			if c.List != nil {
				out, _, _ := do(b, "", "-Ln")
				compare("-Ln", strings.Join(strings.Split(connColumns.ReplaceAllString(out, "$1"), "\n")[3:], "\n"), *c.List)
			}
			if c.Save != "" {
				out, _, _ := do(b, "", "-Sn")
				compare("-Sn", thresholds.ReplaceAllString(out, ""), c.Save)
			}
			if c.Timeout != "" {
				out, _, _ := do(b, "", "-L", "--timeout")
				compare("--timeout", out, c.Timeout)
			}
		})
	}
}

// testServices are the port names of the machine that was recorded.
var testServices = sync.OnceValue(func() *Services {
	f, err := os.Open("testdata/services")
	if err != nil {
		panic(err)
	}
	defer f.Close()
	s, err := ReadServices(f)
	if err != nil {
		panic(err)
	}
	return s
})

// daemons is a Syncer as the kernel is one.
type daemons struct{ running []Daemon }

func (d *daemons) StartDaemon(x Daemon) error {
	x.Fill(1500)
	if !slices.Contains([]string{"lo", "eth0", "eth1", "dummy0"}, x.Interface) {
		return ErrNoDevice
	}
	if slices.ContainsFunc(d.running, func(r Daemon) bool { return r.State == x.State }) {
		return ErrDaemonRuns
	}
	d.running = append(d.running, x)
	return nil
}

func (d *daemons) StopDaemon(s DaemonState) error {
	n := len(d.running)
	d.running = slices.DeleteFunc(d.running, func(x Daemon) bool { return x.State == s })
	if len(d.running) == n {
		return ErrNoDaemon
	}
	return nil
}

func (d *daemons) Daemons() ([]Daemon, error) { return d.running, nil }

func newBackend() *DirectorBackend {
	return &DirectorBackend{Director: lb.NewDirector(1), Sync: &daemons{}, Meter: &Meter{}}
}

// do runs a command line on a backend.
func do(b Backend, stdin string, args ...string) (out, errs string, exit int) {
	var o, e bytes.Buffer
	exit = Run(args, Env{Stdin: strings.NewReader(stdin), Stdout: &o, Stderr: &e, Backend: b, Services: testServices})
	return o.String(), e.String(), exit
}

// readLines reads a file of one JSON text a line.
func readLines[T any](t testing.TB, path string) []T {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []T
	in := bufio.NewScanner(bytes.NewReader(data))
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var x T
		if err := json.Unmarshal(in.Bytes(), &x); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out = append(out, x)
	}
	return out
}

// lineDiff returns the lines that only one of two texts has, or both.
func lineDiff(want, got string) string {
	var b strings.Builder
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for _, x := range w {
		if !slices.Contains(g, x) {
			b.WriteString("- " + x + "\n")
		}
	}
	for _, x := range g {
		if !slices.Contains(w, x) {
			b.WriteString("+ " + x + "\n")
		}
	}
	if b.Len() == 0 {
		return "the same lines, but not in this order:\n" + want + "\nbut:\n" + got
	}
	return b.String()
}
