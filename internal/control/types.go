// Package control is how a running node is looked at and steered: the local
// API (HTTP and JSON over a unix socket), its server, its client, and the
// documents that they exchange.
//
// The Server asks a Node, which the command that runs the fast path provides;
// the documents are copies and belong to whoever asked. The same documents
// are what `sluice replay --state` writes.
package control

import (
	"time"

	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/slowpath/punt"
	"github.com/sluice-lb/sluice/workers"
)

// Service is one virtual service with its real servers.
type Service struct {
	Name               string   `json:"name,omitempty"`
	Protocol           string   `json:"protocol"` // tcp, udp or sctp; "" of a mark service
	Address            string   `json:"address"`
	Port               uint16   `json:"port"`
	FWMark             uint32   `json:"fwmark"`
	Family             string   `json:"family"` // ipv4 or ipv6
	Scheduler          string   `json:"scheduler"`
	Flags              []string `json:"flags"`
	PersistenceTimeout int      `json:"persistence_timeout"` // seconds, 0: none
	OnePacket          bool     `json:"one_packet"`
	MSS                string   `json:"mss,omitempty"` // "auto" or a number; "" if it is off
	Stats              Stats    `json:"stats"`
	Servers            []Real   `json:"servers"` // newest first, as the kernel walks them
}

// Real is one real server of a service.
type Real struct {
	Address    string `json:"address"`
	Port       uint16 `json:"port"`
	Forward    string `json:"forward"` // nat, dr, tun or local
	Weight     int32  `json:"weight"`
	Active     int32  `json:"active"`
	Inactive   int32  `json:"inactive"`
	Persistent int32  `json:"persistent"`
	PathMTU    uint16 `json:"path_mtu,omitempty"` // of the way to a TUN server, as ICMP errors told
	Stats      Stats  `json:"stats"`
}

// Stats are the counters of a service or server (K-STAT-1), bytes of IP.
type Stats struct {
	Conns      uint64 `json:"conns"`
	InPackets  uint64 `json:"inpkts"`
	OutPackets uint64 `json:"outpkts"`
	InBytes    uint64 `json:"inbytes"`
	OutBytes   uint64 `json:"outbytes"`
}

// Conn is one connection.
type Conn struct {
	Protocol    string  `json:"protocol"`
	Client      string  `json:"client"`
	ClientPort  uint16  `json:"client_port"`
	Virtual     string  `json:"virtual"`
	VirtualPort uint16  `json:"virtual_port"`
	Server      string  `json:"server"`
	ServerPort  uint16  `json:"server_port"`
	State       string  `json:"state"`   // the kernel's name
	Expires     float64 `json:"expires"` // seconds, one decimal
	Template    bool    `json:"template"`
	Worker      int     `json:"worker"`
}

// Status is the node at a glance.
type Status struct {
	Node        string         `json:"node"`
	Version     string         `json:"version"`
	PID         int            `json:"pid"`
	Started     time.Time      `json:"started"`
	ConfigFile  string         `json:"config_file"`
	Generation  uint64         `json:"generation"` // of the services in force
	LastReload  *ReloadSummary `json:"last_reload,omitempty"`
	CPUModel    string         `json:"cpu_model"`
	Variant     string         `json:"variant"` // of the hand-tuned pieces
	Services    int            `json:"services"`
	Servers     int            `json:"servers"`
	Connections int            `json:"connections"`
	MaxConns    int            `json:"max_connections"`
	Interfaces  []Interface    `json:"interfaces"`
	Workers     []Worker       `json:"workers"`
	Totals      workers.Totals `json:"counters"`
	SlowPath    SlowPath       `json:"slow_path"`
	Tap         punt.Counters  `json:"tap"`
}

// Interface is one NIC of the node.
type Interface struct {
	Name     string `json:"name"`
	Role     string `json:"role"`
	MAC      string `json:"mac"`
	MTU      int    `json:"mtu"`
	Up       bool   `json:"up"`
	Bond     string `json:"bond,omitempty"` // of a bond: its mode
	Mode     string `json:"mode"`           // zerocopy, driver or generic: what was bound
	Queues   []int  `json:"queues"`
	Steering string `json:"steering"` // whether the NIC hashes to the owners
	// Redirected and Passed count what the XDP program did, in packets.
	Redirected uint64 `json:"xdp_redirected"`
	Passed     uint64 `json:"xdp_passed"`
	// XDP counts the same frames by the program's reasons.
	XDP     map[string]uint64 `json:"xdp_reasons"`
	Members []Member          `json:"members,omitempty"` // of a bond, those that are served
}

// Member is a NIC that carries a bond's frames. The bond counts those of members that
// left, too.
type Member struct {
	Name       string `json:"name"`
	Sends      bool   `json:"sends"` // the bond's frames leave by it now
	Mode       string `json:"mode"`
	Steering   string `json:"steering"`
	Redirected uint64 `json:"xdp_redirected"`
	Passed     uint64 `json:"xdp_passed"`
}

// Worker is one worker.
type Worker struct {
	ID          int               `json:"id"`
	CPU         int               `json:"cpu"` // -1: not pinned
	Idle        string            `json:"idle"`
	Connections int               `json:"connections"`
	Received    uint64            `json:"received"`
	Transmitted uint64            `json:"transmitted"`
	HandedOver  uint64            `json:"handed_over"` // to other workers
	HandedIn    uint64            `json:"handed_in"`   // by other workers
	Sleeps      uint64            `json:"sleeps"`
	Turns       uint64            `json:"turns"`
	Originated  uint64            `json:"originated"` // ICMP errors and released packets
	Ports       []rings.PortStats `json:"ports"`      // in the order of the node's interfaces
}

// ReloadSummary is the last reload in numbers.
type ReloadSummary struct {
	At      time.Time `json:"at"`
	Error   string    `json:"error,omitempty"` // not empty: nothing was changed
	Added   int       `json:"added"`
	Removed int       `json:"removed"`
	Edited  int       `json:"edited"`
	Touched int       `json:"touched_connections"`
	Seconds float64   `json:"seconds"`
}

// SlowPath is what the slow path did with the packets that it was given, by
// what was asked of it and how they ended, which packets it did not take, by
// class and reason, and how its ICMP errors ended. What did not happen is left out.
type SlowPath struct {
	Packets    map[string]map[string]uint64 `json:"packets"`
	Refused    map[string]map[string]uint64 `json:"refused"`
	Errors     map[string]uint64            `json:"errors"`
	Held       int                          `json:"held"`
	HeldErrors int                          `json:"held_errors"`
	FTP        *FTP                         `json:"ftp,omitempty"` // nil: no helper
}

// FTP is what the FTP helper counts.
type FTP struct {
	Sessions  int64             `json:"sessions"`  // command connections that have announced something, now
	Expected  int64             `json:"expected"`  // announced data connections that wait, now
	Announced uint64            `json:"announced"` // data connections
	Begun     uint64            `json:"begun"`     // of these
	Expired   uint64            `json:"expired"`   // of these
	Rewritten uint64            `json:"rewritten"` // replies of servers
	Refused   map[string]uint64 `json:"refused"`   // packets, by reason; what did not happen is left out
}

// AllStats are the counters of a node: everything that `sluice stats` shows.
type AllStats struct {
	Totals   workers.Totals `json:"counters"`
	SlowPath SlowPath       `json:"slow_path"`
	Tap      punt.Counters  `json:"tap"`
	Sum      Stats          `json:"sum"` // over all services
	Services []Service      `json:"services"`
}

// Reload says what a reload did.
type Reload struct {
	At      time.Time  `json:"at"`
	Error   string     `json:"error,omitempty"` // not empty: nothing was changed
	Changes lb.Changes `json:"changes"`
	// Touched counts the live connections of the servers that were removed or
	// edited.
	Touched int     `json:"touched_connections"`
	Seconds float64 `json:"seconds"`
}

// Admin is a command line of ipvsadm, without the program's name, and what it
// reads (-R).
type Admin struct {
	Args  []string `json:"args"`
	Stdin string   `json:"stdin,omitempty"`
}

// AdminResult is what it printed, and its exit status.
type AdminResult struct {
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
	Exit   int    `json:"exit"`
}

// Saved is the running state as a configuration file.
type Saved struct {
	YAML string `json:"yaml"`
}

// State is what `sluice replay --state` writes.
type State struct {
	Services    []Service      `json:"services"`
	Connections []Conn         `json:"connections"`
	Counters    workers.Totals `json:"counters"`
}
