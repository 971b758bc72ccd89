package fastpath

// fetch asks for the first cache line of each packet's frame, without waiting for
// it. Written in fetch_amd64.s; it keeps no pointer.
//
//go:noescape
func fetch(pkts []Packet)
