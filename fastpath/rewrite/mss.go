package rewrite

import (
	"math/bits"

	"github.com/sluice-lb/sluice/fastpath/csum"
	"github.com/sluice-lb/sluice/fastpath/packet"
)

// Kinds of TCP options (RFC 9293 section 3.1).
const (
	optionEnd = 0
	optionNop = 1
	optionMSS = 2
)

// ClampMSS lowers the maximum segment size that a TCP SYN or SYN+ACK offers to
// most, in bytes of payload. It never raises it, and adds none: without the
// option a sender takes 536, of IPv6 1220 (RFC 9293 section 3.7.1). Options that
// contradict themselves end the search, 40 bytes at the most.
func ClampMSS(f *Frame, in *packet.Info, most uint16) {
	segment := f.Chunk[f.Off+uint32(in.L4) : f.Off+in.End]
	options := segment[packet.TCPLen:max(packet.TCPLen, min(len(segment), int(segment[12]>>4)*4))]
	for at := 0; at+4 <= len(options) && options[at] != optionEnd; {
		n := int(options[at+1])
		switch {
		case options[at] == optionNop:
			n = 1
		case options[at] == optionMSS && n == 4:
			was, now := be.Uint16(options[at+2:]), most
			if was <= most {
				return
			}
			be.PutUint16(options[at+2:], most)
			if at%2 == 1 { // the sum takes its bytes in the other order
				was, now = bits.ReverseBytes16(was), bits.ReverseBytes16(now)
			}
			sum := segment[tcpChecksum:][:2]
			be.PutUint16(sum, csum.Apply(be.Uint16(sum), csum.Change16(was, now)))
			return
		case n < 2:
			return
		}
		at += n
	}
}
