package e2e

import (
	"fmt"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// MAC addresses where frames are built by hand.
const (
	directorMAC0 = "02:00:00:00:00:01" // eth0
	directorMAC1 = "02:00:00:00:01:01" // eth1
)

// routed is a client, a director that also routes, and servers behind it:
//
//	client 10.0.1.10 ── 10.0.1.1 director 10.0.2.1 ── 10.0.2.11, .12 … server1, server2 …
//
// In IPv6 the same with fd00:1:: and fd00:2::. Everybody's way to everywhere
// leads by the director.
func routed(servers int) testnet.Plan {
	p := testnet.Plan{
		Links: []testnet.Link{{
			A: testnet.End{In: "client", Name: "eth0", Addrs: []string{"10.0.1.10/24", "fd00:1::10/64"}},
			B: testnet.End{In: "director", Name: "eth0", MAC: directorMAC0, Addrs: []string{"10.0.1.1/24", "fd00:1::1/64"}},
		}},
		Switches: []testnet.Switch{{Name: "switch", Ends: []testnet.End{
			{In: "director", Name: "eth1", MAC: directorMAC1, Addrs: []string{"10.0.2.1/24", "fd00:2::1/64"}},
		}}},
		Routes: []testnet.Route{
			{In: "client", To: "default", Via: "10.0.1.1"},
			{In: "client", To: "default", Via: "fd00:1::1"},
		},
		Sysctls: []testnet.Sysctl{
			{In: "director", Key: "net.ipv4.ip_forward", Value: "1"},
			{In: "director", Key: "net.ipv6.conf.all.forwarding", Value: "1"},
		},
	}
	for i := range servers {
		name := server(i)
		p.Switches[0].Ends = append(p.Switches[0].Ends, testnet.End{
			In: name, Name: "eth0", Addrs: []string{server4(i) + "/24", server6(i) + "/64"},
		})
		p.Routes = append(p.Routes, testnet.Route{In: name, To: "default", Via: "10.0.2.1"}, testnet.Route{In: name, To: "default", Via: "fd00:2::1"})
	}
	return p
}

// server is the name of a server, counted from 0, server4 and server6 are its
// addresses.
func server(i int) string  { return fmt.Sprintf("server%d", i+1) }
func server4(i int) string { return fmt.Sprintf("10.0.2.%d", 11+i) }
func server6(i int) string { return fmt.Sprintf("fd00:2::%d", 11+i) }
