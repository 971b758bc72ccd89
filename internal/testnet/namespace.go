package testnet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace, kept alive by a thread that lives in it.
type Namespace struct {
	name   string
	handle netns.NsHandle
	links  *netlink.Handle
	calls  chan func() // run on the namespace's own thread
	ended  chan struct{}
}

// threadNamespace is the namespace of the calling thread.
const threadNamespace = "/proc/thread-self/ns/net"

// openNamespace makes a namespace with lo up, no duplicate address detection
// and no reverse path filter, whatever the host's defaults are.
func openNamespace(name string) (*Namespace, error) {
	s := &Namespace{name: name, handle: netns.None(), calls: make(chan func()), ended: make(chan struct{})}
	ready := make(chan error)
	go s.live(ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	if err := s.prepare(); err != nil {
		_ = s.close()
		return nil, err
	}
	return s, nil
}

// live makes the namespace and serves calls in it. The goroutine stays locked
// to its thread and takes the thread with it when it returns; and with the
// thread, by their Pdeathsig, end the processes that it started. The main thread
// cannot end, so a goroutine that finds itself there holds it until another
// has found a better place.
func (s *Namespace) live(ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		moved := make(chan error)
		go s.live(moved)
		err := <-moved
		runtime.UnlockOSThread()
		ready <- err
		return
	}
	defer close(s.ended)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) { // root in a container, without its capabilities
			err = fmt.Errorf("%w: %w", ErrNotRoot, err)
		}
		ready <- fmt.Errorf("unshare: %w", err)
		return
	}
	var err error
	if s.handle, err = netns.GetFromPath(threadNamespace); err != nil {
		ready <- err
		return
	}
	ready <- nil
	for call := range s.calls {
		call()
	}
}

func (s *Namespace) prepare() error {
	var err error
	if s.links, err = netlink.NewHandleAt(s.handle); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	for _, kv := range [][2]string{
		{"net.ipv6.conf.all.disable_ipv6", "0"},
		{"net.ipv6.conf.default.disable_ipv6", "0"},
		{"net.ipv6.conf.default.accept_dad", "0"},
		{"net.ipv6.conf.default.accept_ra", "0"},
		{"net.ipv6.conf.default.router_solicitations", "0"},
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.default.rp_filter", "0"},
	} {
		if err := s.Sysctl(kv[0], kv[1]); err != nil {
			return err
		}
	}
	return s.SetUp("lo", true)
}

func (s *Namespace) close() error {
	if s.links != nil {
		s.links.Close()
	}
	close(s.calls)
	<-s.ended
	return s.handle.Close()
}

// Name is the name that the plan gives.
func (s *Namespace) Name() string { return s.name }

// Path is where this process sees the namespace, for nsenter --net=PATH.
func (s *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.handle) }

// Netlink is a netlink handle in the namespace, for what has no method here.
func (s *Namespace) Netlink() *netlink.Handle { return s.links }

// Do runs fn on a thread that is in the namespace meanwhile, on the caller's
// goroutine. Goroutines that fn starts are outside. Calls may be nested.
func (s *Namespace) Do(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.GetFromPath(threadNamespace)
	if err != nil {
		return fmt.Errorf("own namespace: %w", err)
	}
	defer func() {
		if err := netns.Set(home); err != nil {
			panic(fmt.Sprintf("testnet: thread stays in namespace %s: %v", s.name, err))
		}
		_ = home.Close()
	}()
	if err := netns.Set(s.handle); err != nil {
		return fmt.Errorf("enter namespace %s: %w", s.name, err)
	}
	return fn()
}

// Start starts cmd in the namespace. Closing the Network kills it, and so does
// the death of this process. The caller waits for it as usual. /sys is the
// host's: of the namespace's interfaces it shows none.
func (s *Namespace) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	done := make(chan error)
	s.calls <- func() { done <- cmd.Start() }
	return <-done
}

// Run runs a program in the namespace to its end and returns its standard
// output; the error holds what it said to standard error.
func (s *Namespace) Run(name string, args ...string) (string, error) {
	var out, errs strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := s.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// Sysctl sets a kernel parameter of the namespace, "net.ipv4.ip_forward". In
// an interface's name in it, write / for a dot.
func (s *Namespace) Sysctl(key, value string) error {
	path := "/proc/sys/" + strings.NewReplacer(".", "/", "/", ".").Replace(key)
	return s.Do(func() error { return os.WriteFile(path, []byte(value), 0o644) })
}
