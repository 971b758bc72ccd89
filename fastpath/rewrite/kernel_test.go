package rewrite

import (
	"bufio"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/flow"
)

// exchange is one entry of testdata/kernel.txt.
type exchange struct {
	name    string
	what    []string
	in, out []byte
}

func kernelExchanges(t *testing.T) []exchange {
	t.Helper()
	file, err := os.Open("testdata/kernel.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var all []exchange
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		switch b, err := hex.DecodeString(line[2:]); {
		case line[:2] == "< " && err == nil:
			all[len(all)-1].in = b
		case line[:2] == "> " && err == nil:
			all[len(all)-1].out = b
		default:
			words := strings.Fields(line)
			all = append(all, exchange{name: words[0], what: words[1:]})
		}
	}
	return all
}

// TestKernel asks that each frame leaves byte for byte as from the kernel's
// IPVS (K-FWD-*, K-PROTO-*, K-ICMP-*). What the kernel draws at random is taken
// from its answer: the ident of datagrams without DF, the source ports of GUE,
// and IPv6 flow labels of its own errors.
func TestKernel(t *testing.T) {
	all := kernelExchanges(t)
	if len(all) < 100 {
		t.Fatalf("testdata/kernel.txt has %d exchanges, want 100 at least", len(all))
	}
	for _, x := range all {
		t.Run(x.name+" "+x.what[0], func(t *testing.T) {
			f := place(x.in, headroom)
			in := parsed(t, x.in)
			what := strings.Split(x.what[0], "-")
			if what[0] == "error" {
				got := kernelError(t, x, f, in)
				if d := diff(got, x.out); d != "" {
					t.Error(d)
				}
				return
			}
			kernelRewrite(t, x, f, in)
			hop := &nexthop.Hop{DstMAC: [6]byte(x.out), SrcMAC: [6]byte(x.out[6:])}
			if !Link(f, in, hop) {
				t.Fatal("Link finds no headroom")
			}
			if d := diff(content(f), x.out); d != "" {
				t.Error(d)
			}
		})
	}
}

func kernelRewrite(t *testing.T, x exchange, f *Frame, in *packet.Info) {
	t.Helper()
	var a, b flow.Addr
	var port uint16
	if len(x.what) == 3 {
		a = *addr(x.what[1])
		if n, err := strconv.ParseUint(x.what[2], 10, 16); err == nil {
			port = uint16(n)
		} else {
			b = flow.FromNetip(netip.MustParseAddr(x.what[2]))
		}
	}
	ok := true
	switch x.what[0] {
	case "forward":
		Forward(f, in)
	case "nat-in":
		NATIn(f, in, &a, port)
	case "nat-out":
		NATOut(f, in, &a, port)
	case "ipip", "ipip-nopmtu", "gue", "gue-csum", "gue-remcsum", "gre", "gre-csum":
		kind := map[string]lb.Tunnel{"gue": gue, "gue-csum": gueSum, "gue-remcsum": gueRem, "gre": gre, "gre-csum": greSum}[x.what[0]]
		id := packet.IPv4(x.out[packet.EthernetLen:]).ID()
		if ok = encap(kind, &b, x.what[0] != "ipip-nopmtu").Wrap(f, in, &a, id); ok && kind.Type == lb.GUE {
			kernelPort(t, x, f, in)
		}
	case "icmp-in":
		ok = ICMPIn(f, in, quotedIn(t, x.in, in), &a, port)
	case "icmp-out":
		ok = ICMPOut(f, in, quotedIn(t, x.in, in), &a, port)
	default:
		t.Fatalf("testdata asks for %q", x.what[0])
	}
	if !ok {
		t.Fatalf("%v refuses the frame", x.what)
	}
}

// kernelPort gives a packet in GUE the source port that the kernel's has, which
// is of its secret as ours is of ours, and the checksum for it.
func kernelPort(t *testing.T, x exchange, f *Frame, in *packet.Info) {
	t.Helper()
	if in.SrcPort < 32768 || in.SrcPort > 60999 {
		t.Errorf("source port %d is outside the kernel's range", in.SrcPort)
	}
	segment := content(f)[in.L4:]
	src, dst := in.Src.Netip().AsSlice(), in.Dst.Netip().AsSlice()
	sum := be.Uint16(segment[6:])
	if sum != 0 && !packettest.ChecksumOK(segment, packet.ProtoUDP, src, dst) {
		t.Error("the UDP checksum is wrong")
	}
	copy(segment, x.out[in.L4:][:2])
	if sum != 0 {
		packettest.PutChecksum(segment, packet.ProtoUDP, src, dst)
	}
}

// kernelError builds the error that x asks for, with the Ethernet header and
// the random parts of the kernel's.
func kernelError(t *testing.T, x exchange, f *Frame, in *packet.Info) []byte {
	t.Helper()
	if x.what[0] == "error-after-ttl" {
		Forward(f, in)
	}
	var n [3]uint64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseUint(x.what[2+i], 10, 32); err != nil {
			t.Fatal(err)
		}
	}
	id := packet.IPv4(x.out[packet.EthernetLen:]).ID()
	got := append([]byte(nil), x.out[:packet.EthernetLen]...)
	got = ICMPError(got, in, content(f), *addr(x.what[1]), uint8(n[0]), uint8(n[1]), uint32(n[2]), id)
	if in.Family == 6 {
		copy(got[packet.EthernetLen+1:][:3], x.out[packet.EthernetLen+1:])
	}
	return got
}
