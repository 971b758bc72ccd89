package xdpprog

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// bench is a director's interface with a client on the other end.
type bench struct {
	*testnet.Namespace
	client *testnet.Namespace
	steer  *Steer
}

func newBench(t *testing.T) *bench {
	t.Helper()
	n := testnet.New(t, testnet.Plan{Links: []testnet.Link{{
		A: testnet.End{In: "director", Name: "in", Addrs: []string{"10.9.0.1/24"}},
		B: testnet.End{In: "client", Name: "out", Addrs: []string{"10.9.0.2/24"}},
	}}})
	s, err := Load(Options{Queues: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &bench{n.In("director"), n.In("client"), s}
}

func (b *bench) nic(t *testing.T, name string) netlink.Link {
	t.Helper()
	nic, err := b.Netlink().LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return nic
}

func (b *bench) attach(t *testing.T, name string, mode Mode) (a *Attachment, err error) {
	t.Helper()
	index := b.nic(t, name).Attrs().Index
	err = b.Do(func() error {
		a, err = b.steer.Attach(index, mode)
		return err
	})
	return a, err
}

func (b *bench) foreign(t *testing.T, name string) (id uint32, program string) {
	t.Helper()
	index := b.nic(t, name).Attrs().Index
	err := b.Do(func() (err error) {
		id, program, err = Foreign(index)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return id, program
}

// checkMode compares how a program is attached: 0 not at all, XDP_ATTACHED_DRV 1, XDP_ATTACHED_SKB 2.
func (b *bench) checkMode(t *testing.T, name string, want uint32) {
	t.Helper()
	got := uint32(0)
	if xdp := b.nic(t, name).Attrs().Xdp; xdp != nil && xdp.Attached {
		got = xdp.AttachMode
	}
	if got != want {
		t.Errorf("%s: XDP attach mode %d, want %d", name, got, want)
	}
}

// echo sends a datagram to the director's stack and waits for it there.
func (b *bench) echo(t *testing.T) {
	t.Helper()
	server, err := b.ListenPacket("udp", "10.9.0.1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	err = b.client.Do(func() error {
		c, err := net.Dial("udp", "10.9.0.1:7")
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("hello"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = server.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 16)
	if n, _, err := server.ReadFrom(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("the host's stack got %q, %v", buf[:n], err)
	}
}

func TestAttach(t *testing.T) {
	for _, tt := range []struct {
		mode Mode
		want uint32
	}{{Driver, 1}, {Generic, 2}} {
		t.Run(tt.mode.String(), func(t *testing.T) {
			b := newBench(t)
			a, err := b.attach(t, "in", tt.mode)
			if err != nil {
				t.Fatal(err)
			}
			if a.Ifindex() != b.nic(t, "in").Attrs().Index || a.Mode() != tt.mode || a.Lingers() {
				t.Errorf("interface %d, %v mode, lingers %v", a.Ifindex(), a.Mode(), a.Lingers())
			}
			b.checkMode(t, "in", tt.want)
			b.echo(t) // no socket: the host keeps its traffic
			rows, err := b.steer.Counts()
			if err != nil || len(rows) != 1 || rows[0].Ifindex != a.Ifindex() || rows[0].Redirected != 0 || rows[0].ByReason[Other] == 0 {
				t.Errorf("counts %+v, %v", rows, err)
			}
			for range 2 {
				if err := a.Close(); err != nil {
					t.Error(err)
				}
			}
			b.checkMode(t, "in", 0)
			if rows, err := b.steer.Counts(); err != nil || len(rows) != 0 {
				t.Errorf("counts after Close %+v, %v", rows, err)
			}
		})
	}
}

// Each interface has sockets of its own, though queue numbers are the same,
// and all follow one Update.
func TestInterfacesShareTables(t *testing.T) {
	b := newBench(t)
	in, err := b.attach(t, "in", Driver)
	if err != nil {
		t.Fatal(err)
	}
	lo, err := b.attach(t, "lo", Generic)
	if err != nil {
		t.Fatal(err)
	}
	giveSocket(t, lo, 0)
	if err := b.steer.Update(steered()); err != nil {
		t.Fatal(err)
	}
	frame := eth4(ip4(tcp, cip, vip, ports(40000, 80)))
	for _, tt := range []struct {
		a    *Attachment
		want uint32
	}{{in, 2}, {lo, 4}} {
		if verdict, err := tt.a.loaded.Program.Run(&ebpf.RunOptions{Data: frame}); err != nil || verdict != tt.want {
			t.Errorf("interface %d: verdict %d, %v, want %d", tt.a.Ifindex(), verdict, err, tt.want)
		}
	}
	if err := b.steer.Close(); err != nil { // detaches both
		t.Error(err)
	}
	b.checkMode(t, "in", 0)
	b.checkMode(t, "lo", 0)
	if b.steer, err = Load(Options{}); err != nil {
		t.Fatal(err)
	}
}

// lo has no XDP in its driver: the caller learns that it may try Generic.
func TestAttachWithoutDriverSupport(t *testing.T) {
	b := newBench(t)
	a, err := b.attach(t, "lo", Driver)
	if err == nil || errors.Is(err, ErrOccupied) || a != nil {
		t.Fatalf("attach to lo in driver mode: %v, %v", a, err)
	}
	if !strings.Contains(err.Error(), "attach XDP program to lo in driver mode") {
		t.Errorf("the error does not say what failed: %v", err)
	}
	if _, err := b.attach(t, "lo", Generic); err != nil {
		t.Error(err)
	}
}

func TestAttachToNothing(t *testing.T) {
	b := newBench(t)
	err := b.Do(func() error {
		_, err := b.steer.Attach(9999, Driver)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "interface 9999") {
		t.Error(err)
	}
	err = b.Do(func() error {
		_, _, err := Foreign(9999)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "interface 9999") {
		t.Error(err)
	}
}

func TestAttachRefusesForeign(t *testing.T) {
	b := newBench(t)
	if id, program := b.foreign(t, "in"); id != 0 || program != "" {
		t.Errorf("a bare interface has program %q id %d", program, id)
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "somebody_elses", Type: ebpf.XDP, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var l link.Link
	index := b.nic(t, "in").Attrs().Index
	err = b.Do(func() (err error) {
		l, err = link.AttachXDP(link.XDPOptions{Program: p, Interface: index})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	id, program := b.foreign(t, "in")
	if id == 0 || program != "somebody_elses" {
		t.Errorf("foreign program %q id %d", program, id)
	}
	_, err = b.attach(t, "in", Driver)
	if !errors.Is(err, ErrOccupied) {
		t.Fatalf("attach beside a foreign program: %v", err)
	}
	for _, s := range []string{`in: XDP program "somebody_elses" id ` + strconv.Itoa(int(id)), "ip link set dev in xdp off"} {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("the error does not say %q: %v", s, err)
		}
	}
}

func TestAttachRefusesAnotherSluice(t *testing.T) {
	b := newBench(t)
	if _, err := b.attach(t, "in", Driver); err != nil {
		t.Fatal(err)
	}
	if id, program := b.foreign(t, "in"); id != 0 || program != "" {
		t.Errorf("our own program is foreign: %q id %d", program, id)
	}
	_, err := b.attach(t, "in", Generic)
	if !errors.Is(err, ErrOccupied) || !strings.Contains(err.Error(), "another sluice runs here") {
		t.Errorf("attach twice: %v", err)
	}
	b.checkMode(t, "in", 1)
}

// The way for kernels without bpf_link.
func TestAttachNetlink(t *testing.T) {
	b := newBench(t)
	nic := b.nic(t, "in")
	a, err := b.steer.instance(nic.Attrs().Index, Driver)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Do(func() error { return a.attachNetlink(nic) }); err != nil {
		t.Fatal(err)
	}
	if !a.Lingers() {
		t.Error("nothing warns of what a kill would leave behind")
	}
	b.checkMode(t, "in", 1)
	second, err := b.steer.instance(nic.Attrs().Index, Driver)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Do(func() error { return second.attachNetlink(nic) }); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a second program takes the first one's place: %v", err)
	}
	if err := errors.Join(second.release(), b.Do(a.release)); err != nil {
		t.Error(err)
	}
	b.checkMode(t, "in", 0)
}

func TestCloseAfterInterface(t *testing.T) {
	for _, lingers := range []bool{false, true} {
		b := newBench(t)
		nic := b.nic(t, "in")
		a, err := b.steer.instance(nic.Attrs().Index, Driver)
		if err != nil {
			t.Fatal(err)
		}
		err = b.Do(func() error {
			if lingers {
				return a.attachNetlink(nic)
			}
			a.link, err = link.AttachXDP(link.XDPOptions{Program: a.loaded.Program, Interface: a.ifindex, Flags: a.mode.flags()})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Netlink().LinkDel(nic); err != nil {
			t.Fatal(err)
		}
		if err := b.Do(a.release); err != nil {
			t.Errorf("lingers %v: %v", lingers, err)
		}
	}
}

// child is what the test binary does when a test below starts it again: it
// attaches in the namespace it was started in, says so and waits to be killed.
func child(role string) {
	s, err := Load(Options{Queues: 4})
	if err == nil {
		err = s.Update(steered())
	}
	var nic netlink.Link
	if err == nil {
		nic, err = netlink.LinkByName("in")
	}
	if err == nil {
		_, err = s.Attach(nic.Attrs().Index, Driver)
	}
	if err != nil {
		fmt.Printf("%s: %v\n", role, err)
		os.Exit(1)
	}
	fmt.Println("attached")
	select {}
}

func (b *bench) startChild(t *testing.T, role string, attr *syscall.SysProcAttr) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "XDPPROG_CHILD="+role)
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "attached\n" {
		t.Fatalf("%s says %q, %v", role, line, err)
	}
	return cmd
}

// kill -9 leaves the interface as it was.
func TestKillDetaches(t *testing.T) {
	b := newBench(t)
	cmd := b.startChild(t, "kill", nil)
	b.checkMode(t, "in", 1)
	if err := cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	// The kernel drops the link soon after the process.
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if xdp := b.nic(t, "in").Attrs().Xdp; xdp == nil || !xdp.Attached {
			break
		}
	}
	b.checkMode(t, "in", 0)
	b.echo(t)
	if _, err := b.attach(t, "in", Driver); err != nil {
		t.Errorf("start again: %v", err)
	}
}

// A service manager may take all but three capabilities away.
func TestCapabilities(t *testing.T) {
	b := newBench(t)
	b.startChild(t, "capabilities", &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: 65534, Gid: 65534},
		AmbientCaps: []uintptr{unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON},
	})
	b.checkMode(t, "in", 1)
}

// Only a program of generic mode meets what was handed back a second time; one
// in the driver does not look.
func TestReturnedInDriver(t *testing.T) {
	testnet.NeedRoot(t)
	s, err := Load(Options{Queues: 1, Returned: returned})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for mode, want := range map[Mode]Reason{Generic: Returned, Driver: NoSocket} {
		a, err := s.instance(0, mode)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Update(steered()); err != nil {
			t.Fatal(err)
		}
		p := probe{a: a}
		if _, r, err := p.run(eth(unix.ETH_P_IP, ip4(tcp, cip, vip, ports(40000, 80)), set(6, returned[:]...))); err != nil || r != want {
			t.Errorf("%v: %v, %v; want %v", mode, r, err, want)
		}
		if err := a.release(); err != nil {
			t.Error(err)
		}
	}
}
