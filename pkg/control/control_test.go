package control

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/process"
)

func serve(t *testing.T, api API) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, api) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return NewClient(path)
}

func TestCallerIsToldByTheKernel(t *testing.T) {
	var got Caller
	c := serve(t, API{Enrol: func(_ context.Context, by Caller, req EnrolRequest) (EnrolReply, error) {
		got = by
		return EnrolReply{Root: process.ID{PID: req.PID, Start: 1}, Agent: req.Agent}, nil
	}})
	reply, err := c.Enrol(t.Context(), EnrolRequest{Agent: "a", PID: uint32(os.Getpid()), Start: 1})
	if err != nil {
		t.Fatal(err)
	}
	if want := (Caller{PID: uint32(os.Getpid()), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}); got != want {
		t.Errorf("caller %+v, want %+v", got, want)
	}
	if reply.Agent != "a" || reply.Root.PID != uint32(os.Getpid()) {
		t.Errorf("reply %+v", reply)
	}
}

func TestOnlyRootEnrolsAnother(t *testing.T) {
	for _, c := range []struct {
		by  Caller
		pid uint32
		ok  bool
	}{
		{Caller{PID: 10, UID: 1000}, 10, true},
		{Caller{PID: 10, UID: 1000}, 11, false},
		{Caller{PID: 10, UID: 0}, 11, true},
	} {
		if err := mayEnrol(c.by, EnrolRequest{PID: c.pid}); (err == nil) != c.ok {
			t.Errorf("%v enrols %d: %v, want allowed=%v", c.by, c.pid, err, c.ok)
		}
	}
}

func TestOnlyRootReloadsAndLooksAtHealth(t *testing.T) {
	if err := mustBeRoot(Caller{PID: 1, UID: 0}, "do it"); err != nil {
		t.Error(err)
	}
	err := mustBeRoot(Caller{PID: 1, UID: 1000}, "do it")
	if err == nil || err.Error() != "only root may do it" || Hint(err) == "" {
		t.Errorf("another user: %v", err)
	}
	api := handler(API{
		Reload: func(context.Context, Caller) (Status, error) { t.Error("reloaded"); return Status{}, nil },
		Health: func(context.Context, Caller) (Health, error) { t.Error("told"); return Health{}, nil },
	})
	for path, method := range map[string]string{"/v1/reload": http.MethodPost, "/v1/doctor": http.MethodGet} {
		ctx := context.WithValue(t.Context(), callerKey{}, Caller{PID: 1, UID: 1000})
		w := httptest.NewRecorder()
		api.ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, path, nil))
		if w.Code != http.StatusForbidden {
			t.Errorf("%s of another user: status %d", path, w.Code)
		}
	}
}

func TestUnknownCallerMayNothing(t *testing.T) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := caller(req); err == nil {
		t.Error("a request without a caller was taken")
	}
}

func TestRefusalCarriesItsHint(t *testing.T) {
	c := serve(t, API{Status: func(context.Context, Caller) (Status, error) {
		return Status{}, Refuse(http.StatusConflict, "it can't be", "do that instead")
	}})
	_, err := c.Status(t.Context())
	if err == nil || err.Error() != "it can't be" || Hint(err) != "do that instead" {
		t.Errorf("error %v, hint %q", err, Hint(err))
	}
}

func TestRequestsAreStrictAndBounded(t *testing.T) {
	c := serve(t, API{Enrol: func(context.Context, Caller, EnrolRequest) (EnrolReply, error) {
		t.Error("a bad request arrived")
		return EnrolReply{}, nil
	}})
	for name, body := range map[string]any{
		"unknown key": map[string]any{"agent": "a", "sudo": true},
		"oversize":    map[string]any{"agent": strings.Repeat("a", MaxBody)},
	} {
		var refusal *Error
		if err := c.call(t.Context(), http.MethodPost, "/v1/enrol", body, &EnrolReply{}); !errors.As(err, &refusal) || refusal.Code != http.StatusBadRequest {
			t.Errorf("%s: %v, want a bad request", name, err)
		}
	}
}

func TestAbsentDaemonIsUnreachableWithARemedy(t *testing.T) {
	_, err := NewClient(filepath.Join(t.TempDir(), "none.sock")).Status(t.Context())
	if !errors.Is(err, ErrUnreachable) || Hint(err) == "" {
		t.Errorf("error %v, hint %q", err, Hint(err))
	}
}

func TestListenReplacesAStaleSocketAndNothingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	for range 2 {
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file); err == nil {
		t.Error("a file was replaced by a socket")
	}
}
