package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// director is a sluice that runs in the namespace "director" of a network.
type director struct {
	t      testing.TB
	host   *testnet.Namespace
	binary string
	folder string
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the process has ended

	// membersLeft: of an XDP program that was taken off, what it redirected
	// between the last reading and that is not counted.
	membersLeft bool
}

// start runs the director of a configuration and returns when it serves. When
// the test ends it is stopped and its accounts are checked; see finish.
func start(t testing.TB, n *testnet.Network, config string) *director {
	t.Helper()
	return startBuild(t, n, config, plain)
}

// startBuild is start for one of the builds.
func startBuild(t testing.TB, n *testnet.Network, config string, build func() (string, error)) *director {
	t.Helper()
	d := &director{t: t, host: n.In("director"), binary: built(t, build), folder: t.TempDir()}
	d.configure(config)
	t.Cleanup(d.finish)
	d.run()
	return d
}

// configure writes the configuration file: what the test says, and what every
// test wants.
func (d *director) configure(config string) {
	d.t.Helper()
	if err := os.WriteFile(d.file(), []byte(d.complete(config)), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// complete adds what a configuration does not say.
func (d *director) complete(config string) string {
	for _, section := range []string{
		"node: e2e\n", "workers: {idle: adaptive}\n", "connections: {max: 65536}\n",
		"interfaces: [{name: eth0, role: client}, {name: eth1, role: server}]\n",
		fmt.Sprintf("control: {socket: %q, listen: \"\"}\n", d.socket()),
	} {
		name, _, _ := strings.Cut(section, " ")
		if !strings.HasPrefix(config, name) && !strings.Contains(config, "\n"+name) {
			config = section + config
		}
	}
	return config
}

func (d *director) file() string   { return filepath.Join(d.folder, "sluice.yaml") }
func (d *director) socket() string { return filepath.Join(d.folder, "control.sock") }

// run starts the process and waits until it answers.
func (d *director) run() {
	d.t.Helper()
	d.launch()
	if err := d.await(patience, "it serves", func() bool {
		_, err := d.ask("status")
		return err == nil
	}); err != nil {
		d.t.Fatal(err)
	}
}

// launch starts the process.
func (d *director) launch() {
	d.t.Helper()
	log, err := os.OpenFile(d.folder+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	cmd, ended := exec.Command(d.binary, "run", "-c", d.file()), make(chan struct{})
	cmd.Stdout, cmd.Stderr = log, log
	if err := d.host.Start(cmd); err != nil {
		d.t.Fatal(err)
	}
	d.cmd, d.ended = cmd, ended
	go func() {
		_ = cmd.Wait() // ProcessState says it all
		close(ended)
	}()
}

// log is what the director has said so far.
func (d *director) log() string {
	text, _ := os.ReadFile(d.folder + "/log")
	return string(text)
}

// running says whether the process has not ended.
func (d *director) running() bool {
	select {
	case <-d.ended:
		return false
	default:
		return true
	}
}

// signal sends the process a signal.
func (d *director) signal(s syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatalf("%v to the director: %v", s, err)
	}
}

// await returns when done says so; the error, when that does not come true in
// time or the director ends, says what it was waited for.
func (d *director) await(limit time.Duration, what string, done func() bool) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if done() {
			return nil
		}
		if !d.running() {
			return fmt.Errorf("the director ended (%v) while it was waited for: %s", d.cmd.ProcessState, what)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %s", limit, what)
		}
	}
}

// ask runs a command that prints JSON and returns that.
func (d *director) ask(command ...string) ([]byte, error) {
	path, err := plain()
	if err != nil {
		return nil, err
	}
	out, err := exec.Command(path, append(command, "--json", "--socket", d.socket())...).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("sluice %s: %w: %s", strings.Join(command, " "), err, exit.Stderr)
	}
	return out, err
}

// answer is the document that a command prints.
func answer[T any](d *director, command ...string) (v T) {
	d.t.Helper()
	out, err := d.ask(command...)
	if err == nil {
		err = json.Unmarshal(out, &v)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return v
}

func (d *director) status() control.Status      { return answer[control.Status](d, "status") }
func (d *director) services() []control.Service { return answer[[]control.Service](d, "services") }
func (d *director) stats() control.AllStats     { return answer[control.AllStats](d, "stats") }

// quiet returns the counters once no packet moves any more.
func (d *director) quiet() control.AllStats {
	d.t.Helper()
	last := d.stats()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		time.Sleep(150 * time.Millisecond)
		now := d.stats()
		if now.Totals.Received == last.Totals.Received && now.Totals.Held == 0 {
			return now
		}
		last = now
	}
	d.t.Errorf("packets still move after %s", patience)
	return last
}

// account checks that each packet received has exactly one fate, and that the
// workers have seen each packet that their ports have brought.
func (d *director) account() {
	d.t.Helper()
	s := d.quiet().Totals
	sum := s.Transmitted + s.Passed + s.Held
	for reason, n := range s.Dropped {
		if sum += n; reason == "" || reason == "unknown" {
			d.t.Errorf("%d packets dropped for the reason %q", n, reason)
		}
	}
	if s.Received != sum {
		d.t.Errorf("%d packets received, but %d transmitted + %d passed + %d held + dropped %v are %d",
			s.Received, s.Transmitted, s.Passed, s.Held, s.Dropped, sum)
	}
	status, redirected, brought, lost := d.status(), uint64(0), uint64(0), uint64(0)
	for _, i := range status.Interfaces {
		redirected += i.Redirected
	}
	for _, w := range status.Workers {
		for _, p := range w.Ports {
			brought += p.RxPackets
			lost += p.RxDropped + p.RxRingFull
		}
	}
	answers := status.Tap.Taken - status.Tap.Lost
	if brought+answers != status.Totals.Received || redirected > brought+lost || redirected < brought+lost && !d.membersLeft {
		d.t.Errorf("the XDP programs redirected %d packets, the ports brought %d and lost %d, the tap brought %d, the workers received %d",
			redirected, brought, lost, answers, status.Totals.Received)
	}
}

// finish ends a test: no packet is unaccounted for, SIGTERM ends the director
// well, and it leaves nothing.
func (d *director) finish() {
	if d.running() && d.cmd != nil {
		d.account()
		if d.t.Failed() {
			d.t.Logf("counters: %s", d.counters())
		}
		d.stop()
	}
	if strings.Contains(d.log(), "DATA RACE") {
		d.t.Error("the race detector found something: see the log")
	}
	d.clean(patience)
	if d.t.Failed() {
		d.t.Logf("the director's log:\n%s", d.log())
	}
}

// counters is the fates of all packets in words.
func (d *director) counters() string {
	s := d.stats().Totals
	text := fmt.Sprintf("received %d = transmitted %d + passed %d + held %d", s.Received, s.Transmitted, s.Passed, s.Held)
	for _, reason := range slices.Sorted(maps.Keys(s.Dropped)) {
		text += fmt.Sprintf(" + %s %d", reason, s.Dropped[reason])
	}
	return text
}

// stop ends the director by SIGTERM and returns how long that took.
func (d *director) stop() time.Duration {
	d.t.Helper()
	began := time.Now()
	d.signal(syscall.SIGTERM)
	select {
	case <-d.ended:
		if !d.cmd.ProcessState.Success() {
			d.t.Errorf("the director ended with %v, want exit status 0", d.cmd.ProcessState)
		}
	case <-time.After(patience):
		d.t.Errorf("the director did not end within %s of SIGTERM", patience)
		_ = d.cmd.Process.Kill()
		<-d.ended
	}
	return time.Since(began)
}

// clean checks that nothing of the director is left in its namespace, at
// least after limit.
func (d *director) clean(limit time.Duration) {
	d.t.Helper()
	var left []string
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if left = d.traces(); len(left) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, what := range left {
		d.t.Errorf("left by the director: %s", what)
	}
}

// traces are what a director has in its namespace while it runs.
func (d *director) traces() (found []string) {
	d.t.Helper()
	links, err := d.host.Netlink().LinkList()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, l := range links {
		a := l.Attrs()
		if a.Xdp != nil && a.Xdp.Attached {
			found = append(found, fmt.Sprintf("XDP program %d on %s", a.Xdp.ProgId, a.Name))
		}
		if l.Type() == "tuntap" || l.Type() == "tun" {
			found = append(found, "device "+a.Name)
		}
		if d.filtered(l) {
			found = append(found, "tc filter on "+a.Name)
		}
	}
	if d.cmd != nil && d.cmd.ProcessState != nil && d.cmd.ProcessState.Exited() {
		if _, err := os.Lstat(d.socket()); !errors.Is(err, fs.ErrNotExist) {
			found = append(found, "socket "+d.socket())
		}
	}
	return found
}

// filtered says whether an interface has a tc filter that looks at what is sent.
func (d *director) filtered(l netlink.Link) bool {
	d.t.Helper()
	filters, err := d.host.Netlink().FilterList(l, netlink.HANDLE_MIN_EGRESS)
	if err != nil {
		d.t.Fatal(err)
	}
	return len(filters) > 0
}
