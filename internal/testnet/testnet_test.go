package testnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

const patience = 10 * time.Second

// pair is the smallest network: two hosts on a cable.
func pair() Plan {
	return Plan{
		Links: []Link{{
			A: End{In: "left", Name: "eth0", MAC: "02:00:00:00:00:01", Addrs: []string{"10.0.1.1/24", "fd00:1::1/64"}},
			B: End{In: "right", Name: "eth0", MAC: "02:00:00:00:00:02", Addrs: []string{"10.0.1.2/24", "fd00:1::2/64"}},
		}},
	}
}

// serveName listens in a namespace and tells everybody who connects its name.
func serveName(t *testing.T, s *Namespace, network, address string) {
	t.Helper()
	listener, err := s.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, s.Name())
			conn.Close()
		}
	}()
}

// ask connects from a namespace and returns what it was told.
func ask(t *testing.T, s *Namespace, network, address string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := s.DialContext(ctx, network, address)
	if err != nil {
		t.Fatalf("from %s: %v", s.Name(), err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("from %s: %v", s.Name(), err)
	}
	return string(answer)
}

// Addresses work at once, IPv6 without waiting for duplicate address
// detection, and sockets are in the namespace that was named.
func TestSocketsOverALink(t *testing.T) {
	n := New(t, pair())
	for _, address := range []string{"10.0.1.2:80", "[fd00:1::2]:80"} {
		serveName(t, n.In("right"), "tcp", address)
		if got := ask(t, n.In("left"), "tcp", address); got != "right" {
			t.Errorf("%s answers %q, want right", address, got)
		}
	}
	server, err := n.In("right").ListenPacket("udp", "10.0.1.2:53")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := n.In("left").Dial(t.Context(), &net.Dialer{LocalAddr: &net.UDPAddr{Port: 4000}}, "udp", "10.0.1.2:53")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	_ = server.SetReadDeadline(time.Now().Add(patience))
	got, from, err := server.ReadFrom(buf)
	if err != nil || string(buf[:got]) != "hello" || from.String() != "10.0.1.1:4000" {
		t.Errorf("received %q from %v (%v), want hello from 10.0.1.1:4000", buf[:got], from, err)
	}
}

func TestRoutesThroughARouter(t *testing.T) {
	n := New(t, Plan{
		Links: []Link{
			{End{In: "client", Name: "eth0", Addrs: []string{"10.0.1.10/24", "fd00:1::10/64"}}, End{In: "router", Name: "eth0", Addrs: []string{"10.0.1.1/24", "fd00:1::1/64"}}},
			{End{In: "server", Name: "eth0", MAC: "02:00:00:00:02:0a", Addrs: []string{"10.0.2.10/24", "fd00:2::10/64"}}, End{In: "router", Name: "eth1", Addrs: []string{"10.0.2.1/24", "fd00:2::1/64"}}},
		},
		VIPs: []VIP{{"server", "203.0.113.1"}},
		Sysctls: []Sysctl{
			{"router", "net.ipv4.ip_forward", "1"},
			{"router", "net.ipv6.conf.all.forwarding", "1"},
		},
		Routes: []Route{
			{In: "client", To: "default", Via: "10.0.1.1"},
			{In: "client", To: "default", Via: "fd00:1::1"},
			{In: "server", To: "10.0.1.0/24", Via: "10.0.2.1", Dev: "eth0"},
			{In: "server", To: "fd00:1::/64", Via: "fd00:2::1"},
			{In: "router", To: "203.0.113.1/32", Dev: "eth1"}, // the server keeps silent about its VIP:
		},
		Neighbors: []Neighbor{{"router", "eth1", "203.0.113.1", "02:00:00:00:02:0a"}},
	})
	for _, address := range []string{"10.0.2.10:80", "[fd00:2::10]:80", "203.0.113.1:80"} {
		serveName(t, n.In("server"), "tcp", address)
		if got := ask(t, n.In("client"), "tcp", address); got != "server" {
			t.Errorf("%s answers %q, want server", address, got)
		}
	}
}

func TestSwitchJoinsItsEnds(t *testing.T) {
	n := New(t, Plan{Switches: []Switch{{Name: "lan", Ends: []End{
		{In: "a", Name: "eth0", Addrs: []string{"10.0.1.1/24", "fd00:1::1/64"}},
		{In: "b", Name: "eth0", Addrs: []string{"10.0.1.2/24", "fd00:1::2/64"}},
		{In: "c", Name: "eth0", Addrs: []string{"10.0.1.3/24", "fd00:1::3/64"}},
	}}}})
	for i, name := range []string{"b", "c"} {
		for _, format := range []string{"10.0.1.%d:80", "[fd00:1::%d]:80"} {
			address := fmt.Sprintf(format, i+2)
			serveName(t, n.In(name), "tcp", address)
			if got := ask(t, n.In("a"), "tcp", address); got != name {
				t.Errorf("%s answers %q, want %s", address, got, name)
			}
		}
	}
}

// The far end's queues are what an AF_XDP director has to find.
func TestQueueCounts(t *testing.T) {
	plan := pair()
	plan.Links[0].A.RxQueues, plan.Links[0].A.TxQueues = 2, 1
	plan.Links[0].B.RxQueues, plan.Links[0].B.TxQueues = 3, 2
	n := New(t, plan)
	for name, want := range map[string][2]int{"left": {2, 1}, "right": {3, 2}} {
		link, err := n.In(name).Netlink().LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]int{link.Attrs().NumRxQueues, link.Attrs().NumTxQueues}; got != want {
			t.Errorf("%s has %v queues (rx, tx), want %v", name, got, want)
		}
	}
}

func TestProcessesRunInside(t *testing.T) {
	n := New(t, pair())
	inside, err := n.In("left").Run("readlink", "/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var want string
	if err := n.In("left").Do(func() (err error) {
		want, err = os.Readlink(threadNamespace)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	outside, err := os.Readlink(threadNamespace)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(inside); got != want || got == outside {
		t.Errorf("process in %s, want in %s (the test is in %s)", got, want, outside)
	}
	if _, err := n.In("left").Run("sh", "-c", "echo sorry >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "sorry") {
		t.Errorf("error of a failed program: %v, want one with what it said", err)
	}
}

// Close must leave no process, no interface and no namespace behind.
func TestCloseLeavesNothing(t *testing.T) {
	NeedRoot(t)
	n, err := Build(pair())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "600")
	if err := n.In("left").Start(cmd); err != nil {
		t.Fatal(err)
	}
	path := n.In("left").Path()
	if err := n.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := cmd.Wait(); cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("process ended by itself: %v", err)
	}
	if target, err := os.Readlink(path); err == nil && strings.HasPrefix(target, "net:") {
		t.Errorf("namespace %s is still open", target)
	}
	if err := n.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// A thread that went into a namespace must come back, also by a panic.
func TestDoComesBack(t *testing.T) {
	n := New(t, pair())
	here := func() string {
		link, err := os.Readlink(threadNamespace)
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	home, inner := here(), errors.New("inner")
	err := n.In("left").Do(func() error {
		left := here()
		if err := n.In("right").Do(func() error {
			if right := here(); right == left || right == home {
				t.Errorf("nested: in %s, left is %s, home %s", right, left, home)
			}
			return inner
		}); !errors.Is(err, inner) {
			t.Errorf("nested Do returns %v, want the function's error", err)
		}
		if got := here(); got != left {
			t.Errorf("after the nested call: in %s, want %s", got, left)
		}
		return nil
	})
	if err != nil || here() != home {
		t.Errorf("after Do (%v): in %s, want %s", err, here(), home)
	}
	func() {
		defer func() { _ = recover() }()
		_ = n.In("left").Do(func() error { panic("lost") })
	}()
	if got := here(); got != home {
		t.Errorf("after a panic: in %s, want %s", got, home)
	}
}

func TestSysctl(t *testing.T) {
	n := New(t, pair())
	if err := n.In("left").Sysctl("net.ipv4.conf.eth0.log_martians", "1"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"left": "1", "right": "0"} {
		got, err := n.In(name).Run("cat", "/proc/sys/net/ipv4/conf/eth0/log_martians")
		if err != nil || strings.TrimSpace(got) != want {
			t.Errorf("%s: log_martians is %q (%v), want %s", name, got, err, want)
		}
	}
}

// A plan that cannot be built says which of its items is wrong, and leaves nothing.
func TestBadPlans(t *testing.T) {
	NeedRoot(t)
	for _, c := range []struct {
		why  string
		edit func(p *Plan)
		want string
	}{
		{"not a MAC", func(p *Plan) { p.Links[0].A.MAC = "02:00" }, "02:00"},
		{"MAC of another layer 2", func(p *Plan) { p.Links[0].B.MAC = "02:00:00:00:00:00:00:01" }, "not an Ethernet address"},
		{"address without length", func(p *Plan) { p.Links[0].A.Addrs = []string{"10.0.0.1"} }, "10.0.0.1"},
		{"name longer than the kernel's", func(p *Plan) { p.Links[0].A.Name = "a-name-of-17-byte" }, "veth"},
		{"no such interface", func(p *Plan) { p.Routes = []Route{{In: "left", To: "default", Dev: "eth7"}} }, "eth7 in left"},
		{"gateway out of reach", func(p *Plan) { p.Routes = []Route{{In: "left", To: "default", Via: "10.9.9.9"}} }, "unreachable"},
		{"no such parameter", func(p *Plan) { p.Sysctls = []Sysctl{{"left", "net.ipv4.none", "1"}} }, "net/ipv4/none"},
		{"VIP that is a prefix", func(p *Plan) { p.VIPs = []VIP{{"left", "10.0.0.1/32"}} }, "10.0.0.1/32"},
		{"neighbour without MAC's form", func(p *Plan) { p.Neighbors = []Neighbor{{"left", "eth0", "10.0.1.2", "x"}} }, "neighbour"},
	} {
		t.Run(c.why, func(t *testing.T) {
			plan := pair()
			c.edit(&plan)
			n, err := Build(plan)
			if err == nil {
				n.Close()
				t.Fatal("built")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q lacks %q", err, c.want)
			}
		})
	}
}

func TestUnknownNamespacePanics(t *testing.T) {
	n := New(t, Plan{Namespaces: []string{"only"}})
	defer func() {
		if recover() == nil {
			t.Error("In of a name that is in no plan returned")
		}
	}()
	n.In("other")
}

// The main thread of a process cannot end, so no namespace may live on it:
// /proc/PID/ns would show it, and its children would survive.
func TestMainThreadStaysHome(t *testing.T) {
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprint("n", i))
	}
	home, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	n := New(t, Plan{Namespaces: names})
	for _, name := range names {
		tid := make(chan int)
		n.In(name).calls <- func() { tid <- unix.Gettid() }
		if <-tid == os.Getpid() {
			t.Errorf("%s lives on the main thread", name)
		}
	}
	if got, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", os.Getpid())); got != home {
		t.Errorf("main thread is in %s, want %s", got, home)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
