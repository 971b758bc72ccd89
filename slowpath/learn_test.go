package slowpath

import (
	"fmt"
	"slices"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
)

func (s *stage) Learn(number uint32, in *packet.Info) {
	s.learnt = append(s.learnt, fmt.Sprintf("%d: %d %v:%d > %v:%d, after %d", number, in.Proto, in.Src, in.SrcPort, in.Dst, in.DstPort, len(s.host)))
}

func (s *stage) Forget() bool {
	if !s.stuck {
		s.learnt = append(s.learnt, "forget")
	}
	return !s.stuck
}

func (s *stage) Return(worker, iface int, frame []byte) bool {
	if !s.full {
		s.learnt = append(s.learnt, fmt.Sprintf("%d by %d: %d bytes", worker, iface, len(frame)))
	}
	return !s.full
}

// A flow is learnt when its packet is the host's, and a packet goes back to its
// worker when all is forgotten.
func TestLearner(t *testing.T) {
	frame := packettest.Eth(nicMAC, clientMAC).IP4(server, client).TCP(8080, 5000, packettest.ACK).Bytes()
	for _, row := range []struct {
		stake string
		m     Meta
		frame []byte
		with  func(*stage)
		want  []string
		ends  string
	}{
		{"learnt", Meta{Kind: Host, Learn: 7}, frame, nil, []string{"7: 6 10.0.2.11:8080 > 10.0.1.10:5000, after 1"}, "host passed 1"},
		{"not to be learnt", Meta{Kind: Host}, frame, nil, nil, "host passed 1"},
		{"the host did not get it", Meta{Kind: Host, Learn: 7}, frame, func(s *stage) { s.broken = true }, nil, "host host_refused 1"},
		{"without ports", Meta{Kind: Host, Learn: 7}, frame[:30], nil, nil, "host passed 1"},
		{"forgotten and returned", Meta{Kind: Elsewhere, Worker: 3, Iface: 1}, frame, nil, []string{"forget", "3 by 1: 54 bytes"}, ""},
		{"the worker has no room", Meta{Kind: Elsewhere}, frame, func(s *stage) { s.full = true }, []string{"forget"}, "elsewhere hold_lost 1"},
		{"what still holds must not be gone by", Meta{Kind: Elsewhere}, frame, func(s *stage) { s.stuck = true }, nil, "elsewhere hold_lost 1"},
	} {
		s := set(t, Limits{})
		if row.with != nil {
			row.with(s)
		}
		s.Handle(&row.m, row.frame)
		if !slices.Equal(s.learnt, row.want) || s.ends() != row.ends {
			t.Errorf("%s: %q, %s; want %q, %s", row.stake, s.learnt, s.ends(), row.want, row.ends)
		}
	}
}
