package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// stream is a TCP connection through the director on which the client sends
// without end.
type stream struct {
	client, server net.Conn
	port           uint16 // the client's
	received       atomic.Uint64
	ended          chan error // of both ends
}

// openStream connects to the service and begins to send. It is to arrive at
// that port of the server's.
func openStream(ctx context.Context, n *testnet.Network, port uint16) (*stream, error) {
	l, err := n.In(server).Listen("tcp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, err
	}
	defer l.Close()
	s := &stream{ended: make(chan error, 2)}
	ctx, stop := context.WithTimeout(ctx, startTime)
	defer stop()
	if s.client, err = n.In(client).DialContext(ctx, "tcp4", fmt.Sprintf("%s:%d", vip, vport)); err != nil {
		return nil, fmt.Errorf("connect through the director: %w", err)
	}
	if s.server, err = l.Accept(); err != nil {
		return nil, errors.Join(err, s.client.Close())
	}
	s.port = s.client.LocalAddr().(*net.TCPAddr).AddrPort().Port()
	go func() { s.ended <- s.send() }()
	go func() { s.ended <- s.receive() }()
	return s, nil
}

func (s *stream) send() error {
	for buf := make([]byte, 1<<18); ; {
		if _, err := s.client.Write(buf); err != nil {
			return err
		}
	}
}

func (s *stream) receive() error {
	for buf := make([]byte, 1<<18); ; {
		n, err := s.server.Read(buf)
		s.received.Add(uint64(n))
		if err != nil {
			return err
		}
	}
}

// rate counts for d what arrives, in bits a second of payload.
func (s *stream) rate(ctx context.Context, d time.Duration) (float64, error) {
	before, began := s.received.Load(), time.Now()
	select {
	case err := <-s.ended:
		return 0, fmt.Errorf("the stream broke: %w", err)
	case <-time.After(d):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return 8 * float64(s.received.Load()-before) / time.Since(began).Seconds(), nil
}

// recovery waits until the stream has a rate again, over a short time, and
// returns how long that took, at most patience.
func (s *stream) recovery(ctx context.Context, to float64, patience time.Duration) (time.Duration, error) {
	const step = 20 * time.Millisecond
	for began := time.Now(); ; {
		rate, err := s.rate(ctx, step)
		if took := time.Since(began); err != nil || rate >= to || took >= patience {
			return took, err
		}
	}
}

// close ends the stream.
func (s *stream) close() error { return errors.Join(s.client.Close(), s.server.Close()) }

// outcome is what a stream was beside a flood.
type outcome struct {
	alone, rate float64 // bits a second, before and during it
	sent        float64 // packets a second of the flood's
	recovery    float64 // milliseconds after its end until the stream was as before
}

// beside measures the stream alone and beside a flood of next's frames.
func (s *stream) beside(ctx context.Context, c *Config, n *testnet.Network, next func(i int) []byte) (o outcome, err error) {
	if _, err := s.rate(ctx, settle); err != nil {
		return o, err
	}
	if o.alone, err = s.rate(ctx, c.Duration/2); err != nil {
		return o, err
	}
	stop, err := startFlood(ctx, c, n, next)
	if err != nil {
		return o, err
	}
	_, err = s.rate(ctx, settle)
	if err == nil {
		o.rate, err = s.rate(ctx, c.Duration/2)
	}
	var floodErr error
	if o.sent, floodErr = stop(); errors.Join(err, floodErr) != nil {
		return o, errors.Join(err, floodErr)
	}
	took, err := s.recovery(ctx, recovered*o.alone, patient)
	o.recovery = float64(took.Microseconds()) / 1000
	return o, err
}
