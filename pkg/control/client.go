package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/headgate/headgate/pkg/upstream"
)

// Client talks to a daemon. It is safe for concurrent use.
type Client struct {
	http *http.Client
	path string
}

// NewClient returns a Client for the socket at path. Nothing is dialled yet.
func NewClient(path string) *Client {
	return &Client{path: path, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return upstream.Dialer{}.DialUnix(ctx, path)
		},
	}}}
}

// Enrol asks the daemon to enrol a process.
func (c *Client) Enrol(ctx context.Context, req EnrolRequest) (EnrolReply, error) {
	var reply EnrolReply
	return reply, c.call(ctx, http.MethodPost, "/v1/enrol", req, &reply)
}

// Status asks how the daemon is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var status Status
	return status, c.call(ctx, http.MethodGet, "/v1/status", nil, &status)
}

// Reload asks the daemon to read its policies again.
func (c *Client) Reload(ctx context.Context) (Status, error) {
	var status Status
	return status, c.call(ctx, http.MethodPost, "/v1/reload", nil, &status)
}

// Health asks whether the daemon does what it is there for.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var health Health
	return health, c.call(ctx, http.MethodGet, "/v1/doctor", nil, &health)
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://headgate"+path, &body)
	if err != nil {
		return fmt.Errorf("build request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%w at %s: %v", ErrUnreachable, c.path, err)
	}
	defer resp.Body.Close()
	limited := io.LimitReader(resp.Body, 4<<20)
	if resp.StatusCode != http.StatusOK {
		refusal := &Error{Code: resp.StatusCode}
		if err := json.NewDecoder(limited).Decode(refusal); err != nil {
			return fmt.Errorf("daemon answers %s: %w", resp.Status, err)
		}
		return refusal
	}
	if err := json.NewDecoder(limited).Decode(out); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}
