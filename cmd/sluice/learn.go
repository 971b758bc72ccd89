package main

import (
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/rings/xdpprog"
)

// learner has the XDP programs learn flows of the host's for the slow path.
type learner struct{ n *node }

// Learn has the programs pass packets like this one.
func (l learner) Learn(number uint32, in *packet.Info) {
	f := xdpprog.Flow{Proto: in.Proto, Src: in.Src, Dst: in.Dst, SrcPort: in.SrcPort, DstPort: in.DstPort}
	if err := l.n.steer.Learn(f, number); err != nil {
		l.n.unlearnt.Do(func() { l.n.log.Warn("flows of the host's make a detour", "error", err) })
	}
}

// Forget makes void what was learnt; false: it still holds.
func (l learner) Forget() bool {
	err := l.n.steer.Forget()
	if err != nil {
		l.n.log.Error("what was learnt stays learnt", "error", err)
	}
	return err == nil
}

// Return gives a frame back to its worker.
func (l learner) Return(worker, iface int, frame []byte) bool {
	return l.n.pool.Return(worker, iface, frame)
}

// published has everybody look at the services that were published: what was
// learnt by those of before is void first.
func (n *node) published() {
	learner{n}.Forget()
	n.wake()
}
