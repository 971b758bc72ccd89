package ipvsadm

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/sluice-lb/sluice/lb"
)

// listConns does -L -c. With --persistent-conn, what persistence engines know
// of a template follows it.
func (r *runner) listConns(l layout) error {
	r.print("IPVS connection entries\n")
	if l.has(optPersistentConn) {
		r.print(fmt.Sprintf("pro expire %-11s %-18s %-18s %-18s %-16s %s\n",
			"state", "source", "virtual", "destination", "pe name", "pe_data"))
	} else {
		r.print(fmt.Sprintf("pro expire %-11s %-18s %-18s %s\n", "state", "source", "virtual", "destination"))
	}
	return r.env.Backend.Conns(func(c *Conn) {
		name := func(e netip.AddrPort) string { return r.name(l, e.Addr(), e.Port(), c.Proto) }
		seconds := max(int(c.Expires/time.Second), 0)
		r.print(fmt.Sprintf("%-3s %-6s %-11s %-18s %-18s ", protoName(c.Proto),
			fmt.Sprintf("%02d:%02d", seconds/60, seconds%60), c.State, name(c.Client), name(c.Virtual)))
		if server := name(c.Server); l.has(optPersistentConn) && c.Engine != "" {
			r.print(fmt.Sprintf("%-16s %-18s %s\n", server, c.Engine, c.EngineData))
		} else {
			r.print(server, "\n")
		}
	})
}

// protoName returns a protocol as /proc/net/ip_vs_conn names it.
func protoName(proto uint8) string {
	switch proto {
	case 0:
		return "IP"
	case lb.ProtoTCP, lb.ProtoUDP, lb.ProtoSCTP:
		return strings.ToUpper(lb.ProtoName(proto))
	}
	return fmt.Sprintf("IP_%d", proto)
}
