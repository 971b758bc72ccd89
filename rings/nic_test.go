package rings

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeNIC has an RSS key and table and a flow hash for each flow type, as ethtool
// shows them. fixed are flow types whose hash it does not let change, mute ones that it
// does not tell.
type fakeNIC struct {
	rss         RSS
	hash        map[int]uint64
	fixed, mute []int
	noRSS       bool
	writes      int
}

func (f *fakeNIC) run(name string, c command) error {
	flow := c.word(1)
	switch c.word(0) {
	case unix.ETHTOOL_GRSSH:
		if f.noRSS {
			return unix.EOPNOTSUPP
		}
		if c.word(2) == 0 { // asks for the sizes
			c.setWord(2, len(f.rss.Indirection))
			c.setWord(3, len(f.rss.Key))
			return nil
		}
		for i, q := range f.rss.Indirection {
			c.setWord(rssHeader/4+i, int(q))
		}
		copy(c[rssHeader+4*len(f.rss.Indirection):], f.rss.Key)
	case unix.ETHTOOL_SRSSH:
		if f.noRSS {
			return unix.EOPNOTSUPP
		}
		f.writes++
		for i := range f.rss.Indirection {
			f.rss.Indirection[i] = uint32(c.word(rssHeader/4 + i))
		}
		copy(f.rss.Key, c[rssHeader+4*len(f.rss.Indirection):])
	case unix.ETHTOOL_GRXFH:
		if slices.Contains(f.mute, flow) {
			return unix.EOPNOTSUPP
		}
		binary.NativeEndian.PutUint64(c[8:], f.hash[flow])
	case unix.ETHTOOL_SRXFH:
		if slices.Contains(f.fixed, flow) {
			return unix.EINVAL
		}
		f.writes++
		f.hash[flow] = binary.NativeEndian.Uint64(c[8:])
	default:
		return unix.EINVAL
	}
	return nil
}

// What is asked of a NIC is taken back when it is given up, as far as the NIC told what
// was before.
func TestSteerAndRestore(t *testing.T) {
	const both, source = 0xf0, 1<<4 | 1<<6 // addresses and ports of both ends; of the source
	f := &fakeNIC{
		rss:  RSS{Key: []byte("the key that the NIC began with, 40 byte"), Indirection: []uint32{0, 1, 2, 3}},
		hash: map[int]uint64{1: both, 2: source, 3: 0, 5: both, 6: both, 7: both}, fixed: []int{3}, mute: []int{7},
	}
	was := RSS{Key: slices.Clone(f.rss.Key), Indirection: slices.Clone(f.rss.Indirection)}
	want := RSS{Key: []byte("another key, 40 bytes long as the first."), Indirection: []uint32{0, 1, 0, 1}}
	attempts, restore := tool(f.run).steer("eth0", ClientIsSource, want)
	for _, a := range attempts {
		if failed := a.What == "hash sctp4 on sf"; (a.Err != nil) != failed || failed && !errors.Is(a.Err, unix.EINVAL) {
			t.Errorf("%s: %v", a.What, a.Err)
		}
	}
	if len(attempts) != 7 || !bytes.Equal(f.rss.Key, want.Key) || !slices.Equal(f.rss.Indirection, want.Indirection) || f.hash[1] != source || f.hash[3] != 0 || f.hash[7] != source {
		t.Errorf("after %d attempts the NIC has %+v, hashes %v", len(attempts), f.rss, f.hash)
	}
	if f.writes != 1+4 {
		t.Errorf("%d settings were written, want key and table and the hashes of four flow types: one is so already, one fixed", f.writes)
	}
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.rss.Key, was.Key) || !slices.Equal(f.rss.Indirection, was.Indirection) || f.hash[1] != both || f.hash[2] != source || f.hash[5] != both || f.hash[6] != both {
		t.Errorf("restored to %+v, hashes %v; want what was before", f.rss, f.hash)
	}
	f.noRSS = true
	if attempts, restore := tool(f.run).steer("eth0", ClientIsSource, want); attempts[0].Err == nil || restore() != nil {
		t.Errorf("a NIC without RSS: %v, and restoring fails", attempts[0].Err)
	}
}
