package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/internal/testnet"
)

//go:generate go run -modfile=../../tools.mod github.com/cilium/ebpf/cmd/bpf2go -target bpfel dialog dialog.bpf.c -- -Wall -Wextra -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu

const (
	// clientsNet is where all clients are, behind the one host.
	clientsNet  = "100.64.0.0/10"
	firstClient = "100.64.0.10"
	// dialogWords and dialogFrame are WORDS and FRAME of dialog.bpf.c.
	dialogWords = 7
	dialogFrame = 60
)

// dialog is TCP clients and a server, as XDP programs.
type dialog struct {
	objects dialogObjects
	links   []link.Link
	frame   []byte
}

// newDialog has client and server answer; open begins connections.
func newDialog(n *testnet.Network, synOnly bool) (d *dialog, err error) {
	spec, err := loadDialog()
	if err != nil {
		return nil, err
	}
	out, err := n.In(client).Netlink().LinkByName(eth0)
	if err != nil {
		return nil, fmt.Errorf("%s of the client: %w", eth0, err)
	}
	frame := packettest.Eth(frontMAC, clientMAC).IP4(firstClient, vip).TCP(0, vport, packettest.SYN).Bytes()
	d = &dialog{frame: append(frame, make([]byte, dialogFrame-len(frame))...)}
	port := func(p uint16) [2]byte { return [2]byte(binary.BigEndian.AppendUint16(nil, p)) }
	first := addr4(firstClient)
	for name, value := range map[string]any{
		dialogVarSyn:         [dialogWords * 8]byte(d.frame),
		dialogVarOutIfindex:  uint32(out.Attrs().Index),
		dialogVarFirstClient: binary.BigEndian.Uint32(first[:]),
		dialogVarConnections: uint32(connections),
		dialogVarVirtualAddr: addr4(vip),
		dialogVarVirtualPort: port(vport),
		dialogVarServerAddr:  addr4(serverAddr),
		dialogVarServerPort:  port(rport),
		dialogVarSynOnly:     synOnly,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	if err := spec.LoadAndAssign(&d.objects, nil); err != nil {
		return nil, fmt.Errorf("load the programs of client and server: %w", err)
	}
	for in, program := range map[string]*ebpf.Program{client: d.objects.Client, server: d.objects.Server} {
		l, err := attachXDP(n, in, program)
		if err != nil {
			return nil, errors.Join(err, d.close())
		}
		d.links = append(d.links, l)
	}
	return d, nil
}

// open has the kernel begin n connections or look so often for a slot, on the
// calling thread, in the client's namespace. A signal ends it early: unix.EINTR.
func (d *dialog) open(n uint32) error {
	if err := runLive(d.objects.Open.FD(), d.frame, n, manyAtOnce); err != nil {
		return fmt.Errorf("open connections by BPF_PROG_TEST_RUN (Linux 5.18 or later): %w", err)
	}
	return nil
}

// close detaches and unloads the programs.
func (d *dialog) close() (err error) {
	for _, l := range d.links {
		err = errors.Join(err, l.Close())
	}
	return errors.Join(err, d.objects.Close())
}

// dialogCounts is what the programs have counted.
type dialogCounts struct{ done, failed, wrong uint64 }

func (d *dialog) counts() (c dialogCounts, err error) {
	return c, errors.Join(d.objects.Done.Get(&c.done), d.objects.Failed.Get(&c.failed), d.objects.Wrong.Get(&c.wrong))
}
