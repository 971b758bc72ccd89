package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// The three scenarios of the kernel's own test of IPVS
// (tools/testing/selftests/net/netfilter/ipvs.sh): one server by DR, by NAT
// and by TUN gets 32 random bytes from socat. The client's bridge leads to
// the director and to the server, which is behind the director too:
//
//	        ┌ bridge ─ 10.0.1.1 director 10.0.2.1 ──┐
//	client ─┤                                       ├ server 10.0.2.2
//	        └ bridge ───────────────────── 10.0.1.2 ┘
func TestKernelSelftest(t *testing.T) {
	if _, err := exec.LookPath("socat"); err != nil {
		t.Skipf("needs socat: %v", err)
	}
	const vip = "198.51.100.10"
	for _, row := range []struct {
		forward string
		server  []testnet.VIP   // what the method wants on the server
		back    []testnet.Route // and how its replies go
	}{
		{"dr", []testnet.VIP{{In: "server", Addr: vip}}, nil},
		{"nat", nil, []testnet.Route{{In: "server", To: "10.0.1.10/32", Via: "10.0.2.1"}}},
		{"tun", []testnet.VIP{{In: "server", Addr: vip}}, nil},
	} {
		t.Run(row.forward, func(t *testing.T) {
			n := testnet.New(t, testnet.Plan{
				Switches: []testnet.Switch{{Name: "bridge", Ends: []testnet.End{
					{In: "client", Name: "eth0", Addrs: []string{"10.0.1.10/24"}},
					{In: "director", Name: "eth0", Addrs: []string{"10.0.1.1/24"}},
					{In: "server", Name: "eth0", Addrs: []string{"10.0.1.2/24"}},
				}}},
				Links: []testnet.Link{{
					A: testnet.End{In: "director", Name: "eth1", Addrs: []string{"10.0.2.1/24"}},
					B: testnet.End{In: "server", Name: "eth1", Addrs: []string{"10.0.2.2/24"}},
				}},
				VIPs:   row.server,
				Routes: append(row.back, testnet.Route{In: "client", To: vip + "/32", Via: "10.0.1.1"}),
			})
			if row.forward == "tun" {
				if _, err := n.Decapsulate("server"); err != nil {
					t.Fatal(err)
				}
			}
			d := start(t, n, fmt.Sprintf(`
services:
  - {protocol: tcp, address: %s, port: 8080, scheduler: rr, forward: %s, servers: [{address: 10.0.2.2}]}
`, vip, row.forward))
			sent, file := make([]byte, 32), filepath.Join(t.TempDir(), "sent")
			_, _ = rand.Read(sent) // it never fails
			if err := os.WriteFile(file, sent, 0o600); err != nil {
				t.Fatal(err)
			}
			var received, said bytes.Buffer
			server := exec.Command("socat", "-u", "-T10", "TCP4-LISTEN:8080,accept-timeout=10", "STDOUT")
			server.Stdout, server.Stderr = &received, &said
			if err := n.In("server").Start(server); err != nil {
				t.Fatal(err)
			}
			if _, err := n.In("client").Run("socat", "-u", "OPEN:"+file, "TCP4:"+vip+":8080,retry=100,interval=0.05,connect-timeout=5"); err != nil {
				t.Error(err)
			}
			if err := server.Wait(); err != nil {
				t.Errorf("server: %v: %s", err, said.String())
			}
			if !bytes.Equal(received.Bytes(), sent) {
				t.Errorf("the server got %x, want %x", received.Bytes(), sent)
			}
			if s := d.services()[0]; s.Stats.InPackets < 4 || s.Servers[0].Forward != row.forward {
				t.Errorf("counted %+v by %s, want a connection by %s", s.Stats, s.Servers[0].Forward, row.forward)
			}
		})
	}
}
