package pcapport

import (
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// A Writer writes one pcapng file: Ethernet interfaces with their names, time
// stamps in nanoseconds, a comment on each packet. The same calls give the same
// bytes on any machine.
type Writer struct{ file *pcapgo.NgWriter }

// NewWriter begins a file with the named interfaces, at least one.
func NewWriter(w io.Writer, names []string) (*Writer, error) {
	if len(names) == 0 {
		return nil, errors.New("write capture: no interface")
	}
	var out Writer
	for i, name := range names {
		// A name is an option: its length has 16 bits, and 0 would leave it out.
		if name == "" || len(name) > math.MaxUint16 {
			return nil, fmt.Errorf("write capture: interface %d has a name of %d bytes", i, len(name))
		}
		declared := pcapgo.NgInterface{Name: name, LinkType: layers.LinkTypeEthernet}
		var err error
		if i == 0 {
			out.file, err = pcapgo.NewNgWriterInterface(w, declared, pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "sluice"}})
		} else {
			_, err = out.file.AddInterface(declared)
		}
		if err != nil {
			return nil, fmt.Errorf("write capture: %w", err)
		}
	}
	return &out, nil
}

// Write appends a packet of the interface with this index, at a time in
// nanoseconds since 1970, with a comment (opt_comment) unless that is empty.
func (w *Writer) Write(iface int, nanos int64, data []byte, comment string) error {
	if nanos < 0 || len(data) > maxBlock/2 || len(comment) > math.MaxUint16 {
		return fmt.Errorf("write capture: a packet of %d bytes at %d ns with a comment of %d bytes cannot be written", len(data), nanos, len(comment))
	}
	var options pcapgo.NgPacketOptions
	if comment != "" {
		options.Comments = []string{comment}
	}
	err := w.file.WritePacketWithOptions(gopacket.CaptureInfo{
		Timestamp: time.Unix(0, nanos), CaptureLength: len(data), Length: len(data), InterfaceIndex: iface,
	}, data, options)
	if err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	return nil
}

// Flush writes what is buffered: to be called at the end.
func (w *Writer) Flush() error {
	if err := w.file.Flush(); err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	return nil
}
