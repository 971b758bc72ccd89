// Package pcapport replays pcapng files: a Reader gives the packets of a
// capture, a Port hands them to a pipeline as a NIC queue would, and a Writer
// writes what comes out. None touches the network, the clock or the kernel.
//
// Each value belongs to the goroutine that uses it.
package pcapport

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/gopacket/gopacket/pcapgo"
)

// A Reader gives the packets of one pcapng file in file order. The file was
// read once as a whole before: a damaged one gives no packet at all.
type Reader struct {
	name   string
	closer io.Closer
	names  []string
	blocks *blocks
	file   *pcapgo.NgReader
	next   int
}

// OpenReader opens a pcapng file. Errors name the file, the place in it and
// what is wrong.
func OpenReader(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read capture: %w", err)
	}
	r, err := NewReader(path, f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r.closer = f
	return r, nil
}

// NewReader reads a capture that is called name in errors.
func NewReader(name string, file io.ReadSeeker) (*Reader, error) {
	r := &Reader{name: name}
	if err := r.rewind(file); err != nil {
		return nil, err
	}
	for {
		if _, _, _, err := r.Next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
	}
	r.names = r.blocks.names
	return r, r.rewind(file)
}

// rewind begins at the file's first packet.
func (r *Reader) rewind(file io.ReadSeeker) error {
	size, err := file.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err == nil {
		r.next = 0
		r.blocks = &blocks{file: bufio.NewReader(file), left: size}
		r.file, err = pcapgo.NewNgReader(r.blocks, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, r.cause(err))
	}
	return nil
}

// cause is what is wrong with the file, where pcapgo only saw it end.
func (r *Reader) cause(err error) error {
	if r.blocks != nil && r.blocks.err != nil && !errors.Is(r.blocks.err, io.EOF) {
		return r.blocks.err
	}
	return err
}

// Interfaces returns the names (if_name) of all interfaces, each once, in the
// order in which the file declares them.
func (r *Reader) Interfaces() []string { return r.names }

// Next returns the next packet: its interface as an index into Interfaces, its
// time in nanoseconds since 1970, and its bytes, valid until the next call.
// io.EOF: there are no more.
func (r *Reader) Next() (iface int, nanos int64, data []byte, err error) {
	data, info, err := r.file.ZeroCopyReadPacketData()
	if cause := r.cause(err); errors.Is(cause, io.EOF) {
		return 0, 0, nil, io.EOF
	} else if cause != nil {
		return 0, 0, nil, fmt.Errorf("%s: packet %d: %w", r.name, r.next, cause)
	}
	if !info.Timestamp.IsZero() { // simple packets have none
		// Seconds that fit int64 nanoseconds: from 1970 to 2262.
		if s := info.Timestamp.Unix(); s < 0 || s >= int64(1<<63-1)/int64(time.Second) {
			return 0, 0, nil, fmt.Errorf("%s: packet %d: its time stamp is %d s since 1970", r.name, r.next, s)
		}
		nanos = info.Timestamp.UnixNano()
	}
	declared, err := r.file.Interface(info.InterfaceIndex)
	if err != nil {
		return 0, 0, nil, fmt.Errorf("%s: packet %d: %w", r.name, r.next, err)
	}
	r.next++
	// The name is the interface: another section may declare it again.
	return slices.Index(r.blocks.names, trimName(declared.Name)), nanos, data, nil
}

// Close closes the file that OpenReader opened.
func (r *Reader) Close() error {
	if r.closer == nil {
		return nil
	}
	return r.closer.Close()
}
