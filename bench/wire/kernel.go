package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/internal/testnet"
	"github.com/sluice-lb/sluice/workers/cpu"
)

// placement is where the kernel forwards.
type placement int

const (
	// inline is where the kernel does it by itself on veth: in a softirq of the
	// sender's CPU, between two of its packets.
	inline placement = iota
	// threaded is a NAPI thread of each interface on the worker's CPU: as on a wire,
	// whose other end has a CPU of its own.
	threaded
)

// prepare has the director's kernel forward by routes.
func (at placement) prepare(n *testnet.Network, c *Config) error {
	d := n.In(director)
	if err := d.Sysctl("net.ipv4.ip_forward", "1"); err != nil {
		return err
	}
	for _, dev := range []string{front, back} {
		// A veth takes XDP frames from its peer only if it has NAPI.
		if _, err := d.Run("ethtool", "-K", dev, "gro", "on"); err != nil {
			return err
		}
		if at == inline {
			continue
		}
		if err := threadNAPI(n.In(director), dev, c.CPUs.Worker); err != nil {
			return err
		}
	}
	return nil
}

// threadNAPI gives an interface a NAPI thread on a CPU, before all others there.
func threadNAPI(in *testnet.Namespace, dev string, onCPU int) error {
	before, err := napiThreads(dev)
	if err != nil {
		return err
	}
	// The namespace has no /sys of its own.
	if _, err := in.Run("unshare", "--mount", "sh", "-c",
		"mount -t sysfs sysfs /sys && echo 1 > /sys/class/net/"+dev+"/threaded"); err != nil {
		return err
	}
	after, err := napiThreads(dev)
	if err != nil {
		return err
	}
	mine := slices.DeleteFunc(after, func(id int) bool { return slices.Contains(before, id) })
	if len(mine) == 0 {
		return fmt.Errorf("%s has no NAPI thread", dev)
	}
	for _, id := range mine {
		if err := errors.Join(cpu.Pin(id, onCPU), unix.Setpriority(unix.PRIO_PROCESS, id, -20)); err != nil {
			return err
		}
	}
	return nil
}

// napiThreads returns the NAPI threads of all interfaces of that name.
func napiThreads(dev string) (ids []int, err error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		text, readErr := os.ReadFile(name)
		if readErr != nil || !strings.HasPrefix(string(text), "napi/"+dev+"-") {
			continue // or the process has ended
		}
		id, idErr := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		ids, err = append(ids, id), errors.Join(err, idErr)
	}
	return ids, err
}

// startForward has the kernel route what is to the VIP to the server.
func startForward(at placement) startFunc {
	return func(_ context.Context, n *testnet.Network, c *Config, _ string) (*process, error) {
		if err := at.prepare(n, c); err != nil {
			return nil, err
		}
		return nil, n.In(director).AddRoute(vip+"/32", serverAddr, back)
	}
}

// spread is a map of nftables from a flow's hash to one of four servers, which
// are all the same here.
func spread(server string) string {
	return fmt.Sprintf("jhash ip saddr . udp sport mod 4 map { 0 : %[1]s, 1 : %[1]s, 2 : %[1]s, 3 : %[1]s }", server)
}

// startNftDNAT has nftables choose the server of each connection, by hash, and
// conntrack rewrite.
func startNftDNAT(at placement) startFunc {
	return startNft(at, fmt.Sprintf(`table ip bench {
	chain in {
		type nat hook prerouting priority dstnat;
		ip daddr %s udp dport %d dnat to %s
	}
}`, vip, vport, spread(fmt.Sprintf("%s . %d", serverAddr, rport))))
}

// startNftDR has nftables choose a server for each packet, by hash, and send it there
// with nothing else done.
func startNftDR(at placement) startFunc {
	return startNft(at, fmt.Sprintf(`table netdev bench {
	chain in {
		type filter hook ingress device %s priority 0;
		ip daddr %s udp dport %d ether saddr set %s ether daddr set %s fwd to %s
	}
}`, front, vip, vport, backMAC, spread(serverMAC), back))
}

// startNft loads rules in the director.
func startNft(at placement, rules string) startFunc {
	return func(_ context.Context, n *testnet.Network, c *Config, dir string) (*process, error) {
		if err := at.prepare(n, c); err != nil {
			return nil, err
		}
		path := filepath.Join(dir, "rules.nft")
		if err := os.WriteFile(path, []byte(rules), 0o600); err != nil {
			return nil, err
		}
		_, err := n.In(director).Run("nft", "-f", path)
		return nil, err
	}
}

// startIPVS returns a function that has the kernel's IPVS forward by options of
// ipvsadm's, "-t" or "-u" and such as "-m", to that port of the server.
func startIPVS(at placement, protocol, method string, port uint16) startFunc {
	return func(_ context.Context, n *testnet.Network, c *Config, _ string) (*process, error) {
		if err := at.prepare(n, c); err != nil {
			return nil, err
		}
		d := n.In(director)
		if err := d.AddVIP(vip); err != nil {
			return nil, err
		}
		service := fmt.Sprintf("%s:%d", vip, vport)
		if _, err := d.Run("ipvsadm", "-A", protocol, service, "-s", "rr"); err != nil {
			return nil, err
		}
		args := append([]string{"-a", protocol, service, "-r", fmt.Sprintf("%s:%d", serverAddr, port)}, strings.Fields(method)...)
		_, err := d.Run("ipvsadm", args...)
		return nil, err
	}
}

// needs returns a function that says which of the programs are missing.
func needs(programs ...string) func(*Config) error {
	return func(*Config) error {
		var errs []error
		for _, p := range programs {
			if _, err := exec.LookPath(p); err != nil {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	}
}

// needsIPVS says whether the kernel has IPVS, whose module ipvsadm loads.
func needsIPVS(c *Config) error {
	if err := needs("ethtool", "ipvsadm")(c); err != nil {
		return err
	}
	if out, err := exec.Command("ipvsadm", "-L", "-n").CombinedOutput(); err != nil {
		said, _, _ := strings.Cut(string(out), "\n")
		return fmt.Errorf("the kernel has no IPVS: ipvsadm: %s", said)
	}
	return nil
}
