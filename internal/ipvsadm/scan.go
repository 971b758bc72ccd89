package ipvsadm

import (
	"slices"
	"strings"

	"github.com/sluice-lb/sluice/lb"
)

// argument is one spelling that the command line knows: a long form, perhaps
// a letter, and what it means.
type argument struct {
	long  string
	short byte // 0: none
	value valueKind
	verb  verb
	opt   option
	apply func(c *command, value string, env *Env) error // nil: nothing but the option
}

// valueKind says whether an argument has a value.
type valueKind uint8

const (
	none     valueKind = iota
	required           // "-w 3", "-w3", "-w=3", "--weight 3", "--weight=3"
	perhaps            // the same, but the next word only if it does not begin with "-"
)

// arguments is everything the command line knows. It is filled by init, as
// what is applied looks back at it.
var arguments []argument

func init() {
	arguments = []argument{
		{long: "add-service", short: 'A', verb: addService},
		{long: "edit-service", short: 'E', verb: editService},
		{long: "delete-service", short: 'D', verb: deleteService},
		{long: "clear", short: 'C', verb: flush},
		{long: "list", short: 'L', verb: list},
		{short: 'l', verb: list},
		{long: "zero", short: 'Z', verb: zero},
		{long: "add-server", short: 'a', verb: addServer},
		{long: "edit-server", short: 'e', verb: editServer},
		{long: "delete-server", short: 'd', verb: deleteServer},
		{long: "set", verb: setTimeouts},
		{long: "help", short: 'h', verb: help},
		{long: "version", short: 'v', verb: version},
		{long: "restore", short: 'R', verb: restore},
		{long: "save", short: 'S', verb: save},
		{long: "start-daemon", value: required, verb: startDaemon, apply: daemonState("illegal start-daemon parameter specified")},
		{long: "stop-daemon", value: required, verb: stopDaemon, apply: daemonState("illegal start_daemon specified")},

		{long: "tcp-service", short: 't', value: required, opt: optService, apply: serviceAddress(lb.ProtoTCP)},
		{long: "udp-service", short: 'u', value: required, opt: optService, apply: serviceAddress(lb.ProtoUDP)},
		{long: "sctp-service", value: required, opt: optService, apply: serviceAddress(lb.ProtoSCTP)},
		{long: "fwmark-service", short: 'f', value: required, opt: optService, apply: (*command).setMark},
		{long: "ipv6", short: '6', opt: noOption, apply: (*command).setIPv6},
		{long: "scheduler", short: 's', value: required, opt: optScheduler, apply: (*command).setScheduler},
		{long: "pe", value: required, opt: optEngine, apply: (*command).setEngine},
		{long: "persistent", short: 'p', value: perhaps, opt: optPersistent, apply: (*command).setPersistence},
		{long: "netmask", short: 'M', value: required, opt: optNetmask, apply: (*command).setNetmask},
		{long: "sched-flags", short: 'b', value: required, opt: optFlags, apply: (*command).setFlags},
		{long: "ops", short: 'o', opt: optOnePacket},

		{long: "real-server", short: 'r', value: required, opt: optServer, apply: (*command).setServer},
		{long: "masquerading", short: 'm', opt: optForward, apply: forward(lb.NAT)},
		{long: "ipip", short: 'i', opt: optForward, apply: forward(lb.TUN)},
		{long: "gatewaying", short: 'g', opt: optForward, apply: forward(lb.DR)},
		{long: "weight", short: 'w', value: required, opt: optWeight, apply: (*command).setWeight},
		{long: "u-threshold", short: 'x', value: required, opt: optUpper, apply: (*command).setUpper},
		{long: "l-threshold", short: 'y', value: required, opt: optLower, apply: (*command).setLower},
		{long: "tun-type", value: required, opt: optTunType, apply: (*command).setTunnelType},
		{long: "tun-port", value: required, opt: optTunPort, apply: (*command).setTunnelPort},
		{long: "tun-nocsum", opt: optTunNoCsum, apply: tunnelChecksum(lb.ChecksumNone)},
		{long: "tun-csum", opt: optTunCsum, apply: tunnelChecksum(lb.Checksum)},
		{long: "tun-remcsum", opt: optTunRemCsum, apply: tunnelChecksum(lb.ChecksumRemote)},

		{long: "numeric", short: 'n', opt: optNumeric},
		{long: "connection", short: 'c', opt: optConnection},
		{long: "timeout", opt: optTimeout},
		{long: "daemon", opt: optDaemon},
		{long: "stats", opt: optStats},
		{long: "rate", opt: optRate},
		{long: "thresholds", opt: optThresholds},
		{long: "persistent-conn", opt: optPersistentConn},
		{long: "tun-info", opt: optTunInfo},
		{long: "nosort", opt: optNoSort},
		{long: "sort", opt: noOption},
		{long: "exact", short: 'X', opt: optExact},

		{long: "mcast-interface", value: required, opt: optInterface, apply: (*command).setInterface},
		{long: "syncid", value: required, opt: optSyncID, apply: (*command).setSyncID},
		{long: "sync-maxlen", value: required, opt: optMaxLen, apply: (*command).setMaxLen},
		{long: "mcast-group", value: required, opt: optGroup, apply: (*command).setGroup},
		{long: "mcast-port", value: required, opt: optPort, apply: (*command).setPort},
		{long: "mcast-ttl", value: required, opt: optTTL, apply: (*command).setTTL},
	}
}

// scanner takes a command line apart the way popt does: letters may be
// bundled, a value may follow its letter or name at once, after "=" or as the
// next word, there are no abbreviations, and words that are no options are set
// aside wherever they stand.
type scanner struct {
	words  []string
	next   int
	bundle string   // letters of the last word that are still to come
	last   string   // the last word taken, as messages quote it
	rest   []string // words that are no options
}

// scan returns the next argument and its value; nil: there is none.
func (s *scanner) scan() (a *argument, value string, given bool, err error) {
	for s.bundle == "" {
		if s.next == len(s.words) {
			return nil, "", false, nil
		}
		word := s.words[s.next]
		s.next++
		switch {
		case word == "--":
			s.rest = append(s.rest, s.words[s.next:]...)
			s.next = len(s.words)
		case word == "-" || !strings.HasPrefix(word, "-"):
			s.rest = append(s.rest, word)
		case strings.HasPrefix(word, "--"):
			s.last = word
			name, value, attached := strings.Cut(word[2:], "=")
			i := slices.IndexFunc(arguments, func(a argument) bool { return a.long != "" && a.long == name })
			return s.found(i, value, attached)
		default:
			s.last, s.bundle = word, word[1:]
		}
	}
	letter := s.bundle[0]
	s.bundle = s.bundle[1:]
	i := slices.IndexFunc(arguments, func(a argument) bool { return a.short == letter && letter != 0 })
	value, attached := "", false
	switch {
	case i >= 0 && arguments[i].value != none && s.bundle != "":
		value, attached = strings.TrimPrefix(s.bundle, "="), true
		s.bundle = ""
	case strings.HasPrefix(s.bundle, "="):
		attached = true
	}
	return s.found(i, value, attached)
}

// found completes what was recognised as arguments[i], -1 for nothing.
func (s *scanner) found(i int, value string, attached bool) (*argument, string, bool, error) {
	if i < 0 {
		return nil, "", false, s.fault("unknown option")
	}
	a := &arguments[i]
	switch {
	case a.value == none && attached:
		return nil, "", false, s.fault("option does not take an argument")
	case a.value == none || attached:
		return a, value, attached, nil
	case s.next < len(s.words) && (a.value == required || !strings.HasPrefix(s.words[s.next], "-")):
		s.last = s.words[s.next]
		s.next++
		return a, s.last, true, nil
	case a.value == required:
		return nil, "", false, s.fault("missing argument")
	}
	return a, "", false, nil
}

// fault returns popt's message about the last word.
func (s *scanner) fault(text string) error {
	return &failure{text: s.last + ": " + text, exit: exitRefused, mild: true}
}
