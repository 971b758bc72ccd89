package testnet

import (
	"context"
	"net"
)

// DialContext connects from the namespace as net.Dialer.DialContext does; the
// address is numeric. It fits http.Transport.
func (s *Namespace) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return s.Dial(ctx, &net.Dialer{}, network, address)
}

// Dial connects from the namespace with the dialer's options, a local address
// for one.
func (s *Namespace) Dial(ctx context.Context, d *net.Dialer, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := s.Do(func() (err error) {
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens in the namespace as net.Listen does.
func (s *Namespace) Listen(network, address string) (net.Listener, error) {
	var listener net.Listener
	err := s.Do(func() (err error) {
		listener, err = net.Listen(network, address)
		return err
	})
	return listener, err
}

// ListenPacket opens a datagram socket in the namespace as net.ListenPacket does.
func (s *Namespace) ListenPacket(network, address string) (net.PacketConn, error) {
	var conn net.PacketConn
	err := s.Do(func() (err error) {
		conn, err = net.ListenPacket(network, address)
		return err
	})
	return conn, err
}
