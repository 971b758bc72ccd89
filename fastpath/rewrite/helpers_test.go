package rewrite

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb/flow"
)

const (
	routerMAC = "02:00:00:00:01:fe"
	ourMAC    = "02:00:00:00:00:01"
	cip, vip  = "10.0.1.10", "10.0.1.100"
	rip, dip  = "10.0.2.11", "10.0.2.1"
	cip6      = "fd00:1::10"
	vip6      = "fd00:1::100"
	rip6      = "fd00:2::11"
	dip6      = "fd00:2::1"
	headroom  = 256
)

// fromClient begins a request, fromServer a reply; 4 and 6.
var (
	fromClient  = packettest.Eth(ourMAC, routerMAC).IP4(cip, vip)
	fromServer  = packettest.Eth(ourMAC, routerMAC).IP4(rip, cip)
	fromClient6 = packettest.Eth(ourMAC, routerMAC).IP6(cip6, vip6)
	fromServer6 = packettest.Eth(ourMAC, routerMAC).IP6(rip6, cip6)
)

func addr(s string) *flow.Addr {
	a := flow.FromNetip(netip.MustParseAddr(s))
	return &a
}

// place returns a copy of a frame in a chunk with headroom, as rings deliver
// it.
func place(frame []byte, room int) *Frame {
	chunk := make([]byte, room+len(frame)+64)
	copy(chunk[room:], frame)
	return &Frame{Chunk: chunk, Off: uint32(room), Len: uint32(len(frame))}
}

// content is the packet in f.
func content(f *Frame) []byte { return f.Chunk[f.Off : f.Off+f.Len] }

// parsed parses a frame that has to be one for rewriting.
func parsed(t *testing.T, frame []byte) *packet.Info {
	t.Helper()
	in := new(packet.Info)
	if r := packet.Parse(frame, in); r != packet.Parsed && r != packet.ICMPError {
		t.Fatalf("%s: Parse says %v", packettest.Describe(frame), r)
	}
	return in
}

// quotedIn reads the datagram that the ICMP error of frame quotes.
func quotedIn(t *testing.T, frame []byte, in *packet.Info) *packet.Info {
	t.Helper()
	q := new(packet.Info)
	if r := packet.ParseQuoted(frame, int(in.L4)+packet.ICMPLen, int(in.End), q); r != packet.Parsed {
		t.Fatalf("%s: ParseQuoted says %v", packettest.Describe(frame), r)
	}
	return q
}

// diff says how two frames differ; "" if they do not.
func diff(got, want []byte) string {
	if bytes.Equal(got, want) {
		return ""
	}
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	return fmt.Sprintf("from byte %d\n got %s\n     %s\nwant %s\n     %s", at,
		packettest.Describe(got), hex.EncodeToString(got), packettest.Describe(want), hex.EncodeToString(want))
}
