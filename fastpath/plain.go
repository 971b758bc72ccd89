package fastpath

import (
	"encoding/binary"

	"github.com/sluice-lb/sluice/fastpath/csum"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/lb/flow"
)

// plainLen is how much of a frame is read of a plain packet: Ethernet, IPv4 and
// TCP.
const plainLen = packet.EthernetLen + packet.IPv4Len + packet.TCPLen

// ahead is how many frames are asked for before they are read.
const ahead = 8

// parse says what each packet asks for and sorts out those that no connection can
// be looked up for. The packets come in groups: while one is read, the memory of the next one's
// frames, and of its own buckets, is on its way.
func (p *Pipeline) parse(b *Batch) {
	look, n := 0, min(b.N, MaxBatch)
	fetch(b.Pkts[:min(ahead, n)])
	for i := 0; i < n; {
		end := min(i+ahead, n)
		fetch(b.Pkts[end:min(end+ahead, n)])
		from := look
		for ; i < end; i++ {
			k := &b.Pkts[i]
			key, ok := p.plain(k)
			if ok {
				b.short[look] = key
				b.hashes[look] = p.conns.Hash4(key)
			} else if p.whole(k, &b.keys[look]) {
				b.hashes[look] = p.conns.Hash(&b.keys[look])
				b.whole++
			} else {
				continue
			}
			k.plain = ok
			b.which[look] = uint16(i)
			look++
		}
		p.conns.Seek(b.hashes[from:look], b.ids[from:look])
	}
	b.look = look
}

// plain reads the key of a packet as most are, TCP or UDP in IPv4 without tags,
// options, fragments or faults, to an interface's own address, with hops left:
// what packet.Parse and wanted make of it. false: it is not one.
func (p *Pipeline) plain(k *Packet) (key flow.Key4, ok bool) {
	if k.Own || k.Largest != 0 || k.Len-plainLen > packet.MaxFrame-plainLen {
		return key, false
	}
	h := (*[plainLen]byte)(k.Chunk[k.Off:])
	k.head = h
	if binary.LittleEndian.Uint64(h[0:])<<16 != p.macs[k.Iface] || binary.LittleEndian.Uint32(h[12:])&0xffffff != 0x450008 || // EtherType, version, header length
		binary.LittleEndian.Uint16(h[20:])&0xff3f != 0 || h[22] <= 1 || !csum.Right4(h[14:34]) { // MF and offset, TTL
		return key, false
	}
	end, proto := packet.EthernetLen+uint32(binary.BigEndian.Uint16(h[16:])), h[23]
	least := uint32(plainLen)
	if proto == packet.ProtoUDP {
		least = packet.EthernetLen + packet.IPv4Len + packet.UDPLen
	} else if proto != packet.ProtoTCP {
		return key, false
	}
	if end < least || end > k.Len || h[26]-1 >= 0xdf || h[26] == 127 { // a source that no host has: packet.BadAddress
		return key, false
	}
	src, dst := uint64(binary.LittleEndian.Uint32(h[26:])), uint64(binary.LittleEndian.Uint32(h[30:]))
	sport, dport := uint64(binary.BigEndian.Uint16(h[34:])), uint64(binary.BigEndian.Uint16(h[36:]))
	if role := p.roles[k.Port]; role == RoleServer || role == RoleBoth && !p.toVIP(uint32(dst)) {
		k.Reply = true
		return flow.Key4{Addrs: dst | src<<32, Rest: dport | sport<<16 | uint64(proto)<<32 | uint64(flow.ServerSide)<<40}, true
	}
	return flow.Key4{Addrs: src | dst<<32, Rest: sport | dport<<16 | uint64(proto)<<32}, true
}

// toVIP says whether an IPv4 address, a little-endian word, is a service's.
func (p *Pipeline) toVIP(addr uint32) bool {
	var vip flow.Addr
	binary.LittleEndian.PutUint64(vip[8:], uint64(addr)<<32|0xffff0000) // one store: flow.From4 has a load wait for several
	return p.snap.IsVIP(&vip)
}

// whole reads all of a packet, and its key; false: it has a verdict.
func (p *Pipeline) whole(k *Packet, key *flow.Key) bool {
	k.real, k.once, k.Hop = 0, false, nil
	frame := k.Chunk[k.Off : k.Off+k.Len]
	result := packet.Parse(frame, &k.Info)
	if result != packet.Parsed && result != packet.IPsec {
		k.Verdict = p.unparsed(result, frame, k)
		return false
	}
	if !p.wanted(frame, k) {
		return false
	}
	fromClient := p.fromClient(k)
	k.Reply = !fromClient
	keyOf(&k.Info, fromClient, key)
	return true
}
