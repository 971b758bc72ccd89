package pcapport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/rings"
)

// packet is a packet of a file.
type packet struct {
	iface   int
	nanos   int64
	data    string
	comment string
}

// written returns the file that a Writer makes.
func written(t testing.TB, names []string, packets []packet) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, names)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		if err := w.Write(p.iface, p.nanos, []byte(p.data), p.comment); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// readAll returns what a Reader makes of a file, without the comments.
func readAll(file []byte) (names []string, packets []packet, err error) {
	r, err := NewReader("in.pcapng", bytes.NewReader(file))
	if err != nil {
		return nil, nil, err
	}
	for {
		iface, nanos, data, err := r.Next()
		if errors.Is(err, io.EOF) {
			return r.Interfaces(), packets, nil
		}
		if err != nil {
			return nil, nil, err
		}
		packets = append(packets, packet{iface: iface, nanos: nanos, data: string(data)})
	}
}

func TestRoundTrip(t *testing.T) {
	names := []string{"eth0", "eth1.7", "long interface name"}
	packets := []packet{
		{1, 1700000000_123456789, strings.Repeat("x", 60), "in=0"},
		{0, 1700000000_123456790, strings.Repeat("y", 1514), "pass in=1"},
		{2, 1700000000_123456790, "odd", "timer"},
		{1, 0, "z", ""},
		{0, 1<<63 - 1 - 1e9, strings.Repeat("w", 65535), strings.Repeat("c", 65535)},
		{0, 5, "", "empty"},
	}
	file := written(t, names, packets)
	gotNames, got, err := readAll(file)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(gotNames, names) || len(got) != len(packets) {
		t.Fatalf("interfaces %q and %d packets, want %q and %d", gotNames, len(got), names, len(packets))
	}
	for i, p := range packets {
		p.comment = ""
		if got[i] != p {
			t.Errorf("packet %d is of %d at %d, %d bytes; want of %d at %d, %d bytes", i, got[i].iface, got[i].nanos, len(got[i].data), p.iface, p.nanos, len(p.data))
		}
	}
	if !bytes.Equal(file, written(t, names, packets)) {
		t.Error("the same calls gave other bytes")
	}
}

// TestWriterBytes holds the file to the format, block by block, as a program
// that knows only that format reads it.
func TestWriterBytes(t *testing.T) {
	got := written(t, []string{"e0", "e1"}, []packet{{1, 0x1122334455667788, "12345", "in=7"}})
	le, nl := binary.LittleEndian, 0
	block := func(kind uint32) []byte {
		t.Helper()
		n := int(le.Uint32(got[nl+4:]))
		b := got[nl : nl+n]
		if le.Uint32(b) != kind || le.Uint32(b[n-4:]) != uint32(n) {
			t.Fatalf("block at %d is % x, want type %#x", nl, b, kind)
		}
		nl += n
		return b[8 : n-4]
	}
	if b := block(sectionHeader); !bytes.HasPrefix(b, []byte("\x4d\x3c\x2b\x1a\x01\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff")) {
		t.Errorf("section header is % x", b)
	}
	for _, name := range []string{"e0", "e1"} {
		want := "\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x02\x00" + name + "\x00\x00\x09\x00\x01\x00\x09\x00\x00\x00\x00\x00\x00\x00"
		if b := block(interfaceBlock); string(b) != want {
			t.Errorf("interface block is\n% x, want\n% x", b, want)
		}
	}
	want := "\x01\x00\x00\x00\x44\x33\x22\x11\x88\x77\x66\x55\x05\x00\x00\x00\x05\x00\x00\x0012345\x00\x00\x00\x01\x00\x04\x00in=7\x00\x00\x00\x00"
	if b := block(enhancedPacket); string(b) != want {
		t.Errorf("packet block is\n% x, want\n% x", b, want)
	}
	if nl != len(got) {
		t.Errorf("%d bytes behind the last block", len(got)-nl)
	}
}

func TestWriterRefuses(t *testing.T) {
	for _, names := range [][]string{nil, {""}, {"eth0", ""}, {strings.Repeat("x", 1<<16)}} {
		if _, err := NewWriter(io.Discard, names); err == nil {
			t.Errorf("a file of %d interfaces, one without a name that can be written", len(names))
		}
	}
	w, err := NewWriter(io.Discard, []string{"eth0"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []packet{{1, 0, "x", ""}, {-1, 0, "x", ""}, {0, -1, "x", ""}, {0, 0, "x", strings.Repeat("c", 1<<16)}} {
		if err := w.Write(p.iface, p.nanos, []byte(p.data), p.comment); err == nil {
			t.Errorf("a packet of interface %d at %d with a comment of %d bytes was written", p.iface, p.nanos, len(p.comment))
		}
	}
}

// builder makes files of blocks in either byte order, right or wrong.
type builder struct {
	order binary.AppendByteOrder
	file  []byte
}

func (b *builder) block(kind uint32, body []byte) *builder {
	body = append(body, make([]byte, -len(body)&3)...)
	n := uint32(12 + len(body))
	b.file = b.order.AppendUint32(b.order.AppendUint32(b.file, kind), n)
	b.file = b.order.AppendUint32(append(b.file, body...), n)
	return b
}

func (b *builder) words(w ...uint32) (out []byte) {
	for _, v := range w {
		out = b.order.AppendUint32(out, v)
	}
	return out
}

func (b *builder) option(code uint16, value string) []byte {
	out := b.order.AppendUint16(b.order.AppendUint16(nil, code), uint16(len(value)))
	return append(append(out, value...), make([]byte, -len(value)&3)...)
}

func (b *builder) section() *builder {
	version := b.order.AppendUint16(b.order.AppendUint16(nil, 1), 0)
	return b.block(sectionHeader, bytes.Join([][]byte{b.words(byteOrderMagic), version, b.words(^uint32(0), ^uint32(0))}, nil))
}

func (b *builder) iface(options ...[]byte) *builder {
	link := b.order.AppendUint16(b.order.AppendUint16(nil, linkEthernet), 0)
	return b.block(interfaceBlock, append(append(link, b.words(0)...), bytes.Join(options, nil)...))
}

func (b *builder) packet(iface uint32, stamp uint64, data string) *builder {
	n := uint32(len(data))
	return b.block(enhancedPacket, append(b.words(iface, uint32(stamp>>32), uint32(stamp), n, n), data...))
}

func little() *builder { return &builder{order: binary.LittleEndian} }
func big() *builder    { return &builder{order: binary.BigEndian} }

// start is a file with interface eth0 in nanoseconds.
func start(b *builder) *builder {
	return b.section().iface(b.option(optionName, "eth0"), b.option(optionResolution, "\x09"))
}

// TestReader reads what other programs write.
func TestReader(t *testing.T) {
	two := start(little()).iface(little().option(optionName, "unused\x00"))
	two.packet(0, 3, "abc")
	other := big().section().iface(big().option(optionName, "eth2")).iface(big().option(optionName, "eth0"))
	other.packet(1, 7_000_001, "de").packet(0, 8, "f")
	for _, row := range []struct {
		stake   string
		file    []byte
		names   []string
		packets []packet
	}{
		{"no packets", start(little()).file, []string{"eth0"}, nil},
		{"no interface either", little().section().file, nil, nil},
		{"big endian", start(big()).packet(0, 1700000000_000000001, "abcde").file, []string{"eth0"}, []packet{{0, 1700000000_000000001, "abcde", ""}}},
		{"microseconds are the default", little().section().iface(little().option(optionName, "a")).packet(0, 5, "x").file, []string{"a"}, []packet{{0, 5000, "x", ""}}},
		{"picoseconds are cut", little().section().iface(little().option(optionName, "a"), little().option(optionResolution, "\x0c")).packet(0, 5999, "x").file, []string{"a"}, []packet{{0, 5, "x", ""}}},
		{"blocks of other kinds are passed over", start(little()).block(5, make([]byte, 12)).block(0xbad, []byte("anything")).block(4, []byte{9}).packet(0, 1, "x").file, []string{"eth0"}, []packet{{0, 1, "x", ""}}},
		{"a simple packet has no time", start(little()).block(simplePacket, append(little().words(5), "hello"...)).file, []string{"eth0"}, []packet{{0, 0, "hello", ""}}},
		{
			"sections name the same interfaces again, in another order and byte order", append(two.file, other.file...),
			[]string{"eth0", "unused", "eth2"},
			[]packet{{0, 3, "abc", ""}, {0, 7_000_001_000, "de", ""}, {2, 8000, "f", ""}},
		},
		{"options that are not ours", little().section().iface(little().option(optionName, "a"), little().option(3, "description"), little().option(optionEnd, "")).packet(0, 1, "x").file, []string{"a"}, []packet{{0, 1000, "x", ""}}},
	} {
		names, packets, err := readAll(row.file)
		if err != nil || strings.Join(names, ",") != strings.Join(row.names, ",") || !reflect.DeepEqual(packets, row.packets) {
			t.Errorf("%s: %q %v %v, want %q %v", row.stake, names, packets, err, row.names, row.packets)
		}
	}
}

// TestReaderRefuses: a damaged file gives an error that says what and where.
func TestReaderRefuses(t *testing.T) {
	cut := func(b *builder, n int) []byte { return b.file[:len(b.file)-n] }
	set := func(b *builder, at int, v byte) []byte {
		if at < 0 {
			at += len(b.file)
		}
		b.file[at] = v
		return b.file
	}
	one := func() *builder { return start(little()).packet(0, 1, "abcd") }
	for _, row := range []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "it is empty"},
		{"a pcap file", []byte("\xd4\xc3\xb2\xa1\x02\x00\x04\x00\x00\x00\x00\x00"), "not a pcapng file: it begins with d4c3b2a1"},
		{"a gzip file", append([]byte("\x1f\x8b\x08\x00"), make([]byte, 20)...), "not a pcapng file"},
		{"byte order", set(little().section(), 8, 0), "byte order magic"},
		{"version", set(little().section(), 12, 2), "version 2.0"},
		{"cut in a packet", cut(one(), 6), "the file ends 6 bytes earlier"},
		{"cut in a header", cut(one(), 30), "stray bytes"},
		{"length not a multiple of 4", set(one(), -32, 37), "length 37"},
		{"length of less than a block", set(one(), -32, 8), "length 8"},
		{"lengths that differ", set(one(), -4, 40), "length 36 at its beginning, but 40 at its end"},
		{"huge block", set(one(), -29, 0x70), "want a multiple of 4"},
		{"unknown interface", start(little()).packet(1, 1, "x").file, "packet 0 of interface 1, but 1 are declared"},
		{"interface before any", little().section().packet(0, 1, "x").file, "but 0 are declared"},
		{"interface of the section before", start(little()).section().packet(0, 1, "x").file, "but 0 are declared"},
		{"cut by a snap length", start(little()).block(enhancedPacket, append(little().words(0, 0, 0, 4, 1500), "abcd"...)).file, "packet 0 is cut: 4 of 1500 bytes"},
		{"longer than its block", start(little()).block(enhancedPacket, append(little().words(0, 0, 0, 9, 9), "abcd"...)).file, "packet 0 of 9 bytes in a block of 36"},
		{"length that wraps", start(little()).block(enhancedPacket, append(little().words(0, 0, 0, ^uint32(0), ^uint32(0)), "abcd"...)).file, "packet 0 of 4294967295 bytes"},
		{"packet without its fields", start(little()).block(enhancedPacket, little().words(0, 0)).file, "packet block of 8 bytes"},
		{"simple packet cut", start(little()).block(simplePacket, append(little().words(50), "hello"...)).file, "packet 0 is cut"},
		{"obsolete packet", start(little()).block(obsoletePacket, make([]byte, 24)).file, "editcap"},
		{"not Ethernet", little().section().block(interfaceBlock, little().words(113, 0)).file, "link type 113"},
		{"no name", little().section().iface().file, "interface 0 has no name"},
		{"short interface", little().section().block(interfaceBlock, little().words(1)).file, "interface block of 4 bytes"},
		{"option beyond its block", little().section().iface(little().words(2 | 100<<16)).file, "option 2 of 100 bytes where 0 are left"},
		{"binary time stamps", little().section().iface(little().option(optionName, "a"), little().option(optionResolution, "\x9e")).file, "resolution 9e"},
		{"time stamps of no length", little().section().iface(little().option(optionName, "a"), little().option(optionResolution, "")).file, "resolution"},
		{"time after 2262", start(little()).packet(0, ^uint64(0), "x").file, "packet 0: its time stamp is 18446744073 s"},
		{"end of options with a length", start(little()).block(enhancedPacket, append(little().words(0, 0, 0, 0, 0), little().option(optionEnd, "x")...)).file, "packet 0: "},
	} {
		_, _, err := readAll(row.file)
		if err == nil || !strings.Contains(err.Error(), row.want) || !strings.HasPrefix(err.Error(), "in.pcapng: ") {
			t.Errorf("%s: error %v, want in.pcapng: ... %q", row.name, err, row.want)
		}
	}
}

func TestOpenReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pcapng")
	if _, err := OpenReader(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("junk, not a capture"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReader(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("junk: %v", err)
	}
	if err := os.WriteFile(path, written(t, []string{"eth0"}, []packet{{0, 9, "abc", "c"}}), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	if iface, nanos, data, err := r.Next(); iface != 0 || nanos != 9 || string(data) != "abc" || err != nil {
		t.Errorf("read %d %d %q %v", iface, nanos, data, err)
	}
	if _, _, _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// TestPort feeds packets one by one, as a replay does, and sends what it got.
func TestPort(t *testing.T) {
	u, err := rings.NewUMEM(make([]byte, 8*2048), 2048)
	if err != nil {
		t.Fatal(err)
	}
	var sent []string
	in, out := NewPort(u, nil), NewPort(u, func(p []byte) { sent = append(sent, string(p)) })
	b := make([]rings.Frame, 2)
	for _, p := range []string{"one", "two", "three"} {
		if err := in.Feed([]byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{2, 1, 0} {
		n := in.Receive(b)
		if n != want {
			t.Fatalf("received %d, want %d", n, want)
		}
		for i := range b[:n] {
			if b[i].Off != rings.Headroom || len(b[i].Chunk) != 2048 {
				t.Errorf("packet at %d of %d bytes", b[i].Off, len(b[i].Chunk))
			}
		}
		if out.Transmit(b[:n]) != n {
			t.Errorf("%d packets were not all taken", n)
		}
	}
	n := out.Alloc(b)
	b[0].Len, b[1].Off, b[1].Len = 0, 2040, 9
	if out.Transmit(b[:n]) != 2 {
		t.Error("bad frames are to be taken, and freed")
	}
	if got := strings.Join(sent, " "); got != "one two three" {
		t.Errorf("sent %q", got)
	}
	if s := out.Stats(); s.TxPackets != 3 || s.TxBytes != 11 || s.TxRefused != 2 || s.Free != 8 || out.FD() != -1 || out.Reclaim() != 0 {
		t.Errorf("out: %+v", s)
	}
	if s := in.Stats(); s.RxPackets != 3 || s.RxBytes != 11 {
		t.Errorf("in: %+v", s)
	}
	if err := in.Feed(make([]byte, 2048-rings.Headroom+1)); err == nil {
		t.Error("a packet longer than a frame was fed")
	}
	for range 8 {
		if err := in.Feed([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.Feed([]byte("x")); err == nil {
		t.Error("fed without a free frame")
	}
	if err := in.Close(); err != nil || u.Free() != 8 {
		t.Errorf("after Close %d of 8 frames are free, %v", u.Free(), err)
	}
}

// FuzzReader: any bytes give packets or an error, never a panic; what was read
// can be written and reads the same.
func FuzzReader(f *testing.F) {
	f.Add(start(little()).packet(0, 1, "abcd").block(5, make([]byte, 12)).file)
	f.Add(append(start(big()).packet(0, 1700000000_000000001, "abcde").file, start(little()).iface(little().option(optionName, "b")).packet(1, 5, "x").file...))
	f.Add(start(little()).block(simplePacket, append(little().words(5), "hello"...)).file)
	f.Add(start(little()).block(enhancedPacket, append(little().words(0, 0, 0, 4, 4), "abcd\x01\x00\x02\x00hi\x00\x00\x06\x00\x01\x00\x07\x00\x00\x00\x02\x00\x04\x00abcd"...)).file)
	f.Fuzz(func(t *testing.T, file []byte) {
		names, packets, err := readAll(file)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "in.pcapng: ") {
				t.Fatalf("error does not name the file: %v", err)
			}
			return
		}
		if len(names) == 0 {
			return
		}
		again, same, err := readAll(written(t, names, packets))
		if err != nil || !reflect.DeepEqual(again, names) || !reflect.DeepEqual(same, packets) {
			t.Fatalf("%q %v became %q %v, %v", names, packets, again, same, err)
		}
	})
}
