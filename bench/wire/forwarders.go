package wire

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
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
  - {protocol: %[9]s, address: %[4]s, port: %[5]d, scheduler: rr, forward: %[11]s, servers: [{address: %[6]s, port: %[7]d}]}
  - {protocol: udp, address: %[4]s, port: %[10]d, scheduler: rr, forward: nat, servers: []}
control: {socket: %[8]s, listen: ""}
`

// startSluice returns a function that starts sluice with a service of a protocol,
// forwarded by a method to that port of the server.
func startSluice(protocol, method string, port uint16) startFunc {
	return func(ctx context.Context, n *testnet.Network, c *Config, dir string) (*process, error) {
		path := filepath.Join(dir, "sluice.yaml")
		text := fmt.Sprintf(sluiceYAML, front, back, c.CPUs.Worker, vip, vport, serverAddr, port, filepath.Join(dir, "control.sock"), protocol, emptyPort, method)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
		return startProcess(ctx, n, &c.CPUs, dir, "msg=running", c.Sluice, "run", "-c", path)
	}
}

// lacksTestpmd says whether DPDK's testpmd, or what makes its output lines, is missing.
func lacksTestpmd(c *Config) error { return needs(c.Testpmd, "stdbuf")(c) }

// lacksL2fwd says whether the forwarder in C is missing.
func lacksL2fwd(c *Config) error {
	if err := needs(c.L2fwd)(c); err != nil {
		return fmt.Errorf("%w (make bench builds it)", err)
	}
	return nil
}

// startL2fwd starts the forwarder in C, with sluice's sizes of rings and batches.
func startL2fwd(ctx context.Context, n *testnet.Network, c *Config, dir string) (*process, error) {
	return startProcess(ctx, n, &c.CPUs, dir, "forwarding", c.L2fwd, strconv.Itoa(c.CPUs.Worker), front, clientMAC, back, serverMAC)
}

// startTestpmd starts DPDK's testpmd on net_af_xdp: one core that forwards
// between the two interfaces and gives packets new MAC addresses. Its rings
// and batches are as long as sluice's.
func startTestpmd(ctx context.Context, n *testnet.Network, c *Config, dir string) (*process, error) {
	args := strings.Fields(fmt.Sprintf(`--no-huge -m 512 --no-pci --iova-mode=va --no-telemetry --no-shconf
		-l %[1]d,%[2]d --main-lcore %[1]d --vdev net_af_xdp0,iface=%[3]s --vdev net_af_xdp1,iface=%[4]s --
		--auto-start --forward-mode=mac --eth-peer=0,%[6]s --eth-peer=1,%[5]s --nb-cores=1 --rxd=2048 --txd=2048 --burst=64 --total-num-mbufs=32768`,
		c.CPUs.Rest[0], c.CPUs.Worker, front, back, serverMAC, clientMAC))
	// Into a pipe it would write what it says when the pipe is full.
	return startProcess(ctx, n, &c.CPUs, dir, "Press enter to exit", "stdbuf", append([]string{"-oL", c.Testpmd}, args...)...)
}
