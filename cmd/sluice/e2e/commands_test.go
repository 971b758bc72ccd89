package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// said is what a command printed and how it ended.
type said struct {
	out, errs string
	status    int
}

// command runs a command of the built binary, or of a link to it, on the node.
func (d *director) command(path, stdin string, words ...string) (s said) {
	d.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(path, words...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		s.status = exit.ExitCode()
	} else if err != nil {
		d.t.Fatal(err)
	}
	s.out, s.errs = out.String(), errs.String()
	return s
}

// What ipvsadm and sysctl change lives: traffic follows it at once, it is
// listed, saved as a configuration that loads, and taken back by the next
// reload, which says so.
func TestChangesLive(t *testing.T) {
	n := testnet.New(t, routed(2))
	for i := range 2 {
		serveWeb(t, n.In(server(i)), ":8080")
	}
	d := start(t, n, "services: [{name: www, protocol: tcp, address: 203.0.113.10, port: 80, scheduler: rr, servers: [{address: 10.0.2.11, port: 8080}]}]\n")
	link := filepath.Join(d.folder, "ipvsadm")
	if err := os.Symlink(d.binary, link); err != nil {
		t.Fatal(err)
	}
	ipvsadm := func(stdin, line string) said {
		return d.command(link, stdin, append([]string{"--socket", d.socket()}, strings.Fields(line)...)...)
	}
	sluice := func(words ...string) said {
		return d.command(d.binary, "", append(words, "--socket", d.socket())...)
	}
	const before = "-A -t 203.0.113.10:80 -s rr\n-a -t 203.0.113.10:80 -r 10.0.2.11:8080 -m -w 1\n"
	for _, row := range []struct {
		stake, line, stdin string
		want               said
	}{
		{"a rule set is saved", "-S -n", "", said{out: before}},
		{"a server is added", "-a -t 203.0.113.10:80 -r 10.0.2.12:8080 -m -w 3", "", said{}},
		{"and one is drained", "-e -t 203.0.113.10:80 -r 10.0.2.11:8080 -m -w 0", "", said{}},
		{"both are listed", "-L -n", "", said{out: `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  203.0.113.10:80 rr
  -> 10.0.2.11:8080               Masq    0      0          0         
  -> 10.0.2.12:8080               Masq    3      0          0         
`}},
		{"the kernel's refusal", "-a -t 203.0.113.10:80 -r 10.0.2.12:8080 -m", "", said{errs: "Destination already exists\n", status: 255}},
		{"ipvsadm's own", "-a -t 203.0.113.10:80", "", said{errs: "You need to supply the 'real-server' option for the 'add-server' command\n", status: 2}},
		{"timeouts", "--set 100 0 50", "", said{}},
		{"are listed", "-L --timeout", "", said{out: "Timeout (tcp tcpfin udp): 100 120 50\n"}},
		{"many at once", "-R", "-A -u 203.0.113.10:53 -s wrr\n-a -u 203.0.113.10:53 -r 10.0.2.12 -m\n-A -u 203.0.113.10:53\n-a -u 203.0.113.10:53 -r 10.0.2.11 -m\n", said{errs: "Service already exists\n"}},
		{"no daemon runs", "-L --daemon", "", said{}},
	} {
		if got := ipvsadm(row.stdin, row.line); got != row.want {
			t.Errorf("%s: ipvsadm %s: %+v, want %+v", row.stake, row.line, got, row.want)
		}
	}
	b := newBrowser(n.In("client"), patience)
	for range 4 {
		if name, err := b.post("203.0.113.10:80", noise(1, 1000)); err != nil || name != server(1) {
			t.Errorf("served by %q (%v), want %s, the only server with a weight", name, err, server(1))
		}
	}
	if got := ipvsadm("", "-L -n --stats -t 203.0.113.10:80"); !strings.HasPrefix(got.out, "Prot LocalAddress:Port ") || !strings.Contains(got.out, "\nTCP  203.0.113.10:80                     4 ") {
		t.Errorf("counters of 4 connections: %+v", got)
	}
	for _, row := range []struct {
		words []string
		want  said
	}{
		{[]string{"sysctl", "net.ipv4.vs.sloppy_tcp=1", "conntrack=1"}, said{out: "net.ipv4.vs.sloppy_tcp = 1\nnet.ipv4.vs.conntrack = 1\n"}},
		{[]string{"sysctl", "-n", "sloppy_tcp"}, said{out: "1\n"}},
		{[]string{"sysctl", "sloppy_tcp=0", "drop_entry=4"}, said{errs: "sluice sysctl: drop_entry: 4 is out of range, want 0..3\n", status: 1}},
		{[]string{"sysctl", "sloppy_tcp"}, said{out: "net.ipv4.vs.sloppy_tcp = 1\n"}},
	} {
		if got := sluice(row.words...); got != row.want {
			t.Errorf("%q: %+v, want %+v", row.words, got, row.want)
		}
	}
	if !strings.Contains(d.log(), "tunables without effect here") {
		t.Error("nothing was logged about conntrack, which has no effect")
	}

	saved := filepath.Join(d.folder, "saved.yaml")
	if got := sluice("save", saved); got != (said{}) {
		t.Errorf("save: %+v", got)
	}
	rules := ipvsadm("", "-S -n").out
	if offline := d.command(d.binary, "", "ipvsadm", "--config", saved, "-S", "-n"); offline != (said{out: rules}) || !strings.Contains(rules, "-A -u 203.0.113.10:53 -s wrr\n") {
		t.Errorf("the saved file has the rules\n%+v, want\n%s", offline, rules)
	}
	const takenBack = `- server udp-203.0.113.10-53 10.0.2.12:53
- server udp-203.0.113.10-53 10.0.2.11:53
- service udp-203.0.113.10-53
- server www 10.0.2.12:8080
~ server www 10.0.2.11:8080: weight 0 → 1
~ node: tcp timeout 1m40s → 15m0s, udp timeout 50s → 5m0s, conntrack 1 → 0, sloppy_tcp 1 → 0
4 live connections touched, applied in `
	if got := sluice("reload"); got.status != 0 || got.errs != "" || !strings.HasPrefix(got.out, takenBack) {
		t.Errorf("reload: %+v, want it to begin with\n%s", got, takenBack)
	}
	if got := ipvsadm("", "-S -n"); got != (said{out: before}) {
		t.Errorf("after the reload: %+v, want %s", got, before)
	}
	// The saved file is the state that the reload took back.
	text, err := os.ReadFile(saved)
	if err != nil {
		t.Fatal(err)
	}
	d.configure(string(text))
	if got := sluice("reload"); got.status != 0 {
		t.Errorf("reload of the saved file: %+v", got)
	}
	if got := ipvsadm("", "-S -n"); got.out != rules {
		t.Errorf("after a reload of the saved file: %s, want %s", got.out, rules)
	}
	if got := sluice("sysctl", "-n", "sloppy_tcp", "conntrack"); got.out != "1\n1\n" {
		t.Errorf("tunables after a reload of the saved file: %+v", got)
	}
	if got := ipvsadm("", "-C"); got != (said{}) || d.status().Services != 0 {
		t.Errorf("all services removed: %+v, and %d are there", got, d.status().Services)
	}
}

// A service of 1,000 servers with Maglev hashing is edited over and over, which
// makes its table anew each time, while counted flows go through: the director
// builds tables beside the workers, and no packet is lost.
func TestMaglevEditsUnderLoad(t *testing.T) {
	n := testnet.New(t, routed(1))
	echoUDP(t, n.In(server(0)), ":8080")
	var servers strings.Builder
	for i := range 999 {
		fmt.Fprintf(&servers, ", {address: 10.9.%d.%d, port: 8080, weight: 0}", i/250, 1+i%250)
	}
	d := start(t, n, "services: [{protocol: udp, address: 203.0.113.10, port: 80, scheduler: mh, servers: [{address: 10.0.2.11, port: 8080}"+servers.String()+"]}]\n")
	s := newStream(t, n.In("client"), 4, 2*time.Millisecond)
	if err := d.await(patience, "the flows are there", func() bool { return d.status().Connections == 4 }); err != nil {
		t.Fatal(err)
	}
	const edits = 40
	for i := range edits { // servers that nobody is: flows that began before stay where they are
		line := fmt.Sprintf("ipvsadm --socket %s -e -u 203.0.113.10:80 -r 10.9.%d.%d:8080 -m -w %d", d.socket(), i/250, 1+i%250, 1+i%7)
		if got := d.command(d.binary, "", strings.Fields(line)...); got != (said{}) {
			t.Fatalf("%s: %+v", line, got)
		}
	}
	sent, lost := s.end()
	t.Logf("%d edits; %d datagrams each way, %d lost", edits, sent, lost)
	if lost > 0 || sent == 0 {
		t.Errorf("%d of %d datagrams lost", lost, sent)
	}
}
