package slowpath

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/csum"
	"github.com/sluice-lb/sluice/fastpath/packet"
)

// FuzzAnswers gives the slow path any frame for any answer. What it then sends is
// a whole ICMP message with right checksums, to the frame's source and of what that
// sent; and it sends nothing that the RFCs forbid, by a plain reading of the frame.
func FuzzAnswers(f *testing.F) {
	var s *stage // its memory is large: it serves all frames
	f.Fuzz(func(t *testing.T, frame []byte, kind uint8, right bool) {
		if right {
			heal(frame)
		}
		kinds := []Kind{TimeExceeded, TooBig, PortUnreachable, HostUnreachable, Echo}
		m := Meta{Kind: kinds[int(kind)%len(kinds)], MTU: 1400}
		if s == nil {
			s = set(t, Limits{HoldFrames: 4})
		}
		s.frames, s.sent, s.outs = nil, nil, nil
		before := s.Counters().Packets[m.Kind]
		s.Handle(&m, bytes.Clone(frame))
		now := s.Counters().Packets[m.Kind]
		if now[Answered]+now[Unanswered] != before[Answered]+before[Unanswered]+1 {
			t.Fatalf("%v: %s, want one end of it", m.Kind, s.ends())
		}
		if len(s.frames) == 1 { // a long echo reply is in fragments
			checkMessage(t, m.Kind, frame, s.frames[0])
		}
	})
}

// heal gives a frame of IPv4 without tags right checksums, so that mutations get past
// them.
func heal(frame []byte) {
	if len(frame) < 14+20 || int(frame[14]&15) < 5 || len(frame) < 14+int(frame[14]&15)*4 {
		return
	}
	ip := frame[14:]
	h := int(ip[0]&15) * 4
	packet.IPv4(ip).SetChecksum(0)
	packet.IPv4(ip).SetChecksum(csum.Fold(csum.Sum(ip[:h], 0)))
	if end := int(binary.BigEndian.Uint16(ip[2:])); ip[9] == 1 && h+8 <= end && end <= len(ip) {
		packet.ICMPHeader(ip[h:]).SetChecksum(0)
		packet.ICMPHeader(ip[h:]).SetChecksum(csum.Fold(csum.Sum(ip[h:end], 0)))
	}
}

// checkMessage holds a message against the frame that it answers.
func checkMessage(t *testing.T, kind Kind, frame, sent []byte) {
	t.Helper()
	at := 12
	for frame[at] == 0x81 || frame[at] == 0x88 {
		at += 4
	}
	ip, got := frame[at+2:], sent[14:]
	v6 := ip[0]>>4 == 6
	if frame[0]&1 != 0 || forbidden(ip, v6) {
		t.Fatalf("%v: answers %x, which nobody may", kind, frame)
	}
	var in packet.Info
	r := packet.Parse(sent, &in)
	if r == packet.BadAddress && kind == Echo {
		return // it was sent to an address that no service may have
	}
	if r != packet.ICMP && r != packet.ICMPError || int(in.End) != len(sent) {
		t.Fatalf("%v: %x is sent, which is %v", kind, sent, r)
	}
	header, longest, to, from := 20, 576, ip[12:16], got[16:20]
	sum := uint32(0)
	if v6 {
		header, longest, to, from = 40, 1280, ip[8:24], got[24:40]
		sum = uint32(len(got)-header) + 58
		for i := 8; i < 40; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(got[i:]))
		}
	}
	if !bytes.Equal(to, from) {
		t.Fatalf("%v: goes to %x, want %x", kind, from, to)
	}
	message := append(bytes.Clone(got[header:]), 0)
	for i := 0; i+1 < len(message); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(message[i:]))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	if sum != 0xffff {
		t.Fatalf("%v: %x has a wrong checksum", kind, sent)
	}
	body := got[header+8:]
	if kind == Echo {
		if !bytes.Contains(ip, body) {
			t.Fatalf("echoes %x of %x", body, ip)
		}
	} else if len(got) > longest || !bytes.HasPrefix(ip, body) {
		t.Fatalf("%v: quotes %x of %x in %d bytes", kind, body, ip, len(got))
	}
}

// forbidden is what may not be answered, without extension headers: RFC 1812
// section 4.3.2.7, RFC 4443 section 2.4 (e).
func forbidden(ip []byte, v6 bool) bool {
	if v6 {
		group := ip[24] == 0xff || ip[8] == 0xff || bytes.Equal(ip[8:24], make([]byte, 16))
		return group || ip[6] == 58 && (ip[40] < 128 || ip[40] == 137)
	}
	later := binary.BigEndian.Uint16(ip[6:])&0x1fff != 0
	group := ip[16]>>4 == 14 || ip[12]>>4 == 14 || ip[12] == 0 || ip[16] == 0 && ip[17]|ip[18]|ip[19] == 0 || ip[12] == 127
	if h := int(ip[0]&15) * 4; ip[9] == 1 && !later && len(ip) > h {
		switch ip[h] {
		case 3, 4, 5, 11, 12:
			return true
		}
	}
	return later || group
}
