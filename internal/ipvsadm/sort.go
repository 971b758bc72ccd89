package ipvsadm

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/sluice-lb/sluice/lb"
)

// order returns the services and their servers as -L shows them by default:
// services by mark, family, protocol, address and port, servers by address
// and port. What it is given stays as it is.
func order(services []Service) []Service {
	sorted := mergeSort(services, compareServices)
	for i := range sorted {
		sorted[i].Servers = mergeSort(sorted[i].Servers, compareServers)
	}
	return sorted
}

// savedOrder returns the services and their servers as -S writes them. That is
// the order of -L, but what was added in that order keeps the order in which
// it was added: where addresses compare in circles, there are several such
// orders, and rules that were saved and restored must be saved the same again.
func savedOrder(services []Service) []Service {
	saved := slices.Clone(services)
	if !slices.IsSortedFunc(saved, byValue(compareServices)) {
		saved = mergeSort(saved, compareServices)
	}
	for i := range saved {
		added := slices.Clone(saved[i].Servers)
		slices.Reverse(added) // they are newest first
		if !slices.IsSortedFunc(added, byValue(compareServers)) {
			added = mergeSort(saved[i].Servers, compareServers)
		}
		saved[i].Servers = added
	}
	return saved
}

func byValue[T any](compare func(a, b *T) int) func(a, b T) int {
	return func(a, b T) int { return compare(&a, &b) }
}

func compareServices(a, b *Service) int {
	x, y := &a.Spec.Key, &b.Spec.Key
	marks := cmp.Compare(int32(x.Mark), int32(y.Mark)) // ipvsadm has them signed: those from 2^31 on come first
	return cmp.Or(marks, cmp.Compare(b2i(x.Is6()), b2i(y.Is6())), cmp.Compare(x.Proto, y.Proto),
		compareAddrs(x.Addr, y.Addr), cmp.Compare(x.Port, y.Port))
}

func compareServers(a, b *Server) int {
	x, y := &a.Spec.Key, &b.Spec.Key
	return cmp.Or(compareAddrs(x.Addr, y.Addr), cmp.Compare(x.Port, y.Port))
}

// compareAddrs compares addresses by words of 32 bits, an IPv4 address being
// one word.
func compareAddrs(a, b netip.Addr) int {
	x, y := addrWords(a), addrWords(b)
	for i := range x {
		if c := serial(x[i], y[i]); c != 0 {
			return c
		}
	}
	return 0
}

func addrWords(a netip.Addr) (w [4]uint32) {
	if a.Is6() {
		b := a.As16()
		for i := range w {
			w[i] = binary.BigEndian.Uint32(b[4*i:])
		}
	} else if a.IsValid() {
		b := a.As4()
		w[0] = binary.BigEndian.Uint32(b[:])
	}
	return w
}

// serial compares by the sign of the difference in 32 bits, as ipvsadm 1.31
// does: what is more than half the range apart compares the wrong way round,
// so that 192.168.0.1 stands before 10.0.0.1, and 10.0.0.1 before 127.0.0.1
// before 192.168.0.1.
func serial(a, b uint32) int { return cmp.Compare(int32(a-b), 0) }

// mergeSort sorts like the C library that ipvsadm was measured with, in which
// halves are sorted and then merged: with an order that runs in circles, as
// serial's does, the algorithm decides the outcome.
func mergeSort[T any](s []T, compare func(a, b *T) int) []T {
	if len(s) < 2 {
		return append([]T(nil), s...)
	}
	half := len(s) / 2
	a, b := mergeSort(s[:half], compare), mergeSort(s[half:], compare)
	out := make([]T, 0, len(s))
	for len(a) > 0 && len(b) > 0 {
		if compare(&a[0], &b[0]) <= 0 {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// find returns the service of that key, nil if there is none.
func find(services []Service, key lb.ServiceKey) *Service {
	for i := range services {
		if services[i].Spec.Key == key {
			return &services[i]
		}
	}
	return nil
}
