package lb

import "syscall"

// Error is a refusal with the text that ipvsadm prints for it. Compare with
// errors.Is; the errors that methods return also name service and server.
type Error struct {
	Text  string
	Errno syscall.Errno // the kernel's number (K-CTL-3); 0: ipvsadm itself refuses
}

// Error returns the text.
func (e *Error) Error() string { return e.Text }

// ExitCode returns what ipvsadm exits with: 255 for what the kernel refuses, 2
// for what does not get that far.
func (e *Error) ExitCode() int {
	if e.Errno == 0 {
		return 2
	}
	return 255
}

// Refusals of the director (K-CTL-3; texts as measured with ipvsadm 1.31).
var (
	ErrServiceExists  = &Error{"Service already exists", syscall.EEXIST}
	ErrNoService      = &Error{"No such service", syscall.ESRCH}
	ErrServiceUnknown = &Error{"Service not defined", syscall.ESRCH} // a server of a service that is not there
	ErrRealExists     = &Error{"Destination already exists", syscall.EEXIST}
	ErrNoReal         = &Error{"No such destination", syscall.ENOENT}
	ErrScheduler      = &Error{"Scheduler or persistence engine not found", syscall.ENOENT}
	ErrRange          = &Error{"Numerical result out of range", syscall.ERANGE}
	ErrInvalid        = &Error{"Invalid operation.  Possibly wrong module version, address not unicast, ...", syscall.EINVAL}
	ErrWeight         = &Error{"illegal weight specified", 0}
	ErrZeroPort       = &Error{"Zero port specified for non-persistent service", 0}
	ErrFamily         = &Error{"Different address family is allowed only for tunneling servers", 0}
	ErrOnePacket      = &Error{"One-Packet Scheduling is only for UDP virtual services", 0}
	ErrMark           = &Error{"invalid fwmark value `0' specified", 0}
	ErrAddress        = &Error{"illegal virtual server address[:port] specified", 0}
	ErrPersistence    = &Error{"illegal timeout or netmask of a persistent service", 0}
	ErrTunnelPort     = &Error{"You need to supply the 'tun-port' option for the 'gue' tunnel type", 0}
	ErrName           = &Error{"service name already in use", 0}
	ErrMarkRule       = &Error{"illegal mark rule", 0}
)
