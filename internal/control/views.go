package control

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/slowpath"
	"github.com/sluice-lb/sluice/slowpath/ftp"
	"github.com/sluice-lb/sluice/workers"
)

// protoNames are the protocols of connections; templates of mark services
// have protocol IP, 0.
var protoNames = map[uint8]string{0: "ip", 6: "tcp", 17: "udp", 50: "esp", 51: "ah", 132: "sctp"}

// ServicesOf makes the documents of s's services, in the order in which they
// were configured, with counters from stats. now is of the workers' clock.
func ServicesOf(s *lb.Snapshot, stats *workers.Stats, now clock.Ticks) []Service {
	out := []Service{}
	for _, svc := range s.Services {
		if svc != nil {
			out = append(out, serviceOf(s, svc, stats, now))
		}
	}
	return out
}

func serviceOf(s *lb.Snapshot, svc *lb.Service, stats *workers.Stats, now clock.Ticks) Service {
	v := Service{
		Name: svc.Name, FWMark: svc.Mark, Family: "ipv4", Scheduler: svc.Scheduler,
		Flags: append([]string{}, svc.Flags.Names(svc.Scheduler)...), OnePacket: svc.OnePacket,
		Stats: statsOf(stats.Services[svc.Slot]), Servers: []Real{},
	}
	if svc.V6 {
		v.Family = "ipv6"
	}
	if svc.MSS != 0 {
		v.MSS = svc.MSS.String()
	}
	if svc.Mark == 0 {
		v.Protocol, v.Address, v.Port = protoNames[svc.Proto], svc.Addr.String(), svc.Port
	}
	if svc.Persistence != nil {
		v.PersistenceTimeout = int(svc.Persistence.Timeout.Seconds())
	}
	for _, d := range svc.Dests {
		r := &s.Reals[d.ID]
		active, inactive := s.Load(d.ID)
		server := Real{
			Address: r.Addr.String(), Port: r.Port, Forward: r.Forward.String(), Weight: r.Weight,
			Active: active, Inactive: inactive, Persistent: s.Persistent(d.ID), Stats: statsOf(stats.Reals[d.ID]),
		}
		if r.Forward == lb.TUN {
			server.PathMTU = r.Path.At(now)
		}
		v.Servers = append(v.Servers, server)
	}
	return v
}

func statsOf(c lb.Counters) Stats {
	return Stats{c.Conns, c.InPackets, c.OutPackets, c.InBytes, c.OutBytes}
}

// Add adds o to s.
func (s *Stats) Add(o Stats) {
	s.Conns += o.Conns
	s.InPackets += o.InPackets
	s.OutPackets += o.OutPackets
	s.InBytes += o.InBytes
	s.OutBytes += o.OutBytes
}

// Summary is r in numbers; nil of nil.
func (r *Reload) Summary() *ReloadSummary {
	if r == nil {
		return nil
	}
	c := &r.Changes
	return &ReloadSummary{r.At, r.Error, len(c.Added), len(c.Removed), len(c.Edited), r.Touched, r.Seconds}
}

// SlowPathOf makes the document of the slow path's counters, of what the workers'
// reports say that it did not take, and of the FTP helper, nil: there is none.
func SlowPathOf(c *slowpath.Counters, reports []workers.Report, helper *ftp.Node) SlowPath {
	v := SlowPath{FTP: ftpOf(helper), Packets: map[string]map[string]uint64{}, Refused: map[string]map[string]uint64{}, Errors: map[string]uint64{}, Held: c.Held, HeldErrors: c.HeldErrors}
	for kind := range c.Packets {
		for fate, n := range c.Packets[kind] {
			tally(v.Packets, slowpath.Kind(kind), slowpath.Fate(fate), n)
		}
	}
	for i := range reports {
		for class := range reports[i].Refused {
			for reason, n := range reports[i].Refused[class] {
				tally(v.Refused, slowpath.Class(class), slowpath.Refusal(reason), n)
			}
		}
	}
	for fate, n := range c.Errors {
		if n > 0 {
			v.Errors[slowpath.ErrorFate(fate).String()] = n
		}
	}
	return v
}

// ftpOf makes the document of the FTP helper's counters.
func ftpOf(helper *ftp.Node) *FTP {
	if helper == nil {
		return nil
	}
	c := helper.Counters()
	v := &FTP{c.Sessions, c.Expected, c.Announced, c.Begun, c.Expired, c.Rewritten, map[string]uint64{}}
	for why, n := range c.Refused {
		if n > 0 {
			v.Refused[ftp.Refusal(why).String()] = n
		}
	}
	return v
}

// tally adds n to sums[of][what], unless it is 0.
func tally(sums map[string]map[string]uint64, of, what fmt.Stringer, n uint64) {
	if n == 0 {
		return
	}
	if sums[of.String()] == nil {
		sums[of.String()] = map[string]uint64{}
	}
	sums[of.String()][what.String()] += n
}

// ConnOf makes the document of a worker's connection.
func ConnOf(worker int, r *workers.ConnRow) Conn {
	template := r.Flags&conn.Template != 0
	return Conn{
		Protocol: protoNames[r.Proto], Client: r.Client.String(), ClientPort: r.ClientPort,
		Virtual: r.Virtual.String(), VirtualPort: r.VirtualPort, Server: r.Server.String(), ServerPort: r.RealPort,
		State: conn.StateName(r.Proto, template, r.State), Expires: math.Round(r.Expires.Seconds()*10) / 10,
		Template: template, Worker: worker,
	}
}

// SortConns puts conns in the order in which they are shown: by protocol,
// client, client port, virtual address and port.
func SortConns(conns []Conn) {
	slices.SortStableFunc(conns, func(a, b Conn) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Client, b.Client),
			cmp.Compare(a.ClientPort, b.ClientPort), cmp.Compare(a.Virtual, b.Virtual),
			cmp.Compare(a.VirtualPort, b.VirtualPort))
	})
}
