package fastpath

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
)

// team is the pipelines of a node's workers, each of which takes whatever it is given.
func team(t *testing.T, n int, services ...lb.ServiceSpec) (rigs []*rig) {
	t.Helper()
	first := newRig(t, options{workers: n}, services...)
	for worker := range n {
		table, err := conn.New(conn.Config{Max: 1000, Seed: flow.Seed{uint64(worker)}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { table.Close() })
		r := &rig{t: t, director: first.director, conns: table, templates: first.templates, now: first.now}
		r.pipe = New(Config{Worker: worker, Conns: table, Templates: first.templates, Steering: flow.NewSteering(1, nil, nil), Roles: []Role{RoleBoth, RoleBoth}})
		r.pipe.Routes(first.pipe.hops)
		r.pipe.Adopt(first.director.Current(), r.now)
		rigs = append(rigs, r)
	}
	return rigs
}

// open has a worker's next batch be n new connections and returns the last
// digits of their servers' addresses.
func (r *rig) open(n int, firstPort uint16) (servers string) {
	r.t.Helper()
	var batch []arrival
	for i := range n {
		batch = append(batch, syn(firstPort+uint16(i)))
	}
	r.fill(batch...)
	for i := range r.batch.Pkts[:n] {
		r.batch.Pkts[i].Handed = true // it is this worker's
	}
	r.pipe.Process(&r.batch, r.now)
	for i := range r.batch.Pkts[:n] {
		k := &r.batch.Pkts[i]
		if _, to, ok := strings.Cut(packettest.Describe(k.Chunk[k.Off:k.Off+k.Len]), " > 10.0.2.1"); ok && k.Verdict == Forward {
			servers += to[:1]
		} else {
			servers += "-"
		}
	}
	return servers
}

// Least-connection schedulers see what all workers have done up to now: the node's
// connections, at most a batch of another worker old, and within a batch their own.
func TestLoadsAreTheNodes(t *testing.T) {
	for _, scheduler := range []string{"lc", "wlc", "sed", "nq"} {
		w := team(t, 2, service("tcp 10.0.1.100:80 "+scheduler, "nat 10.0.2.11:80 1"))
		if got := w[0].open(6, 1000); got != "111111" {
			t.Errorf("%s: the only server: %s", scheduler, got)
		}
		spec := w[0].director.Spec()
		spec.Services[0].Servers = service("tcp 10.0.1.100:80 "+scheduler, "nat 10.0.2.11:80 1", "nat 10.0.2.12:80 1").Servers
		w[0].apply(spec)
		w[1].apply(spec)
		// Six others are on 1: they go to 2 until there are as many, then in turn.
		if got := w[1].open(9, 2000); got[:6] != "222222" || strings.Count(got[6:], "1") == 0 || strings.Count(got[6:], "2") == 0 {
			t.Errorf("%s: the other worker chose %s, want 2 six times, then both", scheduler, got)
		}
		// 15 connections: the first worker sees all of them, not its own six.
		if got := w[0].open(1, 3000) + w[1].open(1, 3001) + w[0].open(1, 3002); strings.Count(got, "1") == 0 || strings.Count(got, "2") == 0 {
			t.Errorf("%s: then they chose %s, want both", scheduler, got)
		}
	}
}

// Thresholds count the node's connections, and tell all workers (K-DST-7).
func TestThresholdsAreTheNodes(t *testing.T) {
	s := service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:80 1")
	s.Servers[0].Upper = 5
	w := team(t, 2, s)
	if got := w[0].open(3, 1000) + w[1].open(3, 2000) + w[0].open(1, 3000); got != "11111--" {
		t.Errorf("servers %s, want five connections in all", got)
	}
}

// rr has a pointer for each worker: whatever the workers take, a server's share is
// even, up to one connection for each worker.
func TestRRSpreadsEvenly(t *testing.T) {
	const workers = 4
	w := team(t, workers, service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:80 1", "nat 10.0.2.12:80 1", "nat 10.0.2.13:80 1"))
	counts := map[rune]int{}
	for round, sizes := range [][workers]int{{1, 2, 5, 10}, {7, 0, 1, 4}, {3, 11, 0, 2}} {
		for worker, n := range sizes {
			for _, server := range w[worker].open(n, uint16(1000+100*(workers*round+worker))) {
				counts[server]++
			}
		}
		least, most := min(counts['1'], counts['2'], counts['3']), max(counts['1'], counts['2'], counts['3'])
		if most-least > workers || counts['-'] > 0 {
			t.Errorf("after round %d: %s", round, fmt.Sprint(counts))
		}
	}
}
