package main

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/rings/xdpprog"
)

// Echo requests are redirected to services' addresses that are not the host's:
// not to those of marks, which have none, nor to those of removed services.
func TestWantedEcho(t *testing.T) {
	at := func(addr string) lb.ServiceSpec {
		return lb.ServiceSpec{Key: lb.ServiceKey{Proto: lb.ProtoTCP, Addr: netip.MustParseAddr(addr), Port: 80}}
	}
	services := []lb.ServiceSpec{at("192.0.2.1"), at("192.0.2.2"), at("2001:db8::1"), {Key: lb.ServiceKey{Mark: 7}}}
	removed := []lb.Removed{{Service: at("192.0.2.3").Key, Real: lb.RealKey{Addr: netip.MustParseAddr("10.0.0.1"), Port: 80}}}
	w, err := wanted(services, removed, nil, func(a *flow.Addr) bool { return a.String() == "192.0.2.2" })
	want := []xdpprog.Addr{netip.MustParseAddr("192.0.2.1").As16(), netip.MustParseAddr("2001:db8::1").As16()}
	if err != nil || !slices.Equal(w.Echo, want) {
		t.Errorf("echo requests to %v (%v), want %v", w.Echo, err, want)
	}
}
