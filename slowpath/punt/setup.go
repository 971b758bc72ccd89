package punt

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

//go:generate go run -modfile=../../tools.mod github.com/cilium/ebpf/cmd/bpf2go -target bpfel enter enter.bpf.c -- -Wall -Wextra -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu

// queueFrames is how many frames wait for Run: a burst of whole TCP windows.
const queueFrames = 2048

// setUp makes the device one that says nothing of its own accord, has its
// frames come in by the NICs, and brings it up.
func (t *Tap) setUp(nics []int) error {
	var err error
	if t.raw, err = t.file.SyscallConn(); err != nil {
		return err
	}
	h, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByName(t.name)
	if err != nil {
		return err
	}
	t.index = link.Attrs().Index
	copy(t.mac[:], link.Attrs().HardwareAddr)
	_ = h.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE) // no address, so no solicitations; refused where there is no IPv6
	if err := h.LinkSetARPOff(link); err != nil {
		return err
	}
	if err := h.LinkSetTxQLen(link, queueFrames); err != nil {
		return err
	}
	if err := t.enterBy(h, nics); err != nil {
		return err
	}
	return h.LinkSetUp(link)
}

// enterBy puts the program of enter.bpf.c where the device's frames come in. The
// filter keeps it, and goes with the device.
func (t *Tap) enterBy(h *netlink.Handle, nics []int) error {
	spec, err := loadEnter()
	if err != nil {
		return err
	}
	spec.Maps[enterMapNics].MaxEntries = uint32(max(1, len(nics)))
	var loaded enterObjects
	if err := spec.LoadAndAssign(&loaded, nil); err != nil {
		return fmt.Errorf("load tc program: %w", err)
	}
	defer loaded.Close()
	for number, index := range nics {
		if err := loaded.Nics.Put(uint32(number), uint32(index)); err != nil {
			return err
		}
	}
	if err := h.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: t.index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}); err != nil {
		return fmt.Errorf("add qdisc clsact (CONFIG_NET_SCH_INGRESS?): %w", err)
	}
	if err := h.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: t.index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
		Fd:          loaded.SluiceEnter.FD(), Name: "sluice_enter", DirectAction: true,
	}); err != nil {
		return fmt.Errorf("add tc filter (CONFIG_NET_CLS_BPF?): %w", err)
	}
	return nil
}
