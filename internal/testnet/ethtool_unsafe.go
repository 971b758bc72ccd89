package testnet

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes and numbers of include/uapi/linux/ethtool.h that x/sys/unix lacks.
const (
	featureStrings   = 4  // ETH_SS_FEATURES
	featureNameBytes = 32 // ETH_GSTRING_LEN
)

// offloads are the features that make a frame in memory differ from what a
// wire would carry, by the beginnings of their names.
var offloads = []string{
	"tx-checksum-", "tx-scatter-gather", "tx-generic-segmentation", "tx-gso-", "tx-tcp", "tx-udp-segmentation", "tx-sctp-segmentation",
	"rx-gro", "rx-lro", "rx-udp-gro-forwarding", "tx-vlan-", "rx-vlan-hw-parse", "rx-vlan-stag-hw-parse",
}

// DisableOffloads turns off checksumming, segmentation, aggregation and VLAN
// tagging by an interface, and fails if one of them stays on.
func (s *Namespace) DisableOffloads(dev string) error { return s.setOffloads(dev, false) }

// EnableOffloads turns them on again, as a NIC has them: what local sockets
// send is then unfinished when it comes to the interface.
func (s *Namespace) EnableOffloads(dev string) error { return s.setOffloads(dev, true) }

func (s *Namespace) setOffloads(dev string, on bool) error {
	return s.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("socket for ethtool: %w", err)
		}
		defer unix.Close(fd)
		before, err := features(fd, dev)
		if err != nil {
			return err
		}
		// struct ethtool_sfeatures: cmd, size, then {valid, requested} a block.
		blocks := (len(before) + 31) / 32
		set := make([]uint32, 2+2*blocks)
		set[0], set[1] = unix.ETHTOOL_SFEATURES, uint32(blocks)
		for i, f := range before {
			if f.differs(on) {
				set[2+i/32*2] |= 1 << (i % 32)
				if on {
					set[2+i/32*2+1] |= 1 << (i % 32)
				}
			}
		}
		if err := ethtool(fd, dev, set); err != nil {
			return err
		}
		after, err := features(fd, dev)
		if err != nil {
			return err
		}
		for _, f := range after {
			if f.differs(on) {
				return fmt.Errorf("%s in %s: feature %s cannot be changed", dev, s.name, f.name)
			}
		}
		return nil
	})
}

type feature struct {
	name              string
	available, active bool
}

// differs tells whether f is an offload that is not yet as wanted. One that is not
// available cannot be turned on, but if it is on all the same, that matters.
func (f *feature) differs(on bool) bool {
	offload := slices.ContainsFunc(offloads, func(o string) bool { return strings.HasPrefix(f.name, o) })
	return offload && f.active != on && (f.available || f.active)
}

// features returns what an interface can do, by the kernel's numbers.
func features(fd int, dev string) ([]feature, error) {
	names, err := featureNames(fd, dev)
	if err != nil {
		return nil, err
	}
	// struct ethtool_gfeatures: cmd, size, then {available, requested, active, never_changed} a block.
	blocks := (len(names) + 31) / 32
	get := make([]uint32, 2+4*blocks)
	get[0], get[1] = unix.ETHTOOL_GFEATURES, uint32(blocks)
	if err := ethtool(fd, dev, get); err != nil {
		return nil, err
	}
	list := make([]feature, len(names))
	for i, name := range names {
		block := get[2+4*(i/32):]
		list[i] = feature{name: name, available: block[0]>>(i%32)&1 == 1, active: block[2]>>(i%32)&1 == 1}
	}
	return list, nil
}

// featureNames returns the kernel's names of interface features, by number.
func featureNames(fd int, dev string) ([]string, error) {
	// struct ethtool_sset_info: cmd, reserved, a mask of 64 bits, an answer for each bit.
	info := make([]uint32, 5)
	info[0] = unix.ETHTOOL_GSSET_INFO
	binary.NativeEndian.PutUint64(bytesOf(info)[8:], 1<<featureStrings)
	if err := ethtool(fd, dev, info); err != nil {
		return nil, err
	}
	n := int(info[4])
	// struct ethtool_gstrings: cmd, string_set, len, the strings.
	list := make([]uint32, 3+n*featureNameBytes/4)
	list[0], list[1], list[2] = unix.ETHTOOL_GSTRINGS, featureStrings, uint32(n)
	if err := ethtool(fd, dev, list); err != nil {
		return nil, err
	}
	names := make([]string, n)
	for i := range names {
		b := bytesOf(list[3:])[i*featureNameBytes:][:featureNameBytes]
		names[i] = unix.ByteSliceToString(b)
	}
	return names, nil
}

// ethtool has the kernel read and fill a structure of 32-bit words whose
// first is the command.
func ethtool(fd int, dev string, words []uint32) error {
	// struct ifreq: the name, then a pointer in a union of 24 bytes.
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer // to Go memory: pinned by the use as argument, kept alive below
		_    [16]byte
	}
	if len(dev) >= len(request.name) {
		return fmt.Errorf("interface name %q is too long", dev)
	}
	copy(request.name[:], dev)
	request.data = unsafe.Pointer(&words[0])
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(words)
	if errno != 0 {
		return fmt.Errorf("ethtool command %#x on %s: %w", words[0], dev, errno)
	}
	return nil
}

// bytesOf returns the memory of w as bytes: the structures mix both.
func bytesOf(w []uint32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(w))), 4*len(w))
}
