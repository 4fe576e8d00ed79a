package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// API is what the socket offers. A nil function is answered with 404.
type API struct {
	Enrol  func(ctx context.Context, by Caller, req EnrolRequest) (EnrolReply, error)
	Status func(ctx context.Context, by Caller) (Status, error)
	Reload func(ctx context.Context, by Caller) (Status, error)
	Health func(ctx context.Context, by Caller) (Health, error)
}

type callerKey struct{}

// Listen opens the control socket at path and replaces a stale one. The socket
// is open to everybody; what a caller may do is decided per request.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the control socket's directory: %w", err)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("open control socket: %s exists and is not a socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale control socket: %w", err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("open control socket: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil { //nolint:gosec // anybody may enrol itself; see the package comment
		return nil, errors.Join(fmt.Errorf("open control socket: %w", err), l.Close())
	}
	return l, nil
}

// Serve answers on l until ctx ends. It closes l.
func Serve(ctx context.Context, l *net.UnixListener, api API) error {
	server := &http.Server{
		Handler:           handler(api),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       5 * time.Second,
		MaxHeaderBytes:    8 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, callerOf(c))
		},
	}
	stop := context.AfterFunc(ctx, func() {
		// Closing the listener is all that is wanted; its error says only that
		// it was closed before.
		_ = server.Close()
	})
	defer stop()
	if err := server.Serve(&limited{UnixListener: l, room: make(chan struct{}, maxConnections)}); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve control socket: %w", err)
	}
	return nil
}

// maxConnections bounds the callers at one time: the socket is open to
// everybody, and descriptors are not without end.
const maxConnections = 64

// limited accepts no more connections than there is room for; the rest waits in
// the kernel's queue.
type limited struct {
	*net.UnixListener
	room chan struct{}
}

// Accept implements [net.Listener].
func (l *limited) Accept() (net.Conn, error) {
	l.room <- struct{}{}
	c, err := l.AcceptUnix()
	if err != nil {
		<-l.room
		return nil, err
	}
	return &roomy{UnixConn: c, leave: sync.OnceFunc(func() { <-l.room })}, nil
}

type roomy struct {
	*net.UnixConn
	leave func()
}

// Close closes the connection and makes room for the next.
func (c *roomy) Close() error {
	c.leave()
	return c.UnixConn.Close()
}

// callerOf asks the kernel who connected. An unknown caller has pid 0, which is
// allowed nothing.
func callerOf(c net.Conn) Caller {
	nobody := Caller{UID: ^uint32(0), GID: ^uint32(0)}
	sock, ok := c.(*roomy)
	if !ok {
		return nobody
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return nobody
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return nobody
	}
	return Caller{PID: uint32(cred.Pid), UID: cred.Uid, GID: cred.Gid}
}

func handler(api API) http.Handler {
	mux := http.NewServeMux()
	if api.Enrol != nil {
		mux.HandleFunc("POST /v1/enrol", func(w http.ResponseWriter, r *http.Request) {
			var req EnrolRequest
			dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, MaxBody))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&req); err != nil {
				answer(w, nil, Refuse(http.StatusBadRequest, "read request: "+err.Error(), ""))
				return
			}
			by, err := caller(r)
			if err == nil {
				err = mayEnrol(by, req)
			}
			if err != nil {
				answer(w, nil, err)
				return
			}
			reply, err := api.Enrol(r.Context(), by, req)
			answer(w, reply, err)
		})
	}
	if api.Status != nil {
		mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
			by, err := caller(r)
			if err != nil {
				answer(w, nil, err)
				return
			}
			status, err := api.Status(r.Context(), by)
			answer(w, status, err)
		})
	}
	if api.Reload != nil {
		mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, r *http.Request) {
			forRoot(w, r, "reload the policy", api.Reload)
		})
	}
	if api.Health != nil {
		mux.HandleFunc("GET /v1/doctor", func(w http.ResponseWriter, r *http.Request) {
			forRoot(w, r, "look at the daemon's health", api.Health)
		})
	}
	return mux
}

// forRoot answers with what do returns, if the caller is root.
func forRoot[T any](w http.ResponseWriter, r *http.Request, what string, do func(context.Context, Caller) (T, error)) {
	by, err := caller(r)
	if err == nil {
		err = mustBeRoot(by, what)
	}
	if err != nil {
		answer(w, nil, err)
		return
	}
	body, err := do(r.Context(), by)
	answer(w, body, err)
}

func mustBeRoot(by Caller, what string) error {
	if by.UID == 0 {
		return nil
	}
	return Refuse(http.StatusForbidden, "only root may "+what, "try again with sudo")
}

func caller(r *http.Request) (Caller, error) {
	by, ok := r.Context().Value(callerKey{}).(Caller)
	if !ok || by.PID == 0 {
		return Caller{}, Refuse(http.StatusForbidden, "the kernel does not say who is calling", "call from the same pid namespace as the daemon")
	}
	return by, nil
}

func mayEnrol(by Caller, req EnrolRequest) error {
	if req.PID == by.PID || by.UID == 0 {
		return nil
	}
	return Refuse(http.StatusForbidden,
		fmt.Sprintf("%v may not enrol pid %d", by, req.PID),
		"a process may enrol itself (headgate run); only root may enrol another")
}

func answer(w http.ResponseWriter, body any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		var refusal *Error
		if !errors.As(err, &refusal) {
			refusal = &Error{Code: http.StatusInternalServerError, Message: err.Error()}
		}
		w.WriteHeader(refusal.Code)
		body = refusal
	}
	// The caller may be gone; then nobody is left to be told.
	_ = json.NewEncoder(w).Encode(body)
}
