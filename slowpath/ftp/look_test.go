package ftp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb/conn"
)

// describe is a frame's TCP: numbers, options and text, and BAD for each
// checksum that is wrong.
func describe(frame []byte) string {
	var in packet.Info
	if packet.Parse(frame, &in) != packet.Parsed {
		return "broken: " + packettest.Describe(frame)
	}
	s := frame[in.L4:in.End]
	header := int(s[tcpOffset]>>4) * 4
	text := fmt.Sprintf("seq=%d ack=%d", be.Uint32(s[tcpSeq:]), be.Uint32(s[tcpAck:]))
	if header > packet.TCPLen {
		text += fmt.Sprintf(" options=%x", s[packet.TCPLen:header])
	}
	if header < len(s) {
		text += fmt.Sprintf(" %q", s[header:])
	}
	if strings.Contains(packettest.Describe(frame), "BAD") {
		text += " BAD"
	}
	return text
}

// sack is TCP options with a selective acknowledgement of these edges.
func sack(edges ...uint32) []byte {
	b := []byte{1, 1, optionSACK, byte(2 + 4*len(edges))}
	for _, e := range edges {
		b = be.AppendUint32(b, e)
	}
	return b
}

// step is a packet on the command connection, and what becomes of it.
type step struct {
	stake string
	p     packettest.Packet
	reply bool
	want  string
}

func (r *rig) steps(h *Helper, id conn.ID, steps ...step) {
	r.t.Helper()
	for _, s := range steps {
		if got := r.look(h, id, s.p, s.reply); got != s.want {
			r.t.Errorf("%s:\n%s, want\n%s", s.stake, got, s.want)
		}
	}
}

// An answer gets the service's address, and what follows other numbers, in both
// directions; the rows are those of the kernel (internal/oracle, ftp-sequence),
// but for an answer that is sent again.
func TestShift(t *testing.T) {
	r := newRig(t, 1)
	h := r.helpers[0]
	id := r.connect(h, clientPort, false)
	const (
		first  = "227 Entering Passive Mode (10,0,2,11,200,10).\r\n"
		second = "227 Entering Passive Mode (10,0,2,11,200,11).\r\n"
	)
	r.steps(
		h, id,
		step{"asked", says("PASV\r\n"), false, `seq=101 ack=501 "PASV\r\n"`},
		step{"answered, one byte longer", replies(first).Seq(501, 107), true, `seq=501 ack=107 "227 Entering Passive Mode (10,0,1,100,200,10).\r\n"`},
		step{"the answer is acknowledged", says("").Seq(107, 549), false, "seq=107 ack=548"},
		step{"it is not", says("").Seq(107, 501), false, "seq=107 ack=501"},
		step{"a part of it", says("").Seq(107, 502), false, "seq=107 ack=501"},
		step{"sent again, nobody having asked again", replies(first).Seq(501, 107), true, `seq=501 ack=107 "227 Entering Passive Mode (10,0,1,100,200,10).\r\n"`},
		step{"sent again with more", replies(first+"150 a\r\n").Seq(501, 107), true, `seq=501 ack=107 "227 Entering Passive Mode (10,0,1,100,200,10).\r\n150 a\r\n"`},
		step{"a part of it again", replies("227 Entering").Seq(501, 107), true, `seq=501 ack=107 "227 Entering"`},
		step{"what follows", replies("150 a\r\n").Seq(548, 107), true, `seq=549 ack=107 "150 a\r\n"`},
		step{"SACK", says("").Seq(107, 501).TCPOptions(sack(549, 556)...), false, fmt.Sprintf("seq=107 ack=501 options=%x", sack(548, 555))},
		step{"SACK of two", says("").Seq(107, 501).TCPOptions(sack(501, 549, 549, 556)...), false, fmt.Sprintf("seq=107 ack=501 options=%x", sack(501, 548, 548, 555))},
		step{
			"options before SACK", says("").Seq(107, 501).TCPOptions(append([]byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}, sack(549, 556)...)...), false,
			fmt.Sprintf("seq=107 ack=501 options=%x", append([]byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}, sack(548, 555)...)),
		},
		step{
			"nothing behind the end of options", says("").Seq(107, 556).TCPOptions(append([]byte{1, 1, 1, 0}, sack(549, 556)...)...), false,
			fmt.Sprintf("seq=107 ack=555 options=%x", append([]byte{1, 1, 1, 0}, sack(549, 556)...)),
		},
		step{"an option longer than all", says("").Seq(107, 556).TCPOptions(1, 2, 4, 0), false, "refused"},
		step{"an option of no length", says("").Seq(107, 556).TCPOptions(1, 1, 2, 0), false, "refused"},
		step{"half an option", says("").Seq(107, 556).TCPOptions(1, 1, 1, 5), false, "refused"},
		step{"half a SACK block", says("").Seq(107, 556).TCPOptions(1, 1, 5, 6, 0, 0, 2, 37), false, "seq=107 ack=555 options=0101050600000225"},
		step{"asked again", says("PASV\r\n").Seq(107, 556), false, `seq=107 ack=555 "PASV\r\n"`},
		step{"the first answer once more", replies(first).Seq(501, 107), true, `seq=501 ack=107 "227 Entering Passive Mode (10,0,1,100,200,10).\r\n"`},
		step{"answered again", replies(second).Seq(555, 113), true, `seq=556 ack=113 "227 Entering Passive Mode (10,0,1,100,200,11).\r\n"`},
		step{"the second is not acknowledged", says("").Seq(113, 556), false, "seq=113 ack=555"},
		step{"it is", says("").Seq(113, 604), false, "seq=113 ack=602"},
		step{"behind both", replies("150 b\r\n").Seq(602, 113), true, `seq=604 ack=113 "150 b\r\n"`},
		step{"between them, again", replies("150 a\r\n").Seq(548, 113), true, `seq=549 ack=113 "150 a\r\n"`},
		step{"no acknowledgement", says("").TCP(clientPort, 21, packettest.SYN).Seq(7, 604), false, "seq=7 ack=604"},
		step{"the server's numbers have no SACK that is shifted", replies("").Seq(609, 113).TCPOptions(1, 2, 4, 0), true, "seq=611 ack=113 options=01020400"},
	)
	if got := r.node.Counters(); got.Rewritten != 5 || got.Announced != 2 || got.Sessions != 1 || got.Refused[Malformed] != 3 {
		t.Errorf("counters %+v, want 5 rewritten, 2 announced, 1 session, 3 malformed", got)
	}
}

// Both families, each way of announcing; lengths that grow, shrink and stay.
func TestAnnouncements(t *testing.T) {
	r := newRig(t, 1)
	h := r.helpers[0]
	id, id6 := r.connect(h, clientPort, false), r.connect(h, clientPort, true)
	r.steps(
		h, id,
		step{"PORT stays as it is", says("PORT 10,0,1,10,4,1\r\n"), false, `seq=101 ack=501 "PORT 10,0,1,10,4,1\r\n"`},
		step{"EPRT too", says("EPRT |1|10.0.1.10|1026|\r\n"), false, `seq=101 ack=501 "EPRT |1|10.0.1.10|1026|\r\n"`},
		step{"EPSV", says("EPSV\r\n"), false, `seq=101 ack=501 "EPSV\r\n"`},
		step{"its answer loses the address", replies("229 (|1|10.0.2.11|5000|)\r\n"), true, `seq=501 ack=101 "229 (|||5000|)\r\n"`},
		step{"behind it", replies("150 x\r\n").Seq(527, 101), true, `seq=517 ack=101 "150 x\r\n"`},
	)
	r.steps(
		h, id6,
		step{"EPRT in IPv6", says6("EPRT |2|fd00:1::10|1027|\r\n"), false, `seq=101 ack=501 "EPRT |2|fd00:1::10|1027|\r\n"`},
		step{"EPSV in IPv6", says6("EPSV 2\r\n"), false, `seq=101 ack=501 "EPSV 2\r\n"`},
		step{"without address", replies6("229 (|||5001|)\r\n"), true, `seq=501 ack=101 "229 (|||5001|)\r\n"`},
		step{"nothing is shifted", replies6("150 x\r\n").Seq(517, 101), true, `seq=517 ack=101 "150 x\r\n"`},
		step{"EPSV once more", says6("EPSV\r\n"), false, `seq=101 ack=501 "EPSV\r\n"`},
		step{"with address", replies6("229 (|2|fd00:2::11|5002|)\r\n").Seq(524, 101), true, `seq=524 ack=101 "229 (|||5002|)\r\n"`},
		step{"behind that", says6("").Seq(101, 540), false, "seq=101 ack=551"},
	)
	r.want("announced", r.expected(),
		"10.0.1.10:0 10.0.1.100:5000 10.0.2.11:5000 LISTEN 2m0s", "10.0.1.10:1025 10.0.1.100:20 10.0.2.11:20 LISTEN 2m0s",
		"10.0.1.10:1026 10.0.1.100:20 10.0.2.11:20 LISTEN 2m0s", "fd00:1::10:0 fd00:1::100:5001 fd00:2::11:5001 LISTEN 2m0s",
		"fd00:1::10:0 fd00:1::100:5002 fd00:2::11:5002 LISTEN 2m0s", "fd00:1::10:1027 fd00:1::100:20 fd00:2::11:20 LISTEN 2m0s")
}

// What is not looked at, and what is refused.
func TestRefusals(t *testing.T) {
	r := newRig(t, 1)
	h := r.helpers[0]
	id := r.connect(h, clientPort, false)
	r.steps(
		h, id,
		step{"a client's wrong checksum", says("PORT 10,0,1,10,4,1\r\n").BadChecksum(), false, "refused"},
		step{"a server's", replies("200 ok\r\n").BadChecksum(), true, "refused"},
		step{"no text", says(""), false, "seq=101 ack=501"},
		step{"a server's answer to nobody", replies("227 (10,0,2,11,200,10)\r\n"), true, `seq=501 ack=101 "227 (10,0,2,11,200,10)\r\n"`},
	)
	h.conns.At(id).State = conn.TCPFinWait
	r.steps(
		h, id,
		step{"not ESTABLISHED any more", says("PORT 10,0,1,10,4,1\r\n"), false, `seq=101 ack=501 "PORT 10,0,1,10,4,1\r\n"`},
		step{"nor asked", says("PASV\r\n"), false, `seq=101 ack=501 "PASV\r\n"`},
		step{"nor answered", replies("227 (10,0,2,11,200,10)\r\n"), true, `seq=501 ack=101 "227 (10,0,2,11,200,10)\r\n"`},
	)
	h.conns.At(id).State = conn.TCPEstablished
	r.steps(h, id, step{"asked", says("PASV\r\n"), false, `seq=101 ack=501 "PASV\r\n"`})
	f, in := r.parse(replies("227 (10,0,2,11,200,10)\r\n").Bytes(), 0)
	if h.Look(&f, &in, id, true, r.snap(), r.now) {
		t.Error("an answer grew in a frame without room")
	}
	f, in = r.parse(replies("227 (10,0,2,11,200,10)\r\n").Bytes(), 1)
	if !h.Look(&f, &in, id, true, r.snap(), r.now) || describe(f.Chunk[f.Off:]) != `seq=501 ack=101 "227 (10,0,1,100,200,10)\r\n"` {
		t.Errorf("sent again, with room for one byte: %s", describe(f.Chunk[f.Off:]))
	}
	if got := r.node.Counters(); got.Announced != 1 || got.Refused != [Refusals]uint64{BadChecksum: 2, NoRoom: 1} {
		t.Errorf("counters %+v, want 1 announced, 2 checksums and 1 room refused", got)
	}
	header := says("").Bytes()
	header[14+20+tcpOffset] = 4 << 4 // less than a header; the checksum is made right
	segment := header[14+20:]
	segment[tcpChecksum], segment[tcpChecksum+1] = 0, 0
	f, in = r.parse(header, 0)
	resum(segmentOf(&f, &in), &in)
	if !h.Look(&f, &in, id, false, r.snap(), r.now) {
		t.Error("a header that makes no sense is for the ends to judge")
	}
}

// The budget lets so many packets pass at once, and so many each second.
func TestBudget(t *testing.T) {
	r := newRig(t, 1)
	r.node.Rate, r.node.Burst = 100, 3
	h := r.helpers[0]
	h.tokens = 100 * r.node.Burst
	id := r.connect(h, clientPort, false)
	passed := func() (n int) {
		for r.look(h, id, says(""), false) != "refused" {
			n++
		}
		return n
	}
	if n := passed(); n != 3 {
		t.Errorf("%d packets passed at once, want 3", n)
	}
	r.now += 2 // ticks: two hundredths of a second
	if n := passed(); n != 2 {
		t.Errorf("%d packets passed after 20 ms, want 2", n)
	}
	r.now += 1000
	if n := passed(); n != 3 {
		t.Errorf("%d packets passed after 10 s, want no more than 3", n)
	}
}

// Packets of a command connection cost no allocation, whatever they say.
func TestNoAllocations(t *testing.T) {
	r := newRig(t, 1)
	h := r.helpers[0]
	id, id6 := r.connect(h, clientPort, false), r.connect(h, clientPort, true)
	frames := [][]byte{
		says("PASV\r\n").Bytes(), replies("227 (10,0,2,11,200,10)\r\n").Bytes(), says("").Seq(101, 540).TCPOptions(sack(549, 556)...).Bytes(),
		says("PORT 10,0,1,10,4,1\r\n").Bytes(), says6("EPRT |2|fd00:1::10|1027|\r\n").Bytes(), says6("EPRT |2|fd00::1::10|1027|\r\n").Bytes(),
		says6("EPSV\r\n").Bytes(), replies6("229 (|2|fd00:2::11|5002|)\r\n").Bytes(),
	}
	of := []conn.ID{id, id, id, id, id6, id6, id6, id6}
	n := testing.AllocsPerRun(100, func() {
		for i, frame := range frames {
			f, in := r.parse(frame, 100)
			if !h.Look(&f, &in, of[i], i == 1 || i == 7, r.snap(), r.now) {
				t.Fatal("refused")
			}
		}
	})
	if n != 0 {
		t.Errorf("%v allocations for %d packets, want 0", n, len(frames))
	}
}

// FuzzLook sends what it likes over a command connection: no byte beyond the
// frame is touched, checksums stay right, lengths agree.
func FuzzLook(f *testing.F) {
	for _, row := range commands {
		f.Add([]byte(row.text), []byte("227 (10,0,2,11,200,10)\r\n"), sack(501, 540), uint32(530))
	}
	for _, row := range answers {
		f.Add([]byte("PASV\r\n"), []byte(row.text), []byte{1, 2, 4, 0}, uint32(1<<32-1))
		f.Add([]byte("EPSV\r\n"), []byte(row.text), []byte(nil), uint32(500))
	}
	f.Fuzz(func(t *testing.T, command, answer, options []byte, ack uint32) {
		r := newRig(t, 1)
		h := r.helpers[0]
		id := r.connect(h, clientPort, false)
		options = options[:min(len(options), 40)&^3]
		const longest = 1400
		command, answer = command[:min(len(command), longest)], answer[:min(len(answer), longest)]
		for _, s := range []struct {
			p     packettest.Packet
			reply bool
		}{{says(string(command)), false}, {replies(string(answer)), true}, {says("").Seq(1, ack).TCPOptions(options...), false}, {replies(string(answer)), true}} {
			frame := s.p.Bytes()
			f, in := r.parse(frame, 16)
			edge := f.Chunk[len(f.Chunk):cap(f.Chunk)]
			for i := range edge {
				edge[i] = 0xa5
			}
			if !h.Look(&f, &in, id, s.reply, r.snap(), r.now) {
				continue
			}
			for i := range edge {
				if edge[i] != 0xa5 {
					t.Fatalf("a byte behind the chunk was written for %q", frame)
				}
			}
			if got := describe(f.Chunk[f.Off:][:in.End]); strings.Contains(got, "BAD") || strings.HasPrefix(got, "broken") {
				t.Fatalf("%q becomes %s", frame, got)
			}
		}
	})
}
