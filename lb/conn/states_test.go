package conn

import (
	"os"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/lb/flow"
)

var stateCodes = map[string][]string{
	"tcp":        strings.Fields("NO ES SS SR FW TW CL CW LA LI SA"),
	"tcp-secure": strings.Fields("NO ES SS SR FW TW CL CW LA LI SA"),
	"sctp":       strings.Fields("NO I1 IN CS CR CW CO CE ES SS SR SA RJ CL"),
}

var directions = map[string]Direction{"IN": Input, "OUT": Output, "IN-ONLY": InputOnly, "INO": InputOnly}

var events = map[string]uint8{
	"syn": flow.EventSYN, "fin": flow.EventFIN, "ack": flow.EventACK, "rst": flow.EventRST,
	"d": flow.EventData, "i": flow.EventInit, "ia": flow.EventInitAck, "ce": flow.EventCookieEcho, "ca": flow.EventCookieAck,
	"s": flow.EventShutdown, "sa": flow.EventShutdownAck, "sc": flow.EventShutdownComplete, "er": flow.EventError, "ab": flow.EventAbort,
}

// TestTransitions compares every cell with testdata/states.txt.
func TestTransitions(t *testing.T) {
	text, err := os.ReadFile("testdata/states.txt")
	if err != nil {
		t.Fatal(err)
	}
	table, cells := "", map[string]int{}
	for _, line := range strings.Split(string(text), "\n") {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || f[0] == "#":
			continue
		case strings.HasPrefix(line, "["):
			table = strings.Trim(line, "[]")
			continue
		case f[0] == "columns":
			if got, want := strings.Join(f[1:], " "), strings.Join(stateCodes[table], " "); got != want {
				t.Fatalf("%s: columns %s, want the kernel's order %s", table, got, want)
			}
			continue
		}
		d, ev := directions[f[0]], events[f[1]]
		for s, code := range f[2:] {
			cells[table]++
			got := next(table, d, State(s), ev)
			if int(got) >= len(stateCodes[table]) || stateCodes[table][got] != code {
				t.Errorf("%s %s %s in %s: state %d, want %s", table, f[0], f[1], stateCodes[table][s], got, code)
			}
		}
	}
	for table, want := range map[string]int{"tcp": 3 * 4 * 11, "tcp-secure": 3 * 4 * 11, "sctp": 3 * 10 * 14} {
		if cells[table] != want {
			t.Errorf("%s: %d cells compared, want %d", table, cells[table], want)
		}
	}
}

func next(table string, d Direction, s State, ev uint8) State {
	if table == "sctp" {
		return NextSCTP(d, s, ev)
	}
	return NextTCP(table == "tcp-secure", d, s, ev)
}

// TestTransitionsOutside feeds what no packet and no table entry should have:
// it must close the connection, not read past a table.
func TestTransitionsOutside(t *testing.T) {
	for _, d := range []int{0, 1, 2, 3, 4, 128, 255} {
		for s := range 256 {
			for ev := range 256 {
				in := d&3 < 3 && s&15 < 11 && ev&15 < 4
				for _, secure := range []bool{false, true} {
					if got := NextTCP(secure, Direction(d), State(s), uint8(ev)); got > TCPSynAck || !in && got != TCPClose {
						t.Fatalf("NextTCP(%v, %d, %d, %d) = %d", secure, d, s, ev, got)
					}
				}
				in = d&3 < 3 && s&15 < 14 && ev&15 < 10
				if got := NextSCTP(Direction(d), State(s), uint8(ev)); got > SCTPClosed || !in && got != SCTPClosed {
					t.Fatalf("NextSCTP(%d, %d, %d) = %d", d, s, ev, got)
				}
			}
		}
	}
}

// TestSequences walks whole connections as they were seen on Linux 6.1.
func TestSequences(t *testing.T) {
	timeouts := DefaultTimeouts()
	for _, test := range []struct {
		stake, table, packets string // direction:event ...
		states                string // display name/seconds after each packet
	}{
		{
			"NAT, the client closes first", "tcp", "IN:syn OUT:syn IN:ack OUT:ack IN:fin OUT:fin IN:ack",
			"SYN_RECV/60 SYN_RECV/60 ESTABLISHED/900 ESTABLISHED/900 CLOSE_WAIT/60 TIME_WAIT/120 TIME_WAIT/120",
		},
		{
			"NAT, the server closes first", "tcp", "IN:syn OUT:syn IN:ack OUT:fin IN:fin",
			"SYN_RECV/60 SYN_RECV/60 ESTABLISHED/900 FIN_WAIT/120 TIME_WAIT/120",
		},
		{
			"DR and TUN see one direction: FIN_WAIT at the client's FIN", "tcp", "INO:syn INO:ack INO:fin",
			"SYN_RECV/60 ESTABLISHED/900 FIN_WAIT/120",
		},
		{"the client's RST closes", "tcp", "IN:syn OUT:syn IN:ack IN:rst", "SYN_RECV/60 SYN_RECV/60 ESTABLISHED/900 CLOSE/10"},
		{"the server's RST closes", "tcp", "IN:syn OUT:rst", "SYN_RECV/60 CLOSE/10"},
		{"the client's RST in SYN_RECV changes nothing", "tcp", "IN:syn IN:rst", "SYN_RECV/60 SYN_RECV/60"},
		{"sloppy_tcp: an ACK begins an established connection", "tcp", "IN:ack", "ESTABLISHED/900"},
		{"sloppy_tcp: a FIN begins a closed one", "tcp", "IN:fin", "CLOSE/10"},
		{"a SYN in ESTABLISHED stays on the connection", "tcp", "IN:ack IN:syn", "ESTABLISHED/900 ESTABLISHED/900"},
		{"a packet without flags closes", "tcp", "IN:ack IN:none", "ESTABLISHED/900 CLOSE/10"},
		{
			"secure_tcp: SYNACK after the server's SYN+ACK, and the client's ACK leaves it there; the server's establishes",
			"tcp-secure", "IN:syn OUT:syn IN:ack OUT:ack",
			"SYN_RECV/60 SYNACK/120 SYNACK/120 ESTABLISHED/900",
		},
		{
			"SCTP, set up and shut down by the client", "sctp", "IN:i OUT:ia IN:ce OUT:ca IN:s OUT:sa IN:sc",
			"INIT1/4 C-SENT/61 C-REPLIED/61 ESTABLISHED/900 S-RECEIVED/61 S-ACK-SENT/61 CLOSED/61",
		},
		{"SCTP: ABORT closes", "sctp", "IN:i IN:ab", "INIT1/4 CLOSED/61"},
	} {
		t.Run(test.stake, func(t *testing.T) {
			proto := uint8(protoTCP)
			if test.table == "sctp" {
				proto = protoSCTP
			}
			var s State
			var got []string
			for _, packet := range strings.Fields(test.packets) {
				d, ev, _ := strings.Cut(packet, ":")
				event, known := events[ev]
				if !known {
					event = flow.EventNone
				}
				s = next(test.table, directions[d], s, event)
				got = append(got, StateName(proto, false, s)+"/"+timeouts.Of(proto, s).Duration().String())
			}
			want := strings.Fields(test.states)
			for i := range want {
				name, seconds, _ := strings.Cut(want[i], "/")
				want[i] = name + "/" + mustSeconds(t, seconds).String()
			}
			if g, w := strings.Join(got, " "), strings.Join(want, " "); g != w {
				t.Errorf("after %s:\n got %s\nwant %s", test.packets, g, w)
			}
		})
	}
}

func TestStateName(t *testing.T) {
	for _, test := range []struct {
		proto    uint8
		template bool
		names    string
	}{
		{protoTCP, false, "NONE ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT TIME_WAIT CLOSE CLOSE_WAIT LAST_ACK LISTEN SYNACK ERR!"},
		{protoSCTP, false, "NONE INIT1 INIT C-SENT C-REPLIED C-WAIT COOKIE C-ECHOED ESTABLISHED S-SENT S-RECEIVED S-ACK-SENT REJECTED CLOSED ERR!"},
		{protoUDP, false, "UDP ERR!"},
		{protoTCP, true, "NONE ASSURED ERR!"},
		{protoUDP, true, "NONE ASSURED ERR!"},
		{0, true, "NONE ASSURED ERR!"}, // a firewall mark's template
		{0, false, "NONE ERR!"},
	} {
		for s, want := range strings.Fields(test.names) {
			if got := StateName(test.proto, test.template, State(s)); got != want {
				t.Errorf("StateName(%d, %v, %d) = %q, want %q", test.proto, test.template, s, got, want)
			}
		}
	}
	if got := StateName(protoTCP, false, 255); got != "ERR!" {
		t.Errorf("StateName(TCP, 255) = %q, want ERR!", got)
	}
}

// TestActive holds K-CONN-7 for every state of every protocol.
func TestActive(t *testing.T) {
	active := map[uint8]string{
		protoTCP:  " ESTABLISHED SYN_SENT SYN_RECV SYNACK ",
		protoSCTP: " ESTABLISHED ",
		protoUDP:  " ",
		0:         " ",
	}
	for proto, names := range active {
		for s := range State(20) {
			want := strings.Contains(names, " "+StateName(proto, false, s)+" ")
			if got := Active(proto, s); got != want {
				t.Errorf("Active(%d, %s) = %v, want %v", proto, StateName(proto, false, s), got, want)
			}
		}
	}
}

// TestParseRefuses keeps a mistyped transition text from passing as a table.
func TestParseRefuses(t *testing.T) {
	for stake, text := range map[string]string{
		"unknown state": "A B\nIN x A C\nOUT x A B\nINO x A B",
		"cell missing":  "A B\nIN x A\nOUT x A B\nINO x A B",
	} {
		t.Run(stake, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Errorf("parse(%q) did not panic", text)
				}
			}()
			parse(0, text)
		})
	}
}
