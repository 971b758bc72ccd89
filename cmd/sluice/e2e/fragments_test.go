package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// way is a method and the families of a service and of its servers.
type way struct {
	name, vip, forward string
	server             func(int) string
}

// ways are those by which datagrams travel in fragments.
var ways = []way{
	{"NAT v4", "203.0.113.10", "nat", server4},
	{"NAT v6", "2001:db8::10", "nat", server6},
	{"DR v4", "203.0.113.20", "dr", server4},
	{"DR v6", "2001:db8::20", "dr", server6},
	{"TUN v4", "203.0.113.30", "tun", server4},
	{"TUN v6", "2001:db8::30", "tun", server6},
	{"TUN v4 in v6", "203.0.113.40", "tun", server6},
	{"TUN v6 in v4", "2001:db8::40", "tun", server4},
}

// served is the address that the server serves at.
func (w *way) served() string {
	if w.forward == "nat" {
		return w.server(0)
	}
	return w.vip
}

// allWays builds a network with one server, and the configuration of services at these
// "protocol port" for each of ways.
func allWays(t *testing.T, services ...string) (*testnet.Network, string) {
	t.Helper()
	plan, config := routed(1), "services:\n"
	for _, w := range ways {
		for _, service := range services {
			protocol, port, _ := strings.Cut(service, " ")
			config += fmt.Sprintf("  - {protocol: %s, address: %q, port: %s, scheduler: rr, forward: %s, servers: [{address: %q, port: %s}]}\n",
				protocol, w.vip, port, w.forward, w.server(0), port)
		}
		if w.forward != "nat" {
			plan.VIPs = append(plan.VIPs, testnet.VIP{In: server(0), Addr: w.vip})
		}
	}
	n := testnet.New(t, plan)
	if _, err := n.Decapsulate(server(0)); err != nil {
		t.Fatal(err)
	}
	return n, config
}

// Datagrams that need fragments come back as they were sent, up to the largest that
// there are, by every method, and so do iperf3's; the counters add up. The race
// detector watches.
func TestDatagramsInFragments(t *testing.T) {
	n, config := allWays(t, "udp 7", "udp 5201", "tcp 5201")
	d := startBuild(t, n, config, raced)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			echoUDP(t, n.In(server(0)), net.JoinHostPort(w.served(), "7"))
			v6, outer6 := strings.Contains(w.vip, ":"), strings.Contains(w.server(0), ":")
			most := 65535 - 8 // the longest that there is
			if !v6 {
				most -= 20 // IPv4's own header counts
			}
			if w.forward == "tun" {
				if v6 {
					most -= 40
				}
				if !outer6 {
					most -= 20
				}
			}
			c := udpConn(t, n.In("client"), net.JoinHostPort(w.vip, "7"))
			for _, size := range []int{1473, 2953, 4000, 8000, 20_000, most} {
				err := bounce(c, noise(uint64(size), size))
				if v6 && w.forward == "tun" && size == 1473 && errors.Is(err, syscall.EMSGSIZE) {
					err = bounce(c, noise(1, size)) // the first fragment was longer than the tunnel takes
				}
				if err != nil {
					t.Errorf("%d bytes: %v; %s", size, err, d.counters())
				}
			}
			t.Run("iperf3", func(t *testing.T) {
				needTool(t, "iperf3", "iperf3")
				serveIperf(t, n, w.served())
				iperf(t, d, n, &w, false)
				if w.forward == "nat" { // else the answers pass by
					iperf(t, d, n, &w, true)
				}
			})
		})
	}
}

// serveIperf runs an iperf3 server on the server until the test ends.
func serveIperf(t *testing.T, n *testnet.Network, address string) {
	t.Helper()
	cmd := exec.Command("iperf3", "-s", "--forceflush", "-B", address)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.In(server(0)).Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "Server listening") {
			go io.Copy(io.Discard, out)
			return
		}
	}
	t.Fatal("iperf3 -s does not listen")
}

// iperf has iperf3 send datagrams of six fragments each by a way, from the client or back
// to it, and checks that none is lost on the way, and what is counted.
func iperf(t *testing.T, d *director, n *testnet.Network, w *way, back bool) {
	t.Helper()
	const sent, fragments = 200, 6
	receiver, args := server(0), []string{"-c", w.vip, "-u", "-l", "8000", "-b", "20M", "-k", fmt.Sprint(sent), "-J"}
	if back {
		receiver, args = "client", append(args, "-R")
	}
	before, lateBefore := d.quiet(), overrun(t, n.In(receiver))
	out, err := n.In("client").Run("iperf3", args...)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var report struct {
		End struct {
			Sum struct {
				Packets int `json:"packets"`
				Lost    int `json:"lost_packets"`
			} `json:"sum"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	arrived, late := report.End.Sum.Packets-report.End.Sum.Lost, overrun(t, n.In(receiver))-lateBefore
	if arrived+late < sent {
		t.Errorf("iperf3, back %t: %+v, and %d that it was late for, want %d in all", back, report.End.Sum, late, sent)
	}
	now := d.quiet()
	// counted is by how much a counter has grown.
	counted := func(of func(s *control.AllStats) uint64) int { return int(of(&now) - of(&before)) }
	gathered := counted(func(s *control.AllStats) uint64 { return s.SlowPath.Packets["fragment"]["gathered"] })
	left := counted(func(s *control.AllStats) uint64 { return s.SlowPath.Packets["oversize"]["transmitted"] })
	through := counted(func(s *control.AllStats) uint64 {
		i := slices.IndexFunc(s.Services, func(x control.Service) bool { return x.Address == w.vip && x.Port == 5201 && x.Protocol == "udp" })
		if back {
			return s.Services[i].Stats.OutPackets
		}
		return s.Services[i].Stats.InPackets
	})
	// One or two short datagrams tell the server of the client; with -R iperf3 sends some more than asked for.
	hellos := through - gathered/fragments
	if hellos < 1 || hellos > 2 || gathered < sent*fragments || gathered%fragments != 0 || left != gathered {
		t.Errorf("iperf3, back %t: %d datagrams counted, from %d fragments, %d left in fragments; want %d or more datagrams of %d each",
			back, through, gathered, left, sent, fragments)
	}
}

// overrun is how many datagrams found the buffer of their socket full, because their
// receiver did not come to read them in time.
func overrun(t *testing.T, s *testnet.Namespace) (sum int) {
	t.Helper()
	out, err := s.Run("nstat", "-asz", "UdpRcvbufErrors", "Udp6RcvbufErrors")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, row := range regexp.MustCompile(`(?m)RcvbufErrors +(\d+)`).FindAllStringSubmatch(out, -1) {
		n, err := strconv.Atoi(row[1])
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// bounce sends a datagram and waits for its echo.
func bounce(c net.Conn, want []byte) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(want); err != nil {
		return err
	}
	got := make([]byte, 1<<16)
	k, err := c.Read(got)
	if err == nil && !bytes.Equal(got[:k], want) {
		err = errors.New("another echo than what was sent")
	}
	return err
}
