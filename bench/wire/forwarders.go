package wire

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// emptyPort has a service without servers.
const emptyPort = 9

// sluiceYAML is the configuration of the director: one worker that never
// sleeps, and what else is default.
const sluiceYAML = `node: bench
interfaces:
  - {name: %[1]s, role: client}
  - {name: %[2]s, role: server}
workers: {cpus: [%[3]d], idle: spin}
services:
  - {protocol: %[9]s, address: %[4]s, port: %[5]d, scheduler: rr, forward: nat, servers: [{address: %[6]s, port: %[7]d}]}
  - {protocol: udp, address: %[4]s, port: %[10]d, scheduler: rr, forward: nat, servers: []}
control: {socket: %[8]s, listen: ""}
`

// startSluice returns a function that starts sluice with a NAT service of a
// protocol.
func startSluice(protocol string) func(ctx context.Context, n *testnet.Network, c *Config, dir string) (*process, error) {
	return func(ctx context.Context, n *testnet.Network, c *Config, dir string) (*process, error) {
		path := filepath.Join(dir, "sluice.yaml")
		text := fmt.Sprintf(sluiceYAML, front, back, c.CPUs.Worker, vip, vport, serverAddr, rport, filepath.Join(dir, "control.sock"), protocol, emptyPort)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
		return startProcess(ctx, n, &c.CPUs, dir, "msg=running", c.Sluice, "run", "-c", path)
	}
}

// startTestpmd starts DPDK's testpmd on net_af_xdp: one core that forwards
// between the two interfaces and gives packets new MAC addresses. Its rings
// and batches are as long as sluice's.
func startTestpmd(ctx context.Context, n *testnet.Network, c *Config, dir string) (*process, error) {
	args := strings.Fields(fmt.Sprintf(`--no-huge -m 512 --no-pci --iova-mode=va --no-telemetry --no-shconf
		-l %[1]d,%[2]d --main-lcore %[1]d --vdev net_af_xdp0,iface=%[3]s --vdev net_af_xdp1,iface=%[4]s --
		--auto-start --forward-mode=mac --eth-peer=1,%[5]s --nb-cores=1 --rxd=2048 --txd=2048 --burst=64 --total-num-mbufs=32768`,
		c.CPUs.Rest[0], c.CPUs.Worker, front, back, serverMAC))
	// Into a pipe it would write what it says when the pipe is full.
	return startProcess(ctx, n, &c.CPUs, dir, "Press enter to exit", "stdbuf", append([]string{"-oL", c.Testpmd}, args...)...)
}
