package pcapport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Block types and options of pcapng (draft-ietf-opsawg-pcapng) that concern a
// replay, and the only link type that does.
const (
	sectionHeader  = 0x0a0d0d0a
	interfaceBlock = 1
	obsoletePacket = 2
	simplePacket   = 3
	enhancedPacket = 6

	optionEnd        = 0
	optionName       = 2 // if_name
	optionResolution = 9 // if_tsresol
	linkEthernet     = 1

	byteOrderMagic = 0x1a2b3c4d
	maxBlock       = 16 << 20 // bytes: far above any frame with its options
)

// blocks is a pcapng file as pcapgo may read it: only the blocks that concern a
// replay, each checked to be what its lengths say. pcapgo itself trusts them,
// and would take the rest of a damaged block for something else.
type blocks struct {
	file   io.Reader
	left   int64  // bytes of the file not read yet
	offset int64  // of the current block
	buf    []byte // the current block
	unread []byte // of it, what pcapgo has not read

	order      binary.ByteOrder
	interfaces int      // of the current section
	names      []string // of all, each once, in the order of their blocks
	packets    int
	err        error // the end: io.EOF or what is wrong
}

// Read gives the file block by block: see io.Reader.
func (b *blocks) Read(p []byte) (int, error) {
	for len(b.unread) == 0 {
		if b.err == nil {
			b.err = b.next()
		}
		if b.err != nil {
			return 0, b.err
		}
	}
	n := copy(p, b.unread)
	b.unread = b.unread[n:]
	return n, nil
}

// next reads and checks a block. io.EOF: there is none.
func (b *blocks) next() error {
	b.offset += int64(len(b.buf))
	b.buf = b.buf[:0]
	if b.left == 0 {
		if b.order == nil {
			return errors.New("not a pcapng file: it is empty")
		}
		return io.EOF
	}
	kind, err := b.load()
	if err == nil {
		err = b.check(kind)
	}
	if err != nil {
		return fmt.Errorf("block at offset %d: %w", b.offset, err)
	}
	return nil
}

// load reads a whole block and returns its type.
func (b *blocks) load() (kind uint32, err error) {
	if b.left < 12 {
		return 0, fmt.Errorf("%d stray bytes at the end of the file", b.left)
	}
	if err := b.read(12); err != nil {
		return 0, err
	}
	// A section header reads the same in both byte orders, and says which.
	if binary.LittleEndian.Uint32(b.buf) == sectionHeader {
		switch uint32(byteOrderMagic) {
		case binary.LittleEndian.Uint32(b.buf[8:]):
			b.order = binary.LittleEndian
		case binary.BigEndian.Uint32(b.buf[8:]):
			b.order = binary.BigEndian
		default:
			return 0, fmt.Errorf("not a pcapng file: byte order magic is %x", b.buf[8:12])
		}
	} else if b.order == nil {
		return 0, fmt.Errorf("not a pcapng file: it begins with %x", b.buf[:4])
	}
	length := int64(b.order.Uint32(b.buf[4:]))
	switch {
	case length < 12 || length%4 != 0 || length > maxBlock:
		return 0, fmt.Errorf("length %d: want a multiple of 4 from 12 to %d", length, maxBlock)
	case length-12 > b.left:
		return 0, fmt.Errorf("length %d, but the file ends %d bytes earlier", length, length-12-b.left)
	}
	if err := b.read(int(length)); err != nil {
		return 0, err
	}
	if again := b.order.Uint32(b.buf[length-4:]); int64(again) != length {
		return 0, fmt.Errorf("length %d at its beginning, but %d at its end", length, again)
	}
	return b.order.Uint32(b.buf), nil
}

// read extends buf to n bytes.
func (b *blocks) read(n int) error {
	have := len(b.buf)
	if cap(b.buf) < n {
		b.buf = append(make([]byte, 0, 2*n), b.buf...)
	}
	b.buf = b.buf[:n]
	if _, err := io.ReadFull(b.file, b.buf[have:]); err != nil {
		b.left = 0
		return err
	}
	b.left -= int64(n - have)
	return nil
}

// check looks into the block, and lets pcapgo read it if it is of use.
func (b *blocks) check(kind uint32) error {
	body := b.buf[8 : len(b.buf)-4]
	var err error
	switch kind {
	case sectionHeader:
		err = b.section(body)
	case interfaceBlock:
		err = b.iface(body)
	case enhancedPacket:
		err = b.packet(body)
	case simplePacket:
		err = b.simple(body)
	case obsoletePacket:
		err = errors.New("an obsolete packet block: convert the file by editcap")
	default:
		return nil // names, statistics, secrets, others' blocks
	}
	b.unread = b.buf
	return err
}

func (b *blocks) section(body []byte) error {
	if len(body) < 16 {
		return fmt.Errorf("section header of %d bytes", len(body))
	}
	if major, minor := b.order.Uint16(body[4:]), b.order.Uint16(body[6:]); major != 1 || minor != 0 {
		return fmt.Errorf("pcapng version %d.%d: want 1.0", major, minor)
	}
	b.interfaces = 0
	return b.options(body[16:], func(uint16, []byte) error { return nil })
}

func (b *blocks) iface(body []byte) error {
	if len(body) < 8 {
		return fmt.Errorf("interface block of %d bytes", len(body))
	}
	if link := b.order.Uint16(body); link != linkEthernet {
		return fmt.Errorf("interface of link type %d: want Ethernet, %d", link, linkEthernet)
	}
	name := ""
	err := b.options(body[8:], func(code uint16, value []byte) error {
		switch code {
		case optionName:
			name = trimName(string(value))
		case optionResolution:
			// pcapgo rounds binary resolutions, and takes 0 for the default.
			if len(value) != 1 || value[0] < 1 || value[0] > 18 {
				return fmt.Errorf("time stamp resolution %x: want 10^-1 to 10^-18 s", value)
			}
		}
		return nil
	})
	if err == nil && name == "" {
		err = fmt.Errorf("interface %d has no name (if_name)", b.interfaces)
	}
	b.interfaces++
	if !slices.Contains(b.names, name) {
		b.names = append(b.names, name)
	}
	return err
}

func (b *blocks) packet(body []byte) error {
	if len(body) < 20 {
		return fmt.Errorf("packet block of %d bytes", len(body))
	}
	number := b.packets
	b.packets++
	if i := b.order.Uint32(body); int64(i) >= int64(b.interfaces) {
		return fmt.Errorf("packet %d of interface %d, but %d are declared", number, i, b.interfaces)
	}
	captured, length := b.order.Uint32(body[12:]), b.order.Uint32(body[16:])
	if captured != length {
		return fmt.Errorf("packet %d is cut: %d of %d bytes", number, captured, length)
	}
	padded := (uint64(captured) + 3) &^ 3
	if padded > uint64(len(body)-20) {
		return fmt.Errorf("packet %d of %d bytes in a block of %d", number, captured, len(b.buf))
	}
	return b.options(body[20+padded:], func(uint16, []byte) error { return nil })
}

func (b *blocks) simple(body []byte) error {
	number := b.packets
	b.packets++
	if len(body) < 4 || b.interfaces == 0 {
		return fmt.Errorf("simple packet block of %d bytes, with %d interfaces", len(body), b.interfaces)
	}
	if length := uint64(b.order.Uint32(body)); (length+3)&^3 != uint64(len(body)-4) {
		return fmt.Errorf("packet %d is cut, or longer than it says: %d bytes for %d", number, len(body)-4, length)
	}
	return nil
}

// options walks a list of options, each padded to 4 bytes.
func (b *blocks) options(list []byte, visit func(code uint16, value []byte) error) error {
	for len(list) > 0 {
		code, length := b.order.Uint16(list), int(b.order.Uint16(list[2:]))
		if code == optionEnd {
			return nil
		}
		padded := (length + 3) &^ 3
		if 4+padded > len(list) {
			return fmt.Errorf("option %d of %d bytes where %d are left", code, length, len(list)-4)
		}
		if err := visit(code, list[4:4+length]); err != nil {
			return err
		}
		list = list[4+padded:]
	}
	return nil
}

// trimName is an interface's name without the zero bytes that some programs
// put behind it.
func trimName(name string) string { return strings.TrimRight(name, "\x00") }
