package ipvsadm

import (
	"net/netip"
	"syscall"
	"time"

	"github.com/sluice-lb/sluice/lb"
)

// Backend is what the kernel is to ipvsadm: it holds the rules and knows what
// goes on. A refusal is an *lb.Error, whose text and exit status are
// ipvsadm's; any other error is shown as it is and ends with status 255.
type Backend interface {
	AddService(lb.ServiceSpec) error  // -A; s.Servers is empty
	EditService(lb.ServiceSpec) error // -E: everything but key, name and servers
	DeleteService(lb.ServiceKey) error
	Flush() error // -C
	AddReal(lb.ServiceKey, lb.RealSpec) error
	EditReal(lb.ServiceKey, lb.RealSpec) error
	DeleteReal(lb.ServiceKey, lb.RealKey) error
	// Batch has do make many changes on the Backend that it is given. Each is
	// as ever; that they take effect may wait for do's end (-R).
	Batch(do func(Backend) error) error

	// Zero makes counters and rates begin anew: those of one service and its
	// servers or, with nil, all (K-STAT-3).
	Zero(*lb.ServiceKey) error

	Timeouts() (lb.Timeouts, error)
	SetTimeouts(lb.Timeouts) error // whole seconds; 0 keeps what is

	// Services returns all services in a stable order of the backend's own
	// (--nosort), each with its servers, newest first (K-DST-2).
	Services() ([]Service, error)
	// Conns hands every connection and template to visit, in no order. What
	// visit is given is valid during the call alone.
	Conns(visit func(*Conn)) error

	StartDaemon(Daemon) error     // fields that are zero: the default
	StopDaemon(DaemonState) error // ErrNoDaemon if it does not run
	Daemons() ([]Daemon, error)   // those that run, with every default filled in
}

// Service is a virtual service as -L shows it.
type Service struct {
	Spec    lb.ServiceSpec // Servers is not used
	Servers []Server
	Stats   lb.Counters // since the last -Z
	Rates   Rates
}

// Server is a real server as -L shows it.
type Server struct {
	Spec                         lb.RealSpec
	Active, Inactive, Persistent uint32 // connections by K-CONN-7, and templates
	Stats                        lb.Counters
	Rates                        Rates
}

// Conn is a connection or a persistence template as -Lc shows it.
type Conn struct {
	Proto                   uint8 // IP protocol number; 0 of a mark service's template
	Client, Virtual, Server netip.AddrPort
	State                   string        // the kernel's name
	Expires                 time.Duration // from now
	Engine, EngineData      string        // persistence engine, of its templates
}

// DaemonState says which of the two synchronisation daemons is meant, and how
// ipvsadm calls it.
type DaemonState string

// The two daemons.
const (
	Master DaemonState = "master"
	Backup DaemonState = "backup"
)

// Daemon is a connection synchronisation daemon. Zero fields stand for
// the default that Fill sets.
type Daemon struct {
	State     DaemonState
	Interface string // default eth0
	SyncID    uint8
	MaxLen    uint16     // of a message, UDP payload in bytes
	Group     netip.Addr // default 224.0.0.81
	Port      uint16     // default 8848
	TTL       uint8      // default 1
}

// Fill sets the defaults of d, on an interface with that MTU in bytes: a
// message is as long as a datagram on it can be, of MTU 1500 at most
// (measured with Linux 6.1).
func (d *Daemon) Fill(mtu int) {
	if d.Interface == "" {
		d.Interface = defaultInterface
	}
	if !d.Group.IsValid() {
		d.Group = netip.AddrFrom4([4]byte{224, 0, 0, 81})
	}
	if d.Port == 0 {
		d.Port = 8848
	}
	if d.TTL == 0 {
		d.TTL = 1
	}
	if d.MaxLen == 0 {
		headers := 20 + 8
		if d.Group.Is6() {
			headers = 40 + 8
		}
		d.MaxLen = uint16(max(min(mtu, 1500)-headers, 0))
	}
}

// defaultInterface is the multicast interface of a daemon that was given none.
const defaultInterface = "eth0"

// Refusals of daemons (K-CTL-3), as the director's in lb.
var (
	ErrDaemonRuns  = &lb.Error{Text: "Daemon has already run", Errno: syscall.EEXIST}
	ErrNoDaemon    = &lb.Error{Text: "No daemon is running", Errno: syscall.ESRCH}
	ErrNoDevice    = &lb.Error{Text: "No such device", Errno: syscall.ENODEV}
	ErrUnsupported = &lb.Error{Text: "Protocol not available", Errno: syscall.ENOPROTOOPT}
)
