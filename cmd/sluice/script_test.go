package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/pcapgo"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/rings/pcapport"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sluice": main})
}

// TestScripts plays testdata/*.txtar: the command as its users have it, but
// without root. Beside testscript's own words there are
//
//	exits N COMMAND…      run, and want the exit status N
//	foreach GLOB COMMAND… run with the name of each file in place of {}
//	capture TEXT FILE     make a capture of a text; see readPacket
//	show FILE             print a capture: time, interface, comment, packet
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			return os.CopyFS(filepath.Join(e.WorkDir, "deploy"), os.DirFS("../../deploy"))
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "foreach": foreach, "capture": makeCapture, "show": showCapture,
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if neg || err != nil || len(args) < 2 {
		ts.Fatalf("usage: exits N COMMAND…")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit := (*exec.ExitError)(nil)
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func foreach(ts *testscript.TestScript, neg bool, args []string) {
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	if neg || err != nil || len(files) == 0 || len(args) < 2 {
		ts.Fatalf("no file is like %s (%v)", args[0], err)
	}
	for _, f := range files {
		var command []string
		for _, word := range args[1:] {
			command = append(command, strings.ReplaceAll(word, "{}", f))
		}
		ts.Check(ts.Exec(command[0], command[1:]...))
	}
}

// makeCapture makes a pcapng file of a text with a packet a line.
func makeCapture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture TEXT FILE")
	}
	var file bytes.Buffer
	names := []string{"eth0", "eth1"}
	w, err := pcapport.NewWriter(&file, names)
	ts.Check(err)
	for in := bufio.NewScanner(strings.NewReader(ts.ReadFile(args[0]))); in.Scan(); {
		seconds, iface, frame := readPacket(ts, strings.Fields(in.Text()))
		ts.Check(w.Write(map[string]int{"eth0": 0, "eth1": 1}[iface], int64(seconds*1e9), frame, ""))
	}
	ts.Check(w.Flush())
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), file.Bytes(), 0o600))
}

// readPacket makes a packet of a line: SECONDS INTERFACE PROTOCOL FROM TO
// [FLAGS], the flags of TCP as tcpdump has them. It is from .10 of its
// interface, as to its MAC address, to the director's.
func readPacket(ts *testscript.TestScript, words []string) (seconds float64, iface string, frame []byte) {
	if len(words) < 5 {
		ts.Fatalf("packet %q, want at least SECONDS INTERFACE PROTOCOL FROM TO", words)
	}
	seconds, err := strconv.ParseFloat(words[0], 64)
	ts.Check(err)
	iface = words[1]
	from, to := netip.MustParseAddrPort(words[3]), netip.MustParseAddrPort(words[4])
	net := strings.TrimPrefix(iface, "eth")
	p := packettest.Eth("02:00:00:00:0"+net+":01", "02:00:00:00:0"+net+":10")
	if from.Addr().Is4() {
		p = p.IP4(from.Addr().String(), to.Addr().String())
	} else {
		p = p.IP6(from.Addr().String(), to.Addr().String())
	}
	if words[2] == "udp" {
		return seconds, iface, p.UDP(from.Port(), to.Port()).Bytes()
	}
	flags := uint8(0)
	for _, f := range words[5] {
		flags |= map[rune]uint8{'S': packettest.SYN, 'A': packettest.ACK, 'F': packettest.FIN, 'R': packettest.RST, 'P': packettest.PSH}[f]
	}
	return seconds, iface, p.TCP(from.Port(), to.Port(), flags).Bytes()
}

// showCapture prints a capture.
func showCapture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: show FILE")
	}
	r, err := pcapgo.NewNgReader(strings.NewReader(ts.ReadFile(args[0])), pcapgo.DefaultNgReaderOptions)
	ts.Check(err)
	for {
		data, info, options, err := r.ReadPacketDataWithOptions()
		if err != nil {
			return // the end: that the file is whole is for pcapport's tests
		}
		iface, err := r.Interface(info.InterfaceIndex)
		ts.Check(err)
		fmt.Fprintf(ts.Stdout(), "%.3f %s %q %s\n", float64(info.Timestamp.UnixNano())/1e9, iface.Name, options.Comments, packettest.Describe(data))
	}
}

// Every command says how it is used, with an example that names it.
func TestHelp(t *testing.T) {
	for _, c := range newRoot().Commands() {
		var out bytes.Buffer
		root := newRoot()
		root.SetOut(&out)
		root.SetErr(&out)
		if status := execute(context.Background(), root, []string{c.Name(), "--help"}); status != 0 {
			t.Errorf("sluice %s --help: exit status %d", c.Name(), status)
		}
		_, examples, found := strings.Cut(out.String(), "Examples:")
		if examples, _, _ = strings.Cut(examples, "Flags:"); !found || !strings.Contains(examples, "sluice "+c.Name()) {
			t.Errorf("sluice %s --help has no example of it:\n%s", c.Name(), out.String())
		}
	}
}
