package fastpath

import "github.com/sluice-lb/sluice/lb/conn"

// Written in fetch_amd64.s: each asks for memory that the next stage needs, without
// waiting for it, and keeps no pointer.

// fetch asks for the first cache line of each packet's frame.
//
//go:noescape
func fetch(pkts []Packet)

// fetchServers asks for the lanes of the real servers of connections, given the first
// entry of their table, which has all the IDs, and for the counters of these.
//
//go:noescape
func fetchServers(conns *conn.Conn, ids []conn.ID, lanes []lane)
