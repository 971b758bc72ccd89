package e2e

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// refused runs a command in the director's namespace that is to fail, and
// returns its exit status and what it said.
func (d *director) refused(args ...string) (status int, said string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	var errs strings.Builder
	cmd := exec.CommandContext(ctx, d.binary, args...)
	cmd.Stderr = &errs
	err := d.host.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		d.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), errs.String()
}

// A director that cannot be what its configuration says does not start: it
// says why, and leaves nothing.
func TestRefusesToStart(t *testing.T) {
	service := "services: [{protocol: tcp, address: 203.0.113.10, port: 80, scheduler: rr, servers: [{address: 10.0.2.11}]}]\n"
	n := testnet.New(t, testnet.Plan{Links: []testnet.Link{
		{A: testnet.End{In: "client", Name: "eth0", TxQueues: 1}, B: testnet.End{In: "director", Name: "eth0", RxQueues: 2, TxQueues: 1}},
		{A: testnet.End{In: "server", Name: "eth0"}, B: testnet.End{In: "director", Name: "eth1"}},
		{A: testnet.End{In: "server", Name: "jumbo", MTU: 9000}, B: testnet.End{In: "director", Name: "jumbo", MTU: 9000}},
	}})
	d := &director{t: t, host: n.In("director"), binary: built(t, plain), folder: t.TempDir()}
	for _, row := range []struct {
		stake, config string
		want          []string // in what it says
	}{
		{"no such interface", "interfaces: [{name: eth7, role: both}]\n", []string{"eth7", "no such network interface"}},
		{"interfaces of different numbers of queues", "interfaces: [{name: eth0, role: client}, {name: eth1, role: server}]\n", []string{"interfaces[1]: eth1 has 1 queues for 2 workers", "ethtool -L"}},
		{"a queue that is not there", "interfaces: [{name: eth1, role: both, queues: [1]}]\nworkers: {cpus: [0]}\n", []string{"interfaces.queues: eth1 has 1 queues"}},
		{"a CPU that is not there", "interfaces: [{name: eth1, role: both}]\nworkers: {cpus: [8191]}\n", []string{"workers.cpus", "8191"}},
		{"no zero-copy on this NIC", "interfaces: [{name: eth1, role: both, mode: zerocopy}]\n", []string{"bind eth1 queue 0 (zero-copy)", "interfaces.mode driver or auto does without"}},
		{"frames smaller than packets", "interfaces: [{name: jumbo, role: both}]\n", []string{"workers.frame_size", "MTU of jumbo is 9000"}},
		{"no interface for requests", "interfaces: [{name: eth1, role: server}]\n", []string{"none has role client or both"}},
		{
			"every fault of a file", "node: 7.5\ninterfaces: [{name: eth1, role: both, rings: 5}]\nworkers: {batch: 0}\nservices: [{protocol: tcp, address: 10.0.0.300, port: 80, scheduler: rr}]\n",
			[]string{"interfaces[0].rings", "workers.batch", "services[0].address"},
		},
	} {
		t.Run(row.stake, func(t *testing.T) {
			if !strings.Contains(row.config, "services:") {
				row.config += service
			}
			d.t = t
			d.configure(row.config)
			status, said := d.refused("run", "-c", d.file())
			if status != 1 {
				t.Errorf("exit status %d, want 1", status)
			}
			for _, want := range row.want {
				if !strings.Contains(said, want) {
					t.Errorf("it does not say %q, but:\n%s", want, said)
				}
			}
			d.clean(patience)
		})
	}
	t.Run("wrong usage", func(t *testing.T) {
		d.t = t
		for _, args := range [][]string{{"run", "--fast"}, {"run", "now"}, {"fly"}} {
			if status, said := d.refused(args...); status != 2 || said == "" {
				t.Errorf("sluice %s: exit status %d, %q; want 2 and why", strings.Join(args, " "), status, said)
			}
		}
	})
}

// Where another XDP program is, be it sluice's, the director does not start,
// and the other is unharmed.
func TestRefusesOccupiedInterfaces(t *testing.T) {
	plan := routed(1)
	plan.Links = append(plan.Links, testnet.Link{A: testnet.End{In: "client", Name: "eth2"}, B: testnet.End{In: "director", Name: "eth2"}})
	n := testnet.New(t, plan)
	serveWeb(t, n.In(server(0)), ":8080")
	service := natService(1)
	t.Run("foreign program", func(t *testing.T) {
		d := &director{t: t, host: n.In("director"), binary: built(t, plain), folder: t.TempDir()}
		d.configure(service)
		var attached link.Link
		if err := d.host.Do(func() error {
			program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
				Name: "someone_elses", Type: ebpf.XDP, License: "Apache-2.0",
				Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // XDP_PASS
			})
			if err != nil {
				return err
			}
			defer program.Close()
			nic, err := n.In("director").Netlink().LinkByName("eth1")
			if err != nil {
				return err
			}
			attached, err = link.AttachXDP(link.XDPOptions{Program: program, Interface: nic.Attrs().Index})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		status, said := d.refused("run", "-c", d.file())
		if status != 1 || !strings.Contains(said, `eth1: XDP program "someone_elses"`) || !strings.Contains(said, "ip link set dev eth1 xdp off") {
			t.Errorf("exit status %d, want 1 and whose program is in the way; it said:\n%s", status, said)
		}
		if left := d.traces(); len(left) != 1 || !strings.HasSuffix(left[0], " on eth1") {
			t.Errorf("left are %q, want the other's program alone", left)
		}
		if err := attached.Close(); err != nil {
			t.Fatal(err)
		}
		d.clean(patience)
	})
	t.Run("second sluice", func(t *testing.T) {
		first := start(t, n, service)
		v := visit(t, n.In("client"), "203.0.113.10:80", 1)
		v.more(5)
		second := &director{t: t, host: n.In("director"), binary: built(t, plain), folder: t.TempDir()}
		for _, row := range []struct{ stake, config, want string }{
			{"the same interfaces", service, "is another sluice running?"},
			{"the same socket", "interfaces: [{name: eth2, role: both}]\ncontrol: {socket: " + first.socket() + ", listen: \"\"}\n" + service, "is sluice running already?"},
			{"the same host", "interfaces: [{name: eth2, role: both}]\n" + service, "is another sluice running?"},
		} {
			second.configure(row.config)
			if status, said := second.refused("run", "-c", second.file()); status != 1 || !strings.Contains(said, row.want) {
				t.Errorf("%s: exit status %d, want 1 and %q; it said:\n%s", row.stake, status, row.want, said)
			}
		}
		v.more(5)
		v.end()
	})
}
