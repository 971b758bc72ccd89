package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"

	"github.com/sluice-lb/sluice/lb"
)

// Client asks a running node over its unix socket.
type Client struct {
	socket string
	http   http.Client
}

// NewClient returns a client of the node that serves socket.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: adminTimeout}}
}

// Status returns the node at a glance.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return call[*Status](ctx, c, http.MethodGet, "/v1/status")
}

// Services returns the services with their servers and counters.
func (c *Client) Services(ctx context.Context) ([]Service, error) {
	return call[[]Service](ctx, c, http.MethodGet, "/v1/services")
}

// Stats returns all counters.
func (c *Client) Stats(ctx context.Context) (*AllStats, error) {
	return call[*AllStats](ctx, c, http.MethodGet, "/v1/stats")
}

// Conns returns the connections that f selects.
func (c *Client) Conns(ctx context.Context, f Filter) (*Conns, error) {
	return call[*Conns](ctx, c, http.MethodGet, "/v1/conns?"+f.Values())
}

// LastReload returns the last reload; nil: there was none.
func (c *Client) LastReload(ctx context.Context) (*Reload, error) {
	return call[*Reload](ctx, c, http.MethodGet, "/v1/reload")
}

// Reload has the node read its configuration file again.
func (c *Client) Reload(ctx context.Context) (*Reload, error) {
	return call[*Reload](ctx, c, http.MethodPost, "/v1/reload")
}

// Save returns the running state as a configuration file.
func (c *Client) Save(ctx context.Context) (*Saved, error) {
	return call[*Saved](ctx, c, http.MethodGet, "/v1/config")
}

// IPVSAdm has the node do a command line of ipvsadm.
func (c *Client) IPVSAdm(ctx context.Context, a Admin) (*AdminResult, error) {
	return send[*AdminResult](ctx, c, http.MethodPost, adminPath, a)
}

// Sysctl returns the tunables in force.
func (c *Client) Sysctl(ctx context.Context) (*lb.Sysctl, error) {
	return call[*lb.Sysctl](ctx, c, http.MethodGet, "/v1/sysctl")
}

// SetSysctl sets tunables by their names, all or none, until the next reload,
// and returns those in force.
func (c *Client) SetSysctl(ctx context.Context, set map[string]Value) (*lb.Sysctl, error) {
	return send[*lb.Sysctl](ctx, c, http.MethodPost, "/v1/sysctl", set)
}

// call asks and decodes the answer. Errors say what was asked of whom.
func call[T any](ctx context.Context, c *Client, method, path string) (T, error) {
	return send[T](ctx, c, method, path, nil)
}

// send is call with a body; nil: none.
func send[T any](ctx context.Context, c *Client, method, path string, body any) (v T, err error) {
	var text io.Reader = http.NoBody
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return v, err
		}
		text = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://sluice"+path, text)
	if err != nil {
		return v, err
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return v, fmt.Errorf("no sluice is running at %s (sluice run; or name the socket by --socket)", c.socket)
	case err != nil:
		return v, fmt.Errorf("ask the node at %s: %w", c.socket, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var fault struct{ Error string }
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
		if json.Unmarshal(text, &fault) != nil || fault.Error == "" {
			fault.Error = resp.Status
		}
		return v, fmt.Errorf("%s %s: %s", method, path, fault.Error)
	}
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		return v, fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	return v, nil
}
