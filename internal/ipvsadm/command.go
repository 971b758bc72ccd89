package ipvsadm

import (
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/sluice-lb/sluice/lb"
)

// Limits and defaults of ipvsadm 1.31.
const (
	maxTimeout         = 31 * 24 * 3600 // s
	defaultPersistence = 360 * time.Second
	defaultScheduler   = "wlc"
	maxMaxLen          = 65535 - 20 - 8 // bytes
)

// command is a command line that was understood. Options apply in the order in
// which they stand, and some look at what stood before them.
type command struct {
	verb  verb
	given options

	service lb.ServiceSpec
	proto   uint8         // of the service, by which its ports have names; 0: not known yet
	timeout time.Duration // of -p
	netmask int           // prefix length of -M; 0: the whole address
	mask    netip.Addr    // of IPv4, instead; not valid: the whole address
	engine  string
	flags   string
	real    lb.RealSpec

	timeouts lb.Timeouts
	daemon   Daemon
}

// parse understands a command line. nested says that it stands in the input
// of -R.
func parse(words []string, nested bool, env *Env) (*command, error) {
	c := &command{
		service: lb.ServiceSpec{Scheduler: defaultScheduler},
		timeout: defaultPersistence,
		real:    lb.RealSpec{Weight: 1, Forward: lb.DR},
	}
	s := &scanner{words: words}
	a, value, given, err := s.scan()
	if err != nil || a == nil || a.verb == noVerb || nested && a.verb == restore {
		return nil, &failure{text: tryHelp, exit: exitRefused}
	}
	c.verb = a.verb
	if c.verb == help || c.verb == version {
		return c, nil
	}
	for {
		if a.apply != nil && (given || a.value == none) {
			if err := a.apply(c, value, env); err != nil {
				return nil, err
			}
		}
		if a, value, given, err = s.scan(); err != nil {
			return nil, err
		}
		if a == nil {
			return c, c.complete(s.rest)
		}
		if err := c.mark(a, s.last); err != nil {
			return nil, err
		}
	}
}

// tryHelp is for command lines that do not begin with a command.
const tryHelp = "Try `ipvsadm -h' or 'ipvsadm --help' for more information."

// mark takes note of an option that was given.
func (c *command) mark(a *argument, word string) error {
	switch {
	case a.verb != noVerb:
		return fault("invalid option `%s'", word)
	case a.opt == noOption:
		return nil
	case c.given.has(a.opt):
		return fault("multiple '%s' options specified", optionNames[a.opt])
	}
	c.given |= set(a.opt)
	return nil
}

// complete checks the command line as a whole; rest are its words that are no
// options.
func (c *command) complete(rest []string) error {
	if c.verb == setTimeouts {
		var err error
		if rest, err = c.setTimeouts(rest); err != nil {
			return err
		}
	}
	if len(rest) > 0 {
		return fault("unexpected argument %s", rest[0])
	}
	if err := c.parseFlags(); err != nil {
		return err
	}
	if err := verbRules[c.verb].check(c.given, "command", verbNames[c.verb]); err != nil {
		return err
	}
	switch c.verb {
	case addService, editService:
		return c.completeService()
	case addServer, editServer:
		return c.completeServer()
	case list:
		if c.given.has(optConnection, optTimeout, optDaemon) && c.given.has(optStats, optRate, optThresholds) ||
			c.given.has(optTimeout, optDaemon) && c.given.has(optPersistentConn) {
			return fault("options conflicts in the list command")
		}
	}
	return nil
}

// setTimeouts takes the three values of --set and returns what follows them.
func (c *command) setTimeouts(rest []string) ([]string, error) {
	if len(rest) < 3 {
		return nil, fault("--set option requires 3 timeout values")
	}
	for i, t := range []*time.Duration{&c.timeouts.TCP, &c.timeouts.TCPFin, &c.timeouts.UDP} {
		n, ok := number(rest[i], 0, maxTimeout)
		if !ok {
			return nil, fault("invalid timeout value `%s' specified", rest[i])
		}
		*t = time.Duration(n) * time.Second
	}
	return rest[3:], nil
}

// parseFlags takes -b apart. It comes late, as the scheduler may follow it.
// Flags that another scheduler has are told from those that none has.
func (c *command) parseFlags() error {
	for flag := range strings.SplitSeq(c.flags, ",") {
		switch owner, _, _ := strings.Cut(flag, "-"); flag {
		case "":
			continue
		case "sh-fallback", "sh-port", "mh-fallback", "mh-port":
			if owner != c.service.Scheduler {
				return fault("incompatible scheduler flag `%s'", flag)
			}
		case "flag-1", "flag-2", "flag-3":
		default:
			return fault("invalid scheduler flag `%s'", flag)
		}
		c.service.SchedulerFlags = append(c.service.SchedulerFlags, flag)
	}
	return nil
}

// completeService checks a service that is to be added or edited.
func (c *command) completeService() error {
	s := &c.service
	persistent := c.given.has(optPersistent)
	s.OnePacket = c.given.has(optOnePacket)
	switch {
	case s.Key.Mark == 0 && s.Key.Port == 0 && !persistent: // K-SVC-6
		return fault("%s", lb.ErrZeroPort.Text)
	case s.Key.Mark == 0 && s.OnePacket && s.Key.Proto != lb.ProtoUDP: // K-CONN-8
		return fault("%s", lb.ErrOnePacket.Text)
	case persistent, c.engine != "" && c.engine != "sip": // an engine that nobody has is refused in either case
		s.Persistence = &lb.Persistence{Timeout: c.timeout, Prefix: c.netmask, Mask: c.mask, Engine: c.engine}
	}
	return nil
}

// completeServer checks a real server that is to be added or edited. Only
// masquerading changes ports, so the others' is the service's, but for a mark
// service, which has none.
func (c *command) completeServer() error {
	key := &c.service.Key
	if c.real.Key.Addr.Is6() != key.Is6() && c.real.Forward != lb.TUN { // K-PROTO-MIX
		return fault("%s", lb.ErrFamily.Text)
	}
	switch described := c.given & tunnelOptions; {
	case c.real.Forward == lb.TUN:
		t := c.real.Tunnel.Type
		if err := tunnelRules[t].check(described, "tunnel type", t.String()); err != nil {
			return err
		}
	case described != 0:
		return fault("Tunnel options conflict with forward method")
	}
	if c.real.Forward != lb.NAT && key.Mark == 0 {
		c.real.Key.Port = key.Port
	}
	return nil
}

func daemonState(text string) func(*command, string, *Env) error {
	return func(c *command, value string, _ *Env) error {
		c.daemon.State = DaemonState(value)
		if c.daemon.State != Master && c.daemon.State != Backup {
			return fault("%s", text)
		}
		return nil
	}
}

func serviceAddress(proto uint8) func(*command, string, *Env) error {
	return func(c *command, value string, env *Env) error {
		addr, port, _, ok := endpoint(value, proto, env)
		if !ok {
			return fault("%s", lb.ErrAddress.Text)
		}
		c.proto = proto
		c.service.Key = lb.ServiceKey{Proto: proto, Addr: addr, Port: port}
		if addr.Is6() {
			c.netmask, c.mask = 0, netip.Addr{}
		}
		return nil
	}
}

func (c *command) setMark(value string, _ *Env) error {
	mark, ok := number(value, 1, math.MaxUint32)
	if !ok {
		return fault("invalid fwmark value `%s' specified", value)
	}
	c.proto = lb.ProtoTCP // what the kernel files it under
	c.service.Key = lb.ServiceKey{Mark: uint32(mark)}
	return nil
}

func (c *command) setIPv6(string, *Env) error {
	if c.service.Key.Mark == 0 {
		return fault("-6 used before -f\n")
	}
	c.service.Key.V6 = true
	c.netmask, c.mask = 0, netip.Addr{}
	return nil
}

func (c *command) setScheduler(value string, _ *Env) error {
	if value != "" {
		c.service.Scheduler = value
	}
	return nil
}

func (c *command) setEngine(value string, _ *Env) error {
	c.engine = value
	return nil
}

func (c *command) setFlags(value string, _ *Env) error {
	c.flags = value
	return nil
}

// setPersistence takes the timeout of -p; without one the default stays.
func (c *command) setPersistence(value string, _ *Env) error {
	n, ok := number(value, 1, maxTimeout)
	if !ok {
		return fault("invalid timeout value `%s' specified", value)
	}
	c.timeout = time.Duration(n) * time.Second
	return nil
}

// setNetmask takes -M in the form of the family that is known so far: a later
// IPv6 address or -6 undoes it.
func (c *command) setNetmask(value string, _ *Env) error {
	if c.service.Key.Is6() {
		if c.netmask = leadingNumber(value); c.netmask < 1 || c.netmask > 128 {
			return fault("illegal ipv6 netmask specified")
		}
		return nil
	}
	mask, ok := aton(value)
	if !ok {
		return fault("illegal virtual server persistent mask specified")
	}
	c.mask = netip.AddrFrom4(mask)
	return nil
}

func (c *command) setServer(value string, env *Env) error {
	addr, port, given, ok := endpoint(value, c.proto, env)
	if !ok {
		return fault("illegal real server address[:port] specified")
	}
	if !given {
		port = c.service.Key.Port
	}
	c.real.Key = lb.RealKey{Addr: addr, Port: port}
	return nil
}

func forward(f lb.Forward) func(*command, string, *Env) error {
	return func(c *command, _ string, _ *Env) error {
		c.real.Forward = f
		return nil
	}
}

func (c *command) setWeight(value string, _ *Env) error {
	n, ok := number(value, 0, math.MaxInt32)
	if !ok {
		return fault("%s", lb.ErrWeight.Text)
	}
	c.real.Weight = int32(n)
	return nil
}

func (c *command) setUpper(value string, _ *Env) error {
	n, ok := number(value, 0, math.MaxInt32)
	if !ok {
		return fault("illegal u_threshold specified")
	}
	c.real.Upper = uint32(n)
	return nil
}

func (c *command) setLower(value string, _ *Env) error {
	n, ok := number(value, 0, math.MaxInt32)
	if !ok {
		return fault("illegal l_threshold specified")
	}
	c.real.Lower = uint32(n)
	return nil
}

func (c *command) setTunnelType(value string, _ *Env) error {
	for t := lb.IPIP; t <= lb.GRE; t++ {
		if value == t.String() {
			c.real.Tunnel.Type = t
			return nil
		}
	}
	return fault("illegal tunnel type specified")
}

func (c *command) setTunnelPort(value string, _ *Env) error {
	n, ok := number(value, 1, math.MaxUint16)
	if !ok {
		return fault("illegal tunnel port specified")
	}
	c.real.Tunnel.Port = uint16(n)
	return nil
}

func tunnelChecksum(sum lb.TunnelChecksum) func(*command, string, *Env) error {
	return func(c *command, _ string, _ *Env) error {
		c.real.Tunnel.Checksum = sum
		return nil
	}
}

func (c *command) setInterface(value string, _ *Env) error {
	c.daemon.Interface = value
	return nil
}

func (c *command) setSyncID(value string, _ *Env) error {
	n, ok := number(value, 0, math.MaxUint8)
	if !ok {
		return fault("illegal syncid specified")
	}
	c.daemon.SyncID = uint8(n)
	return nil
}

func (c *command) setMaxLen(value string, _ *Env) error {
	n, ok := number(value, 1, maxMaxLen)
	if !ok {
		return fault("illegal sync-maxlen specified")
	}
	c.daemon.MaxLen = uint16(n)
	return nil
}

// setGroup takes a multicast address; a colon tells IPv6.
func (c *command) setGroup(value string, _ *Env) error {
	family := "IPv4"
	if strings.Contains(value, ":") {
		family = "IPv6"
	}
	group, err := netip.ParseAddr(value)
	if err != nil || group.Zone() != "" || !group.IsMulticast() {
		return fault("invalid %s mcast-group `%s'", family, value)
	}
	c.daemon.Group = group
	return nil
}

func (c *command) setPort(value string, _ *Env) error {
	n, ok := number(value, 1, math.MaxUint16)
	if !ok {
		return fault("illegal mcast-port specified")
	}
	c.daemon.Port = uint16(n)
	return nil
}

func (c *command) setTTL(value string, _ *Env) error {
	n, ok := number(value, 1, math.MaxUint8)
	if !ok {
		return fault("illegal mcast-ttl specified")
	}
	c.daemon.TTL = uint8(n)
	return nil
}
