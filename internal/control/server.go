package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-lb/sluice/lb"
)

// Node is a running director, as the API needs it.
type Node interface {
	Status(ctx context.Context) (*Status, error)
	Services(ctx context.Context) ([]Service, error)
	Stats(ctx context.Context) (*AllStats, error)
	// Conns visits connections until visit returns false.
	Conns(ctx context.Context, visit func(Conn) bool) error
	// Save returns the running state as a configuration file.
	Save(ctx context.Context) (*Saved, error)
	// IPVSAdm does a command line of ipvsadm.
	IPVSAdm(ctx context.Context, a Admin) (*AdminResult, error)
	// Sysctl returns the tunables in force, after edit if that is not nil. An
	// error of edit leaves them as they are and is returned as it is.
	Sysctl(ctx context.Context, edit func(*lb.Sysctl) error) (*lb.Sysctl, error)
	// LastReload returns the last reload, by whomever; nil: there was none.
	LastReload(ctx context.Context) (*Reload, error)
	// Reload reads the configuration file again.
	Reload(ctx context.Context) *Reload
}

// Limits of a question.
const (
	answerTimeout = 10 * time.Second
	adminTimeout  = time.Minute // of a command line: -Lc of millions of connections takes a while
	maxConns      = 100_000     // rows in one answer of /v1/conns
	maxAdmin      = 64 << 20    // bytes of a command line and what it reads
)

// adminPath is where command lines of ipvsadm go.
const adminPath = "/v1/ipvsadm"

// Server serves the API of a node.
type Server struct {
	Node   Node
	Log    *slog.Logger
	Socket string // path of the unix socket: everything
	Listen string // TCP address: reading only; "": off
}

// Serve listens and answers until ctx ends. ready is called once both
// listeners are open.
func (s *Server) Serve(ctx context.Context, ready func()) error {
	local, err := listenUnix(s.Socket)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	serve := func(l net.Listener, h http.Handler) {
		server := &http.Server{Handler: h, ReadHeaderTimeout: answerTimeout, ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug)}
		stop := context.AfterFunc(ctx, func() { server.Close() })
		g.Go(func() error {
			defer stop()
			return unless(server.Serve(l), http.ErrServerClosed)
		})
	}
	if s.Listen != "" {
		l, err := net.Listen("tcp", s.Listen)
		if err != nil {
			local.Close()
			return fmt.Errorf("control.listen: %w", err)
		}
		serve(l, s.reading())
	}
	serve(local, s.all())
	ready()
	return g.Wait()
}

// CheckSocket reports, as an error, that another process serves the socket at
// path.
func CheckSocket(path string) error {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return fmt.Errorf("control.socket: %s is served by another process; is sluice running already?", path)
	}
	return nil
}

// unless returns err, but nil for the expected end.
func unless(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return fmt.Errorf("serve the control API: %w", err)
}

// listenUnix opens the socket, mode 0660. A socket that nobody serves any
// more, left by a process that was killed, is replaced; one that is served is
// another sluice's.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("control.socket: %w", err)
	}
	if err := CheckSocket(path); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("control.socket: %s exists and is no socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("control.socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control.socket: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("control.socket: %w", err)
	}
	return l, nil
}

// reading is the part of the API that changes nothing.
func (s *Server) reading() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", answer(s, s.Node.Status))
	mux.HandleFunc("GET /v1/services", answer(s, s.Node.Services))
	mux.HandleFunc("GET /v1/stats", answer(s, s.Node.Stats))
	mux.HandleFunc("GET /v1/reload", answer(s, s.Node.LastReload))
	mux.HandleFunc("GET /v1/config", answer(s, s.Node.Save))
	mux.HandleFunc("GET /v1/sysctl", answer(s, func(ctx context.Context) (*lb.Sysctl, error) { return s.Node.Sysctl(ctx, nil) }))
	mux.HandleFunc("GET /v1/conns", answer(s, nil, s.conns))
	return mux
}

// all is the whole API.
func (s *Server) all() *http.ServeMux {
	mux := s.reading()
	mux.HandleFunc("POST /v1/reload", answer(s, nil, func(r *http.Request) (*Reload, error) {
		return s.Node.Reload(r.Context()), nil
	}))
	mux.HandleFunc("POST "+adminPath, answer(s, nil, func(r *http.Request) (*AdminResult, error) {
		var a Admin
		if err := body(r, &a); err != nil {
			return nil, err
		}
		return s.Node.IPVSAdm(r.Context(), a)
	}))
	mux.HandleFunc("POST /v1/sysctl", answer(s, nil, func(r *http.Request) (*lb.Sysctl, error) {
		var set map[string]Value
		if err := body(r, &set); err != nil {
			return nil, err
		}
		return s.Node.Sysctl(r.Context(), func(t *lb.Sysctl) error { return setTunables(t, set) })
	}))
	return mux
}

// body reads the document that a request brings.
func body(r *http.Request, to any) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxAdmin))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return badQuery{fmt.Errorf("body: %w", err)}
	}
	return nil
}

// answer makes a handler of a question to the node: ask, or one that reads
// the request.
func answer[T any](s *Server, ask func(context.Context) (T, error), with ...func(*http.Request) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		limit := answerTimeout
		if r.URL.Path == adminPath {
			limit = adminTimeout
		}
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		var v T
		var err error
		if ask != nil {
			v, err = ask(ctx)
		} else {
			v, err = with[0](r.WithContext(ctx))
		}
		if err != nil {
			code := http.StatusInternalServerError
			if errors.As(err, new(badQuery)) {
				code = http.StatusBadRequest
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			s.Log.Debug("control API answer cut off", "path", r.URL.Path, "error", err)
		}
	}
}

// badQuery is a question that cannot be answered as it was put.
type badQuery struct{ error }

// Filter selects connections: every field that is set has to match.
type Filter struct {
	Protocol string     // tcp, udp or sctp
	Client   netip.Addr // the client's address
	Virtual  netip.Addr // the service's address
	Server   netip.Addr // the real server's address
	Port     uint16     // the service's port
	State    string     // the kernel's name
	Limit    int        // most rows; 0: 100,000
}

// Values returns the filter as a query string, without "?".
func (f *Filter) Values() string {
	var parts []string
	set := func(name, value string) { parts = append(parts, name+"="+value) }
	if f.Protocol != "" {
		set("protocol", f.Protocol)
	}
	for name, a := range map[string]netip.Addr{"client": f.Client, "virtual": f.Virtual, "server": f.Server} {
		if a.IsValid() {
			set(name, a.String())
		}
	}
	if f.Port != 0 {
		set("port", strconv.Itoa(int(f.Port)))
	}
	if f.State != "" {
		set("state", f.State)
	}
	if f.Limit != 0 {
		set("limit", strconv.Itoa(f.Limit))
	}
	return strings.Join(parts, "&")
}

// filterOf reads a filter from a query.
func filterOf(r *http.Request) (f Filter, err error) {
	for name, values := range r.URL.Query() {
		v := values[0]
		switch name {
		case "protocol":
			f.Protocol = v
		case "client":
			f.Client, err = netip.ParseAddr(v)
		case "virtual":
			f.Virtual, err = netip.ParseAddr(v)
		case "server":
			f.Server, err = netip.ParseAddr(v)
		case "port":
			var n uint64
			n, err = strconv.ParseUint(v, 10, 16)
			f.Port = uint16(n)
		case "state":
			f.State = strings.ToUpper(v)
		case "limit":
			f.Limit, err = strconv.Atoi(v)
			if err == nil && (f.Limit < 1 || f.Limit > maxConns) {
				err = fmt.Errorf("%d is out of range, want 1..%d", f.Limit, maxConns)
			}
		default:
			err = errors.New("no such parameter, want protocol, client, virtual, server, port, state or limit")
		}
		if err != nil {
			return f, badQuery{fmt.Errorf("%s: %w", name, err)}
		}
	}
	return f, nil
}

// Match says whether c is selected.
func (f *Filter) Match(c *Conn) bool {
	is := func(a netip.Addr, text string) bool { return !a.IsValid() || a.String() == text }
	return (f.Protocol == "" || f.Protocol == c.Protocol) && is(f.Client, c.Client) && is(f.Virtual, c.Virtual) &&
		is(f.Server, c.Server) && (f.Port == 0 || f.Port == c.VirtualPort) && (f.State == "" || f.State == c.State)
}

// Conns are the connections that a filter selected.
type Conns struct {
	Connections []Conn `json:"connections"`
	Truncated   bool   `json:"truncated"` // there are more than the limit
}

// conns answers /v1/conns.
func (s *Server) conns(r *http.Request) (*Conns, error) {
	f, err := filterOf(r)
	if err != nil {
		return nil, err
	}
	if f.Limit == 0 {
		f.Limit = maxConns
	}
	out := &Conns{Connections: []Conn{}}
	err = s.Node.Conns(r.Context(), func(c Conn) bool {
		if !f.Match(&c) {
			return true
		}
		if len(out.Connections) == f.Limit {
			out.Truncated = true
			return false
		}
		out.Connections = append(out.Connections, c)
		return true
	})
	SortConns(out.Connections)
	return out, err
}
