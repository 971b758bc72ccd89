package punt

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

// sysctlDir is where the kernel shows the parameters of the process's own
// network namespace: of the thread's, as the device is.
const sysctlDir = "/proc/sys/net"

// quiet are the device's parameters, set before it comes up: nothing that it
// would say of its own accord, and everything received.
var quiet = []struct{ key, value string }{
	{"ipv6/conf/%s/disable_ipv6", "0"},
	{"ipv6/conf/%s/addr_gen_mode", "1"}, // no link-local address, so no solicitations and reports from it
	{"ipv6/conf/%s/autoconf", "0"},
	{"ipv6/conf/%s/accept_ra", "0"},
	{"ipv6/conf/%s/accept_dad", "0"},
	{"ipv4/conf/%s/send_redirects", "0"}, // what enters here leaves elsewhere by design
	{"ipv4/conf/%s/accept_redirects", "0"},
	{"ipv4/conf/%s/arp_ignore", "8"}, // answers no ARP
}

// setUp gives the device its parameters and brings it up.
func (t *Tap) setUp() error {
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
	t.tune()
	t.reversePath(h, link)
	if err := h.LinkSetMTU(link, mtuBytes); err != nil {
		t.limit("MTU %d: %v: larger packets are refused", link.Attrs().MTU, err)
	}
	if err := h.LinkSetARPOff(link); err != nil {
		t.limit("ARP stays on: %v", err)
	}
	return h.LinkSetUp(link)
}

// tune sets the device's sysctls. Where that is not permitted, as in a container
// with a read-only /proc/sys, it notes what the operator must know.
func (t *Tap) tune() {
	for _, q := range quiet {
		key := fmt.Sprintf(q.key, t.name)
		if err := writeSysctl(key, q.value); err != nil && !os.IsNotExist(err) { // IPv6 may not be there
			t.limit("%s is not %s: %v", key, q.value, err)
		}
	}
}

// dummyAddress is the device's address where it needs one: the IPv4 dummy
// address of RFC 7600, which nobody else has. Its scope keeps the host from
// choosing it as a source.
var dummyAddress = netlink.Addr{
	IPNet: &net.IPNet{IP: net.IPv4(192, 0, 0, 8), Mask: net.CIDRMask(32, 32)},
	Scope: int(netlink.SCOPE_LINK),
}

// reversePath turns off the reverse path filter. The kernel applies the
// larger of the value for all and the device's, where 1 is strict and 2 loose:
// strict for all is softened by loose here. Strict would refuse every packet, as no
// route leads to the device; and so would loose, if the device had no address.
func (t *Tap) reversePath(h *netlink.Handle, link netlink.Link) {
	all, err := os.ReadFile(filepath.Join(sysctlDir, "ipv4/conf/all/rp_filter"))
	if err != nil {
		t.limit("reverse path filter unknown: %v", err)
		return
	}
	want := "0"
	if strings.TrimSpace(string(all)) != "0" {
		want = "2"
		t.limit("net.ipv4.conf.all.rp_filter is %s: packets from sources that the host has no route to are refused",
			strings.TrimSpace(string(all)))
		if err := h.AddrAdd(link, &dummyAddress); err != nil {
			t.limit("no address %s: %v: the reverse path filter refuses every packet", dummyAddress.IPNet, err)
		}
	}
	key := fmt.Sprintf("ipv4/conf/%s/rp_filter", t.name)
	if err := writeSysctl(key, want); err != nil {
		t.limit("%s is not %s: packets may be refused by the reverse path filter: %v", key, want, err)
	}
}

func (t *Tap) limit(format string, args ...any) {
	t.limits = append(t.limits, fmt.Sprintf(format, args...))
}

func writeSysctl(key, value string) error {
	return os.WriteFile(filepath.Join(sysctlDir, key), []byte(value), 0o644)
}
