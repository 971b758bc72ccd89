// Package testnet builds small networks out of network namespaces, for tests,
// benchmarks and the demo.
//
// A Network owns everything it made: namespaces, veth pairs, switches,
// processes, decapsulators. The namespaces have no name in the file system:
// they live as long as this process and its Network do, so that even kill -9
// leaves nothing behind. Methods may be called from any goroutine.
//
// Every interface has its offloads off. A veth carries the packets of local
// sockets unfinished, with checksums that nobody has computed, segments longer
// than the MTU and VLAN tags beside the packet, and whoever reads frames from an
// AF_XDP socket gets them in that state. No wire does this.
package testnet

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
)

// Plan says what a Network is made of. Ends and the lists that follow name
// namespaces in their field In; each name that occurs becomes a namespace.
type Plan struct {
	Namespaces []string // further ones, that nothing else names
	Links      []Link
	Switches   []Switch
	VIPs       []VIP
	Sysctls    []Sysctl
	Routes     []Route
	Neighbors  []Neighbor
}

// Link is a veth pair, a cable between two namespaces (or within one).
type Link struct{ A, B End }

// Switch joins its Ends at layer 2 by a bridge, which has a namespace of its
// own: In(Name), with one port named after each End's namespace.
type Switch struct {
	Name string
	MTU  int // of the bridge's ports; 0: 1500
	Ends []End
}

// End is an interface in a namespace.
type End struct {
	In       string   // the namespace
	Name     string   // of the interface, at most 15 bytes
	MAC      string   // "02:00:00:00:00:01"; empty: the kernel's choice
	Addrs    []string // prefixes, "10.0.1.1/24"
	MTU      int      // 0: 1500
	RxQueues int      // 0: 1
	TxQueues int      // 0: 1; at most the peer's RxQueues if the peer runs an XDP program
}

// VIP is a virtual address on a real server: on lo, where DR and TUN want it.
// An IPv4 one is kept out of ARP: the director answers for it.
type VIP struct{ In, Addr string }

// Sysctl sets a kernel parameter, "net.ipv4.ip_forward", of a namespace.
type Sysctl struct{ In, Key, Value string }

// Route is a route of a namespace. To is a prefix, or "default" (of Via's
// family); Via may be empty for what is on the link, Dev where Via says it.
type Route struct{ In, To, Via, Dev string }

// Neighbor is a permanent entry of a namespace's ARP or neighbour table.
type Neighbor struct{ In, Dev, Addr, MAC string }

// ErrNotRoot reports that making namespaces needs root (CAP_SYS_ADMIN and
// CAP_NET_ADMIN).
var ErrNotRoot = errors.New("network namespaces need root")

// Network is a set of namespaces and what connects them.
type Network struct {
	mu         sync.Mutex
	namespaces map[string]*Namespace
	ends       []End
	closers    []func() error // undone last to first
	closed     bool
}

// Build makes what the plan says, addresses set and links up, or nothing.
// The caller must Close the Network.
func Build(plan Plan) (*Network, error) {
	if os.Geteuid() != 0 {
		return nil, ErrNotRoot
	}
	n := &Network{namespaces: map[string]*Namespace{}}
	if err := n.build(plan); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Network) build(plan Plan) error {
	for _, name := range plan.names() {
		s, err := openNamespace(name)
		if err != nil {
			return fmt.Errorf("namespace %s: %w", name, err)
		}
		n.namespaces[name] = s
	}
	steps := []func() error{
		func() error { return each("link", plan.Links, n.addLink) },
		func() error { return each("switch", plan.Switches, n.addSwitch) },
		n.awaitCarriers,
		n.addAddrs,
		func() error { return each("VIP", plan.VIPs, n.addVIP) },
		func() error { return each("sysctl", plan.Sysctls, n.setSysctl) },
		func() error { return each("route", plan.Routes, n.addRoute) },
		func() error { return each("neighbour", plan.Neighbors, n.setNeighbor) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) addVIP(v VIP) error           { return n.In(v.In).AddVIP(v.Addr) }
func (n *Network) setSysctl(v Sysctl) error     { return n.In(v.In).Sysctl(v.Key, v.Value) }
func (n *Network) addRoute(r Route) error       { return n.In(r.In).AddRoute(r.To, r.Via, r.Dev) }
func (n *Network) setNeighbor(v Neighbor) error { return n.In(v.In).SetNeighbor(v.Dev, v.Addr, v.MAC) }

func each[T any](what string, items []T, do func(T) error) error {
	for _, item := range items {
		if err := do(item); err != nil {
			return fmt.Errorf("%s %+v: %w", what, item, err)
		}
	}
	return nil
}

// names lists the namespaces of a plan, each once, in the order of their first use.
func (p *Plan) names() []string {
	names := slices.Clone(p.Namespaces)
	for _, l := range p.Links {
		names = append(names, l.A.In, l.B.In)
	}
	for _, w := range p.Switches {
		names = append(names, w.Name)
		for _, e := range w.Ends {
			names = append(names, e.In)
		}
	}
	for _, v := range p.VIPs {
		names = append(names, v.In)
	}
	for _, v := range p.Sysctls {
		names = append(names, v.In)
	}
	for _, r := range p.Routes {
		names = append(names, r.In)
	}
	for _, v := range p.Neighbors {
		names = append(names, v.In)
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(names, func(s string) bool {
		again := seen[s]
		seen[s] = true
		return again
	})
}

// In returns the namespace of that name. It panics if the plan named none such:
// that is a mistake in the caller's text.
func (n *Network) In(name string) *Namespace {
	s := n.namespaces[name]
	if s == nil {
		panic(fmt.Sprintf("testnet: no namespace %q in the plan", name))
	}
	return s
}

// onClose has undo called by Close, before what was registered earlier.
func (n *Network) onClose(undo func() error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closers = append(n.closers, undo)
}

// Close kills the processes that still run in the namespaces and removes all
// that was made. Further calls do nothing.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	var errs []error
	for _, undo := range slices.Backward(n.closers) {
		errs = append(errs, undo())
	}
	for _, s := range n.namespaces {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}
