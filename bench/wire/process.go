package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// process is a forwarder that runs in the director's namespace.
type process struct {
	cmd    *exec.Cmd
	pid    int
	exited chan struct{}

	mu     sync.Mutex
	said   []string // its last lines
	pauses []pause  // of its garbage collector
}

const (
	startTime = 20 * time.Second // to begin to forward
	stopTime  = 5 * time.Second  // to end when asked to
	keepLines = 20
)

// startProcess starts a program in the director's namespace on the CPUs of the
// worker and the rest, and returns once it has written a line that contains
// ready. RUNTIME_DIRECTORY, in its environment, is dir; programs in Go report
// their collections of garbage.
func startProcess(ctx context.Context, n *testnet.Network, c *bench.CPUs, dir, ready, program string, args ...string) (*process, error) {
	cpus := strings.Trim(strings.ReplaceAll(fmt.Sprint(append(c.Rest[:len(c.Rest):len(c.Rest)], c.Worker)), " ", ","), "[]")
	// Before all others, so that those on a shared machine take little of the CPUs.
	cmd := exec.Command("nice", append([]string{"-n", "-20", "taskset", "--cpu-list", cpus, program}, args...)...)
	cmd.Env = append(os.Environ(), "RUNTIME_DIRECTORY="+dir, "GODEBUG=gctrace=1")
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	// Some programs end with their standard input.
	stdin, hold, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, out.Close(), in.Close())
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, in, in
	err = n.In(director).Start(cmd)
	_, _ = in.Close(), stdin.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", program, err), out.Close(), hold.Close())
	}
	p := &process{cmd: cmd, pid: cmd.Process.Pid, exited: make(chan struct{})}
	seen := make(chan struct{})
	go func() {
		p.read(out, ready, seen)
		_ = cmd.Wait()
		_, _ = out.Close(), hold.Close()
		close(p.exited)
	}()
	select {
	case <-seen:
		return p, nil
	case <-p.exited:
		err = errors.New("it ended")
	case <-time.After(startTime):
		err = fmt.Errorf("it is not ready after %v", startTime)
	case <-ctx.Done():
		err = ctx.Err()
	}
	err = p.blame(fmt.Errorf("start %s: %w", program, err))
	return nil, errors.Join(err, p.stop())
}

// read keeps the last lines of what the process says, to its end, and closes
// seen at the first that contains ready.
func (p *process) read(out io.Reader, ready string, seen chan<- struct{}) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := lines.Text()
		p.mu.Lock()
		if stopped, ok := parsePause(line); ok {
			p.pauses = append(p.pauses, pause{time.Now(), stopped})
		} else if p.said = append(p.said, line); len(p.said) > keepLines {
			p.said = p.said[1:]
		}
		p.mu.Unlock()
		if seen != nil && strings.Contains(line, ready) {
			close(seen)
			seen = nil
		}
	}
}

// nicMode returns the mode of sluice's NICs, as it says it; empty: it did not.
func (p *process) nicMode() string {
	if p == nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.said {
		if _, rest, ok := strings.Cut(line, `msg="interface attached"`); ok {
			_, mode, _ := strings.Cut(rest, " mode=")
			mode, _, _ = strings.Cut(mode, " ")
			return mode
		}
	}
	return ""
}

// blame adds what the process last said to an error. A nil process said nothing.
func (p *process) blame(err error) error {
	if p == nil || err == nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Errorf("%w; its last lines:\n%s", err, strings.Join(p.said, "\n"))
}

// stop ends the process: gently, or by force if that takes too long. There may be
// none.
func (p *process) stop() error {
	if p == nil {
		return nil
	}
	return p.stopWithin(stopTime)
}

func (p *process) stopWithin(limit time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.exited:
		return nil
	case <-time.After(limit):
	}
	_ = p.cmd.Process.Kill()
	<-p.exited
	return p.blame(fmt.Errorf("%s did not end within %v and was killed", p.cmd.Args[6], limit))
}
