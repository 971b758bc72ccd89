package wire

import "github.com/sluice-lb/sluice/internal/testnet"

// The hosts, their interfaces and addresses. All clients' packets come from
// one host, whose address has a port for each flow.
const (
	client, director, server = "client", "director", "server"

	front = "front" // the director's interface to the client
	back  = "back"  // and to the server
	eth0  = "eth0"  // the others' to it
	eth1  = "eth1"  // and to each other, for answers that go by no director

	clientMAC = "02:00:00:00:01:0a"
	frontMAC  = "02:00:00:00:01:01"
	backMAC   = "02:00:00:00:02:01"
	serverMAC = "02:00:00:00:02:0a"

	clientAddr = "10.0.1.10"
	vip        = "10.0.1.100"
	serverAddr = "10.0.2.10"

	vport = 53
	rport = 5353
)

// plan is client, director and server in a row, and a way around the director.
func plan() testnet.Plan {
	return testnet.Plan{
		Links: []testnet.Link{
			{
				A: testnet.End{In: client, Name: eth0, MAC: clientMAC, Addrs: []string{clientAddr + "/24"}},
				B: testnet.End{In: director, Name: front, MAC: frontMAC, Addrs: []string{"10.0.1.1/24"}},
			},
			{
				A: testnet.End{In: director, Name: back, MAC: backMAC, Addrs: []string{"10.0.2.1/24"}},
				B: testnet.End{In: server, Name: eth0, MAC: serverMAC, Addrs: []string{serverAddr + "/24"}},
			},
			{A: testnet.End{In: client, Name: eth1}, B: testnet.End{In: server, Name: eth1}},
		},
		Neighbors: []testnet.Neighbor{
			{In: director, Dev: front, Addr: clientAddr, MAC: clientMAC},
			{In: director, Dev: back, Addr: serverAddr, MAC: serverMAC},
		},
	}
}
