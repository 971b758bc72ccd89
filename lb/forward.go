package lb

import (
	"fmt"
	"strings"
)

// Forward is how packets travel to a real server, in the kernel's numbers
// (IP_VS_CONN_F_FWD_MASK, K-DST-4).
type Forward uint8

// Forwarding methods. An operator sets NAT, TUN or DR.
const (
	NAT    Forward = iota // masquerading: addresses are translated both ways
	Local                 // left to the host's own stack
	TUN                   // tunneling: in an outer header
	DR                    // direct routing: only the next hop changes
	Bypass                // to the original destination, past the service
)

var forwardNames = [...][2]string{
	{"nat", "Masq"},
	{"local", "Local"},
	{"tun", "Tunnel"},
	{"dr", "Route"},
	{"bypass", "Bypass"},
}

func (f Forward) name(column int) string {
	if int(f) < len(forwardNames) {
		return forwardNames[f][column]
	}
	return fmt.Sprintf("forward-%d", uint8(f))
}

// String returns the method as the configuration names it.
func (f Forward) String() string { return f.name(0) }

// KernelName returns the method as ipvsadm lists it.
func (f Forward) KernelName() string { return f.name(1) }

// TunnelType is what a TUN server's packets are wrapped in.
type TunnelType uint8

// Tunnel types in the kernel's numbers (K-FWD-TUN-FLAGS).
const (
	IPIP TunnelType = iota
	GUE
	GRE
)

// String returns "ipip", "gue" or "gre".
func (t TunnelType) String() string { return [...]string{"ipip", "gue", "gre"}[t%3] }

// TunnelChecksum is which checksum the outer header carries.
type TunnelChecksum uint8

// Tunnel checksums in the kernel's numbers (K-FWD-TUN-FLAGS).
const (
	ChecksumNone   TunnelChecksum = iota
	Checksum                      // of GUE's UDP or of GRE
	ChecksumRemote                // remote checksum offload of GUE
)

// String returns "none", "csum" or "remcsum".
func (c TunnelChecksum) String() string { return [...]string{"none", "csum", "remcsum"}[c%3] }

// Tunnel describes the outer header of a TUN server.
type Tunnel struct {
	Type     TunnelType
	Port     uint16 // UDP destination port of GUE
	Checksum TunnelChecksum
}

// Protocols of outer headers.
const (
	protoIPv4 = 4
	protoIPv6 = 41
	protoGRE  = 47
)

// proto is the protocol of a tunnel's outer header.
func (t *Tunnel) proto() uint8 {
	return [...]uint8{IPIP: protoIPv4, GUE: ProtoUDP, GRE: protoGRE}[t.Type%3]
}

// String returns the tunnel as ipvsadm --tun-info lists it: "ipip",
// "gue:6080:+c", "gue:6080:r+c", "gre:+c".
func (t Tunnel) String() string {
	parts := []string{t.Type.String()}
	if t.Type == GUE {
		parts = append(parts, fmt.Sprint(t.Port))
	}
	switch t.Checksum {
	case Checksum:
		parts = append(parts, "+c")
	case ChecksumRemote:
		parts = append(parts, "r+c")
	}
	return strings.Join(parts, ":")
}
