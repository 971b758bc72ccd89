package fastpath

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/lb"
)

// K-DEF-3: of new connections the first and then each am_droprate-th is
// dropped; established traffic is not.
func TestDropPacket(t *testing.T) {
	r := newRig(t, options{}, natService())
	r.process(syn(999))
	r.edit(func(s *lb.Spec) { s.Sysctl.DropPacket, s.Sysctl.AMDropRate = 3, 4 })
	var fates strings.Builder
	for port := uint16(1000); port < 1012; port++ {
		if r.fate(syn(port)) == "drop_packet" {
			fates.WriteByte('x')
		} else {
			fates.WriteByte('.')
		}
		if got := r.fate(in(fromClient().IP4(client, vip).TCP(999, 80, ackFlag))); !strings.Contains(got, "10.0.2.11:8080") {
			t.Errorf("established: %s, want it forwarded", got)
		}
	}
	if fates.String() != "x...x...x..." {
		t.Errorf("new connections were %s, want every fourth dropped", fates.String())
	}
}

// K-DEF-1: in mode 1 drop_packet works only while the table is nearly full.
func TestDropPacketAuto(t *testing.T) {
	r := newRig(t, options{max: 80}, natService())
	r.edit(func(s *lb.Spec) { s.Sysctl.DropPacket = 1 })
	for port := uint16(1000); port < 1075; port++ { // 5 entries of 80 are left: less than an eighth
		if got := r.fate(syn(port)); !strings.Contains(got, "10.0.2.11:8080") {
			t.Fatalf("connection %d: %s, want it forwarded", port, got)
		}
	}
	r.pass(time.Second)
	if got := r.fate(syn(2000)); got != "drop_packet" {
		t.Errorf("nearly full: %s, want drop_packet", got)
	}
	r.pass(2 * time.Minute)
	if got := r.fate(syn(2001)); !strings.Contains(got, "10.0.2.11:8080") {
		t.Errorf("empty again: %s, want it forwarded", got)
	}
}

// K-DEF-1: packet memory that runs short turns the defences on too, and the less
// is free the more drop_packet refuses.
func TestDefendPacketMemory(t *testing.T) {
	r := newRig(t, options{}, natService())
	free := 0
	r.pipe.room = func() (int, int) { return free, 800 }
	r.edit(func(s *lb.Spec) { s.Sysctl.DropPacket, s.Sysctl.DropEntry, s.Sysctl.SecureTCP = 1, 1, 1 })
	for _, row := range []struct{ free, rate int }{{800, 0}, {100, 0}, {99, 100}, {75, 4}, {50, 2}, {0, 1}, {100, 0}} {
		free = row.free
		r.pass(time.Second)
		if d := r.pipe.defence; d.rate != row.rate || d.secure != (row.rate > 0) || d.dropping != (row.rate > 0) {
			t.Errorf("%d of 800 frames are free: %+v, want one of %d refused", row.free, d, row.rate)
		}
	}
	free = 75
	r.edit(func(s *lb.Spec) { s.Sysctl.DropPacket, s.Sysctl.DropEntry, s.Sysctl.SecureTCP = 0, 0, 0 })
	if d := r.pipe.defence; d.rate != 0 || d.secure || d.dropping {
		t.Errorf("switched off: %+v", d)
	}
}

// K-DEF-2: drop_entry ends half-open connections at random, and spares
// established ones that talk.
func TestDropEntry(t *testing.T) {
	r := newRig(t, options{}, natService())
	for port := uint16(1000); port < 1200; port++ {
		r.process(syn(port))
	}
	r.process(syn(2000), in(fromClient().IP4(client, vip).TCP(2000, 80, ackFlag)))
	r.edit(func(s *lb.Spec) { s.Sysctl.DropEntry = 3 })
	for range 40 {
		r.pass(time.Second)
	}
	if n := r.conns.Len(); n > 180 || n < 10 {
		t.Errorf("after 40 s of drop_entry %d of 201 connections are left, want some two thirds less", n)
	}
	if got := r.load("10.0.2.11"); got != fmt.Sprintf("%d active, 0 inactive", r.conns.Len()) {
		t.Errorf("server has %s, the table %d", got, r.conns.Len())
	}
	if got := r.fate(in(fromClient().IP4(client, vip).TCP(2000, 80, ackFlag))); !strings.Contains(got, "10.0.2.11:8080") {
		t.Errorf("established connection: %s, want it alive", got)
	}
}

// K-DEF-4: secure_tcp has a table of its own: only an answer establishes.
func TestSecureTCP(t *testing.T) {
	for mode, want := range map[int]string{0: "ESTABLISHED", 3: "SYN_RECV"} {
		r := newRig(t, options{}, natService())
		r.edit(func(s *lb.Spec) { s.Sysctl.SecureTCP = mode })
		r.process(syn(1000), in(fromClient().IP4(client, vip).TCP(1000, 80, ackFlag)))
		if got := r.states(); got != want {
			t.Errorf("secure_tcp %d: a client's SYN and ACK give %s, want %s", mode, got, want)
		}
	}
}

// K-CONN-10: with expire_nodest_conn connections of a removed server end, two
// ticks later. As recorded with Linux 6.1.
func TestExpireNoDest(t *testing.T) {
	r := newRig(t, options{}, natService(), service("tcp 10.0.1.101:80 rr", "nat 10.0.2.12:80 1"))
	r.process(syn(1000), in(fromClient().IP4(client, "10.0.1.101").TCP(1000, 80, synFlag)))
	r.edit(func(s *lb.Spec) { s.Sysctl.ExpireNoDestConn = 1 })
	r.edit(func(s *lb.Spec) { s.Services[0].Servers = nil })
	r.pass(10 * time.Millisecond)
	if n := r.conns.Len(); n != 2 {
		t.Errorf("%d connections are left after a tick, want both", n)
	}
	if due, ok := r.conns.NextDue(); !ok || due != r.now+1 {
		t.Errorf("due at %v (%v), want the next tick", due, ok)
	}
	r.pass(10 * time.Millisecond)
	if n := r.conns.Len(); n != 1 {
		t.Errorf("%d connections are left, want that of the other server", n)
	}
}
