package lb

import (
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// TestNames holds what is printed to the configuration's and ipvsadm's words.
func TestNames(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{NAT.String() + " " + NAT.KernelName(), "nat Masq"},
		{Local.String() + " " + Local.KernelName(), "local Local"},
		{TUN.String() + " " + TUN.KernelName(), "tun Tunnel"},
		{DR.String() + " " + DR.KernelName(), "dr Route"},
		{Bypass.String() + " " + Bypass.KernelName(), "bypass Bypass"},
		{Forward(9).String(), "forward-9"},
		{IPIP.String() + GUE.String() + GRE.String(), "ipipguegre"},
		{ChecksumNone.String() + " " + Checksum.String() + " " + ChecksumRemote.String(), "none csum remcsum"},
		{Tunnel{}.String(), "ipip"},
		{Tunnel{GUE, 6080, ChecksumRemote}.String(), "gue:6080:r+c"},
		{Tunnel{GUE, 6080, Checksum}.String(), "gue:6080:+c"},
		{Tunnel{Type: GRE, Checksum: Checksum}.String(), "gre:+c"},
		{tcp("10.0.0.1", 80).String(), "TCP 10.0.0.1:80"},
		{ServiceKey{Proto: ProtoUDP, Addr: ip("2001:db8::1"), Port: 53}.String(), "UDP [2001:db8::1]:53"},
		{ServiceKey{Mark: 7}.String(), "FWM 7"},
		{ServiceKey{Mark: 8, V6: true}.String(), "FWM 8 IPv6"},
		{ProtoName(ProtoSCTP) + " " + ProtoName(47), "sctp 47"},
		{RealKey{netip.MustParseAddr("10.1.0.1"), 8080}.String(), "10.1.0.1:8080"},
	} {
		if tt.got != tt.want {
			t.Errorf("%q, want %q", tt.got, tt.want)
		}
	}
}

// TestSysctlNames: each field has the kernel's name, as changes show it.
func TestSysctlNames(t *testing.T) {
	seen := map[string]bool{}
	for i := range reflect.TypeFor[Sysctl]().NumField() {
		name := reflect.TypeFor[Sysctl]().Field(i).Tag.Get("json")
		if name == "" || seen[name] {
			t.Errorf("field %d has the name %q", i, name)
		}
		seen[name] = true
	}
	if len(seen) != 27 {
		t.Errorf("%d sysctls, want 27", len(seen))
	}
}

// Netmasks that are prefixes become such; others stay, the empty one too (K-PERS-3).
func TestNetmask(t *testing.T) {
	for _, tt := range []struct {
		addr   string
		prefix int
		mask   string
		want   Persistence // its prefix or mask
		bits   string
	}{
		{"10.0.0.1", 0, "", Persistence{Prefix: 32}, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"10.0.0.1", 20, "", Persistence{Prefix: 20}, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:f000"},
		{"10.0.0.1", 0, "255.255.240.0", Persistence{Prefix: 20}, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:f000"},
		{"10.0.0.1", 0, "255.255.255.255", Persistence{Prefix: 32}, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"10.0.0.1", 0, "0.0.0.0", Persistence{Mask: ip("0.0.0.0")}, "ffff:ffff:ffff:ffff:ffff:ffff::"},
		{"10.0.0.1", 0, "255.0.255.0", Persistence{Mask: ip("255.0.255.0")}, "ffff:ffff:ffff:ffff:ffff:ffff:ff00:ff00"},
		{"10.0.0.1", 0, "0.0.0.24", Persistence{Mask: ip("0.0.0.24")}, "ffff:ffff:ffff:ffff:ffff:ffff:0:18"},
		{"2001:db8::1", 0, "", Persistence{Prefix: 128}, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"2001:db8::1", 35, "", Persistence{Prefix: 35}, "ffff:ffff:e000::"},
	} {
		p := Persistence{Timeout: time.Second, Prefix: tt.prefix}
		if tt.mask != "" {
			p.Mask = ip(tt.mask)
		}
		s := ServiceSpec{Key: ServiceKey{Proto: ProtoTCP, Addr: ip(tt.addr), Port: 80}, Persistence: &p}
		n, err := s.normal()
		if err != nil {
			t.Errorf("%+v: %v", tt, err)
			continue
		}
		tt.want.Timeout = time.Second
		mask := n.Persistence.Netmask(n.Key.Is6())
		if *n.Persistence != tt.want || ip(tt.bits).As16() != [16]byte(mask) {
			t.Errorf("%+v becomes %+v, mask %x", tt, *n.Persistence, mask)
		}
	}
}
