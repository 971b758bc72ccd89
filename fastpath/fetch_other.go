//go:build !amd64

package fastpath

import "github.com/sluice-lb/sluice/lb/conn"

// This architecture has no prefetch here.

func fetch([]Packet) {}

func fetchServers(*conn.Conn, []conn.ID, []lane) {}
