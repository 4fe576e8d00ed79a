package identity

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/coreos/go-oidc/v3/oidc"
)

// Why a token was not accepted. Every error of [Verifier.Verify] wraps one of
// these; [Reason] names them for metrics.
var (
	// ErrMalformed: it is no token, too long, or has claims that cannot be used.
	ErrMalformed = errors.New("token is malformed")
	// ErrIssuer: no configured issuer made it.
	ErrIssuer = errors.New("token is from an issuer that is not configured")
	// ErrAudience: it was made for somebody else.
	ErrAudience = errors.New("token is for another audience")
	// ErrExpired: it has expired or never said when it would.
	ErrExpired = errors.New("token has expired")
	// ErrInvalid: signature, algorithm or validity period do not hold.
	ErrInvalid = errors.New("token is not valid")
	// ErrUnreachable: the issuer's keys could not be had.
	ErrUnreachable = errors.New("issuer cannot be reached")
)

// Reason sorts an error of [Verifier.Verify] for metrics: "ok" for none,
// "malformed", "not_allowed", "bad_audience", "expired", "bad_signature",
// "unreachable", or "other".
func Reason(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrMalformed):
		return "malformed"
	case errors.Is(err, ErrIssuer):
		return "not_allowed"
	case errors.Is(err, ErrAudience):
		return "bad_audience"
	case errors.Is(err, ErrExpired):
		return "expired"
	case errors.Is(err, ErrInvalid):
		return "bad_signature"
	case errors.Is(err, ErrUnreachable):
		return "unreachable"
	default:
		return "other"
	}
}

// algorithms are the signatures that are accepted. Symmetric ones and "none"
// are not: an issuer's public key must never work as a shared secret.
var algorithms = []string{oidc.RS256, oidc.ES256, oidc.PS256, oidc.EdDSA}

const maxToken = 16 << 10

// Issuer is an identity provider as the configuration describes it.
type Issuer struct {
	// Name is what principals are qualified with.
	Name string
	// URL is the issuer identifier (OpenID Connect Core, section 2): what
	// stands in "iss", and where discovery starts. It must be https.
	URL string
	// Audience must be among the token's audiences.
	Audience string
	// GroupsClaim names the claim with the groups, a string or a list of
	// strings; empty for none.
	GroupsClaim string
	// Claims names the claims that a principal keeps.
	Claims []string
}

// Verifier turns identity tokens into principals. The zero Verifier and a nil
// one know no issuer and accept nothing. It is safe for concurrent use.
type Verifier struct{ issuers map[string]*provider }

// provider is an issuer with its keys, which are fetched at the first use.
type provider struct {
	Issuer
	ctx    context.Context // carries the HTTP client for go-oidc, never ends
	client *http.Client

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier
}

// NewVerifier checks the issuers. It does not contact them: that happens when a
// token of theirs is verified, so that an issuer that is down stops nobody
// else. All requests go through client, which must have a transport of its own,
// one that dials through pkg/upstream; their answers are bounded, and so is how
// often an issuer is asked. Values of ctx are passed on to the requests, its end
// is not.
func NewVerifier(ctx context.Context, issuers []Issuer, client *http.Client) (*Verifier, error) {
	if client == nil || client.Transport == nil {
		return nil, errors.New("make verifier: no HTTP client with a transport of its own")
	}
	v := &Verifier{issuers: make(map[string]*provider, len(issuers))}
	names := make(map[string]bool, len(issuers))
	for _, i := range issuers {
		if err := i.check(); err != nil {
			return nil, fmt.Errorf("make verifier: issuer %q: %v", i.Name, err)
		}
		if names[i.Name] || v.issuers[i.URL] != nil {
			return nil, fmt.Errorf("make verifier: issuer %q: its name or URL is used twice", i.Name)
		}
		names[i.Name] = true
		bounded := boundedClient(client)
		i.Claims = slices.Clone(i.Claims)
		v.issuers[i.URL] = &provider{Issuer: i, client: bounded, ctx: oidc.ClientContext(context.WithoutCancel(ctx), bounded)}
	}
	return v, nil
}

func (i Issuer) check() error {
	u, err := url.Parse(i.URL)
	switch {
	case err != nil:
		return err
	case i.Name == "" || strings.ContainsAny(i.Name, ": \t\r\n"):
		return errors.New("name is empty or has a colon or a space in it")
	case u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return errors.New("URL must be https, without query, fragment and user")
	case i.Audience == "":
		return errors.New("audience is required")
	case len(i.Claims) > maxClaims:
		return fmt.Errorf("more than %d claims", maxClaims)
	}
	return nil
}

// Verify checks a token in compact form (RFC 7519): issuer, audience, expiry,
// signature with RS256, ES256, PS256 or EdDSA; and returns whom it speaks of.
// The error never contains the token. ctx bounds the wait for the issuer.
func (v *Verifier) Verify(ctx context.Context, rawToken string) (Principal, error) {
	if v == nil {
		return Anonymous, fmt.Errorf("verify token: %w", ErrIssuer)
	}
	// Nothing of peek is believed; it picks whom to ask, and says no early,
	// before anything is sent over the network.
	peek, err := peekClaims(rawToken)
	if err != nil {
		return Anonymous, fmt.Errorf("verify token: %w", err)
	}
	p := v.issuers[peek.Issuer]
	if p == nil {
		return Anonymous, fmt.Errorf("verify token: %w", ErrIssuer)
	}
	if !slices.Contains(peek.Audience, p.Audience) {
		return Anonymous, fmt.Errorf("verify token of %s: %w", p.Name, ErrAudience)
	}
	token, err := p.verify(ctx, rawToken)
	if err != nil {
		return Anonymous, fmt.Errorf("verify token of %s: %w", p.Name, err)
	}
	principal, err := p.principal(token)
	if err != nil {
		return Anonymous, fmt.Errorf("verify token of %s: %w", p.Name, err)
	}
	return principal, nil
}

func (p *provider) verify(ctx context.Context, rawToken string) (*oidc.IDToken, error) {
	verifier, err := p.discover(ctx)
	if err != nil {
		return nil, err
	}
	var unreachable error
	token, err := verifier.Verify(context.WithValue(ctx, unreachableKey{}, &unreachable), rawToken)
	var expired *oidc.TokenExpiredError
	switch {
	case err == nil:
		return token, nil
	case errors.As(err, &expired):
		return nil, ErrExpired
	case unreachable != nil:
		return nil, fmt.Errorf("%w: %.300s", ErrUnreachable, unreachable.Error())
	default:
		return nil, fmt.Errorf("%w: %.300s", ErrInvalid, err.Error())
	}
}

// discover reads the issuer's configuration (OpenID Connect Discovery, section
// 4) until it has succeeded once. Only one caller asks at a time; as ctx bounds
// the request, those behind it wait no longer than a request lasts.
func (p *provider) discover(ctx context.Context) (*oidc.IDTokenVerifier, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.verifier != nil {
		return p.verifier, nil
	}
	asked, cancel := context.WithTimeout(oidc.ClientContext(ctx, p.client), requestTimeout)
	defer cancel()
	found, err := oidc.NewProvider(asked, p.URL)
	if err != nil {
		return nil, fmt.Errorf("%w: %.300s", ErrUnreachable, err.Error())
	}
	var metadata struct {
		Keys string `json:"jwks_uri"`
	}
	if err := found.Claims(&metadata); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrUnreachable, err)
	}
	if !strings.HasPrefix(metadata.Keys, "https://") {
		return nil, fmt.Errorf("%w: its keys are not served by https", ErrUnreachable)
	}
	// The provider's own verifier would take over the algorithms that the
	// issuer lists and end with ctx.
	keys := keySet{oidc.NewRemoteKeySet(p.ctx, metadata.Keys)}
	p.verifier = oidc.NewVerifier(p.URL, keys, &oidc.Config{ClientID: p.Audience, SupportedSigningAlgs: algorithms})
	return p.verifier, nil
}

// keySet tells apart what go-oidc reports as one: a signature that is wrong, and
// keys that could not be fetched. The latter go into the *error that stands
// under unreachableKey in the context.
type keySet struct{ remote *oidc.RemoteKeySet }

type unreachableKey struct{}

// VerifySignature implements [oidc.KeySet].
func (k keySet) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := k.remote.VerifySignature(ctx, jwt)
	var network *url.Error
	if errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		if report, ok := ctx.Value(unreachableKey{}).(*error); ok {
			*report = err
		}
	}
	return payload, err
}

type peeked struct {
	Issuer   string `json:"iss"`
	Audience list   `json:"aud"`
}

func peekClaims(rawToken string) (peeked, error) {
	if len(rawToken) > maxToken {
		return peeked{}, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, maxToken)
	}
	parts := strings.Split(rawToken, ".")
	if len(parts) != 3 {
		return peeked{}, fmt.Errorf("%w: want three parts", ErrMalformed)
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return peeked{}, fmt.Errorf("%w: claims are not base64url", ErrMalformed)
	}
	var claims peeked
	if err := json.Unmarshal(payload, &claims); err != nil {
		return peeked{}, fmt.Errorf("%w: claims are not the JSON they should be", ErrMalformed)
	}
	return claims, nil
}

// list is a JSON string or a list of them.
type list []string

// UnmarshalJSON reads either form.
func (l *list) UnmarshalJSON(b []byte) error {
	if bytes.HasPrefix(b, []byte("[")) {
		return json.Unmarshal(b, (*[]string)(l))
	}
	var one string
	if err := json.Unmarshal(b, &one); err != nil {
		return err
	}
	*l = list{one}
	return nil
}
