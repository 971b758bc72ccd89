package ipvsadm

import (
	"fmt"
	"math/bits"
)

// verb is a command of the command line.
type verb uint8

const (
	noVerb verb = iota
	addService
	editService
	deleteService
	flush
	list
	addServer
	deleteServer
	editServer
	setTimeouts
	startDaemon
	stopDaemon
	restore
	save
	zero
	help
	version
)

// verbNames are as messages call them: -C is flush there.
var verbNames = [...]string{
	addService: "add-service", editService: "edit-service", deleteService: "delete-service", flush: "flush",
	list: "list", addServer: "add-server", deleteServer: "delete-server", editServer: "edit-server",
	setTimeouts: "set", startDaemon: "start-daemon", stopDaemon: "stop-daemon",
	restore: "restore", save: "save", zero: "zero", help: "help", version: "version",
}

// option is what an argument sets; several spellings may set the same. The
// order is that in which ipvsadm checks them.
type option uint8

const (
	optNumeric option = iota
	optConnection
	optService
	optScheduler
	optPersistent
	optNetmask
	optServer
	optForward
	optWeight
	optUpper
	optLower
	optInterface
	optTimeout
	optDaemon
	optStats
	optRate
	optThresholds
	optPersistentConn
	optNoSort
	optSyncID
	optExact
	optOnePacket
	optEngine
	optFlags
	optGroup
	optPort
	optTTL
	optMaxLen
	optTunInfo
	optTunType
	optTunPort
	optTunNoCsum
	optTunCsum
	optTunRemCsum
	optionCount
	noOption // an argument that is always legal
)

// optionNames are as messages call them.
var optionNames = [optionCount]string{
	"numeric", "connection", "service-address", "scheduler", "persistent", "netmask", "real-server",
	"forwarding-method", "weight", "u-threshold", "l-threshold", "mcast-interface", "timeout", "daemon", "stats",
	"rate", "thresholds", "persistent-conn", "nosort", "syncid", "exact", "ops", "pe", "sched-flags", "mcast-group",
	"mcast-port", "mcast-ttl", "sync-maxlen", "tun-info", "tun-type", "tun-port", "tun-nocsum", "tun-csum", "tun-remcsum",
}

// options is a set of options, a bit each.
type options uint64

func set(o ...option) (s options) {
	for _, x := range o {
		s |= 1 << x
	}
	return s
}

// has says whether any of o is in s.
func (s options) has(o ...option) bool { return s&set(o...) != 0 }

// rules say which options go with a command or with a tunnel type. What is in
// no set is illegal.
type rules struct {
	required  options
	optional  options
	exclusive options // at most one of them
}

// tunnelOptions are those that describe the outer header.
var tunnelOptions = set(optTunType, optTunPort, optTunNoCsum, optTunCsum, optTunRemCsum)

// serviceOptions describe a service, serverOptions a real server.
var (
	serviceOptions = set(optScheduler, optPersistent, optNetmask, optOnePacket, optEngine, optFlags)
	serverOptions  = set(optForward, optWeight, optUpper, optLower) | tunnelOptions
)

// verbRules holds each command to its options; -h and -v look at none.
var verbRules = [...]rules{
	addService:    {required: set(optService), optional: serviceOptions},
	editService:   {required: set(optService), optional: serviceOptions},
	deleteService: {required: set(optService)},
	list: {
		optional: set(optNumeric, optStats, optRate, optThresholds, optPersistentConn, optNoSort, optSyncID,
			optExact, optTunInfo),
		exclusive: set(optConnection, optService, optTimeout, optDaemon),
	},
	addServer:    {required: set(optService, optServer), optional: serverOptions},
	deleteServer: {required: set(optService, optServer)},
	editServer:   {required: set(optService, optServer), optional: serverOptions},
	startDaemon:  {optional: set(optInterface, optSyncID, optGroup, optPort, optTTL, optMaxLen)},
	stopDaemon:   {optional: set(optSyncID)},
	save:         {optional: set(optNumeric)},
	zero:         {optional: set(optService)},
}

// tunnelRules holds each tunnel type to its options (K-FWD-TUN-FLAGS).
var tunnelRules = [...]rules{
	{optional: set(optTunType)},
	{required: set(optTunPort), optional: set(optTunType), exclusive: set(optTunNoCsum, optTunCsum, optTunRemCsum)},
	{optional: set(optTunType), exclusive: set(optTunNoCsum, optTunCsum)},
}

// check returns the first fault of the options given, in ipvsadm's words. of
// says what the rules are of: "command" or "tunnel type".
func (r *rules) check(given options, of, name string) error {
	last := noOption
	for todo := given | r.required; todo != 0; todo &= todo - 1 {
		o := option(bits.TrailingZeros64(uint64(todo)))
		switch {
		case !given.has(o):
			return fault("You need to supply the '%s' option for the '%s' %s", optionNames[o], name, of)
		case !(r.required | r.optional | r.exclusive).has(o):
			return fault("Illegal '%s' option with the '%s' %s", optionNames[o], name, of)
		case !r.exclusive.has(o):
		case last != noOption:
			return fault("The option '%s' conflicts with the '%s' option in the '%s' %s",
				optionNames[o], optionNames[last], name, of)
		default:
			last = o
		}
	}
	return nil
}

// failure ends a run: a fault of the command line, or of what it asks to see.
type failure struct {
	text string
	exit int
	mild bool // in the input of -R, it ends its line only
}

// Error returns the text.
func (f *failure) Error() string { return f.text }

// Exit statuses, but for those of refusals (lb.Error.ExitCode).
const (
	exitAbsent  = 1   // what was to be listed is not there
	exitUsage   = 2   // a fault of the command line
	exitRefused = 255 // what the parser of options or the backend refuses
)

// fault returns a failure of the command line with ipvsadm's own text.
func fault(format string, args ...any) error {
	return &failure{text: fmt.Sprintf(format, args...), exit: exitUsage}
}
