package identity

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	maxAnswer      = 1 << 20
	requestTimeout = 10 * time.Second
	// An agent can make up tokens with key ids that nobody knows, and each one
	// makes go-oidc fetch the issuer's keys. This bounds what the issuer sees.
	fetchBurst    = 10
	fetchInterval = 5 * time.Second
)

// errTooOften is what a request gets that would go beyond the bound.
var errTooOften = errors.New("issuer was asked too often")

// boundedClient returns a client of its own for one issuer, with the transport
// and the limits of c, that reads bounded answers and asks at a bounded rate.
func boundedClient(c *http.Client) *http.Client {
	b := *c
	if b.Timeout <= 0 || b.Timeout > requestTimeout {
		b.Timeout = requestTimeout // go-oidc fetches keys with no deadline of its own
	}
	b.Transport = &boundedTransport{inner: c.Transport, now: time.Now}
	b.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if r.URL.Scheme != "https" || len(via) >= 3 {
			return errors.New("follow redirect: not https, or too many")
		}
		return nil
	}
	return &b
}

type boundedTransport struct {
	inner http.RoundTripper
	now   func() time.Time

	mu    sync.Mutex
	spent time.Duration // what was taken of the budget, in units of waiting
	last  time.Time
}

// RoundTrip implements [http.RoundTripper].
func (t *boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !t.take() {
		return nil, errTooOften
	}
	resp, err := t.inner.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 400 {
		return nil, errors.Join(fmt.Errorf("issuer answered %d", resp.StatusCode), resp.Body.Close())
	}
	resp.Body = limited{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	return resp, nil
}

// take is a token bucket: a burst, then one request per interval.
func (t *boundedTransport) take() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	t.spent = max(0, t.spent-max(0, now.Sub(t.last)))
	t.last = now
	if t.spent+fetchInterval > fetchBurst*fetchInterval {
		return false
	}
	t.spent += fetchInterval
	return true
}

type limited struct {
	io.Reader
	io.Closer
}
