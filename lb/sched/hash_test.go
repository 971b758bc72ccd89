package sched

import (
	"fmt"
	"testing"
)

// TestHashVectors are the vectors of section 1.5.
func TestHashVectors(t *testing.T) {
	for _, tt := range []struct {
		client         string
		h1, h2         uint32
		mh, mhPort     uint32 // slot of 4093, without and with port 12345
		sh, shPort, dh uint32 // bucket of 256
		lblc           uint32 // bucket of 1024
	}{
		{"10.0.0.1", 0x03080ce4, 0x48f9d0c1, 3711, 490, 39, 134, 39, 159},
		{"10.0.0.2", 0x41cfde13, 0xc537a6e5, 1884, 1889, 137, 232, 137, 550},
		{"192.0.2.1", 0x92889c88, 0xc6fe83e5, 2891, 1302, 50, 145, 50, 203},
		{"198.51.100.77", 0xc3cac8e2, 0x763eb56a, 1482, 696, 103, 198, 103, 415},
	} {
		q := Query{Client: address(tt.client), ClientPort: 12345}
		key, withPort := clientKey(&q), clientPortKey(&q)
		for _, x := range []struct {
			what      string
			got, want uint32
		}{
			{"first hash", sip13(key, mhKey1), tt.h1},
			{"second hash", sip13(key, mhKey2), tt.h2},
			{"mh slot", mhSlot(key, 0), tt.mh},
			{"mh slot with port", mhSlot(withPort, 0), tt.mhPort},
			{"sh bucket", shSlot(key, 0), tt.sh},
			{"sh bucket with port", shSlot(withPort, 0), tt.shPort},
			{"dh bucket", hash32(key, dhBits), tt.dh},
			{"lblc bucket", hash32(key, cacheBits), tt.lblc},
		} {
			if x.got != x.want {
				t.Errorf("%s: %s %#x, want %#x", tt.client, x.what, x.got, x.want)
			}
		}
	}
}

func TestFoldIPv6(t *testing.T) {
	a := address("1111:2222:3333:4444:5555:6666:7777:8888")
	if got, want := fold(&a), uint32(0x11112222^0x33334444^0x55556666^0x77778888); got != want {
		t.Errorf("fold(%s) = %#x, want %#x", a, got, want)
	}
}

// TestMaglevTables are the tables of section 1.5, of 4093 slots.
func TestMaglevTables(t *testing.T) {
	for _, tt := range []struct {
		weights [3]int32 // of .1, .2, .3
		slots   [3]int
		first   string
	}{
		{[3]int32{1, 1, 1}, [3]int{1364, 1364, 1365}, "333132323121"},
		{[3]int32{5, 2, 1}, [3]int{2557, 1024, 512}, "311132112121"},
	} {
		var dests []Dest
		for i := range tt.weights {
			id := uint32(3 - i)
			dests = append(dests, dest(id, fmt.Sprintf("10.1.0.%d", id), 80, tt.weights[id-1]))
		}
		var slots [3]int
		var first []byte
		for _, i := range mhTable(0, dests) {
			id := dests[i].ID
			slots[id-1]++
			if len(first) < len(tt.first) {
				first = append(first, '0'+byte(id))
			}
		}
		if slots != tt.slots || string(first) != tt.first {
			t.Errorf("weights %v: slots %v, first %s, want %v, %s", tt.weights, slots, first, tt.slots, tt.first)
		}
	}
}

// TestMaglevWeightZero: a server that is quiesced keeps its slots (K-DST-5),
// one that was added with weight 0 has none.
func TestMaglevWeightZero(t *testing.T) {
	svc := newService("mh", 0)
	svc.add(dest(1, "10.1.0.1", 80, 1))
	svc.add(dest(2, "10.1.0.2", 80, 1))
	before := svc.plan.(*table)
	svc.weigh(1, 0)
	after := svc.plan.(*table)
	if &before.slots[0] != &after.slots[0] {
		t.Error("the table was filled anew for a weight that went to 0")
	}
	if after.dests[1].Weight != 0 {
		t.Error("the plan has the old weight")
	}
	svc.add(dest(3, "10.1.0.3", 80, 0))
	for slot, i := range svc.plan.(*table).slots {
		if svc.dests[i].ID == 3 {
			t.Fatalf("slot %d belongs to a server that never had a weight", slot)
		}
	}
}

// TestMaglevLimit: more servers than slots have no table (the kernel's EINVAL).
func TestMaglevLimit(t *testing.T) {
	dests := make([]Dest, MaxMaglev+1)
	for i := range dests {
		dests[i] = dest(uint32(i), "10.0.0.1", uint16(i), 1)
	}
	if mhTable(0, dests) != nil {
		t.Errorf("%d servers have a table", len(dests))
	}
	owners := map[uint16]bool{}
	for _, i := range mhTable(0, dests[:MaxMaglev]) {
		owners[i] = true
	}
	if len(owners) != MaxMaglev {
		t.Errorf("%d of %d servers have a slot", len(owners), MaxMaglev)
	}
}

// TestShBuckets: each server takes as many buckets in a row as it has weight,
// one at weight 0, in list order.
func TestShBuckets(t *testing.T) {
	dests := []Dest{dest(3, "10.0.0.3", 80, 0), dest(2, "10.0.0.2", 80, 2), dest(1, "10.0.0.1", 80, 3)}
	slots := shTable(dests)
	for i, want := range []uint16{0, 1, 1, 2, 2, 2, 0, 1, 1} {
		if slots[i] != want {
			t.Errorf("bucket %d has server %d, want %d", i, slots[i], want)
		}
	}
}
