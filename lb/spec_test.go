package lb

import (
	"net/netip"
	"reflect"
	"testing"
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
