package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/process"
)

// idp is an identity provider: discovery and keys over https, and tokens.
type idp struct {
	*httptest.Server
	keys     map[jose.SignatureAlgorithm]crypto.Signer
	requests atomic.Int32
	broken   atomic.Bool
	keysURL  string // in place of its own, if set
}

func newIDP(tb testing.TB) *idp {
	tb.Helper()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		tb.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	p := &idp{keys: map[jose.SignatureAlgorithm]crypto.Signer{jose.RS256: rsaKey, jose.PS256: rsaKey, jose.RS512: rsaKey, jose.ES256: ecKey, jose.EdDSA: edKey}}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(p.serve))
	tb.Cleanup(p.Close)
	return p
}

func (p *idp) serve(w http.ResponseWriter, r *http.Request) {
	p.requests.Add(1)
	if p.broken.Load() {
		http.Error(w, "broken", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	var answer any
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		keys := p.keysURL
		if keys == "" {
			keys = p.URL + "/keys"
		}
		// An issuer that lists HS256 must not make it acceptable.
		answer = map[string]any{"issuer": p.URL, "jwks_uri": keys, "id_token_signing_alg_values_supported": []string{"RS256", "RS512", "HS256", "none"}}
	case "/keys":
		var set jose.JSONWebKeySet
		for alg, key := range p.keys {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: string(alg), Use: "sig"})
		}
		answer = set
	}
	// The test at the other end notices what does not arrive.
	_ = json.NewEncoder(w).Encode(answer)
}

// claims are those of a good token; change makes it another one.
func (p *idp) claims(change func(map[string]any)) []byte {
	c := map[string]any{
		"iss": p.URL, "aud": []string{"other", "headgate"}, "sub": "repo:acme/web",
		"exp": time.Now().Add(time.Minute).Unix(), "iat": time.Now().Unix(),
		"groups": []string{"ci", "dba"}, "repository_id": 4711, "ref": "refs/heads/main", "secret": "not configured",
	}
	if change != nil {
		change(c)
	}
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // a mistake in the test
	}
	return b
}

func sign(tb testing.TB, alg jose.SignatureAlgorithm, key any, claims []byte) string {
	tb.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: string(alg)}}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	jws, err := signer.Sign(claims)
	if err != nil {
		tb.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		tb.Fatal(err)
	}
	return token
}

func (p *idp) token(tb testing.TB, change func(map[string]any)) string {
	tb.Helper()
	return sign(tb, jose.RS256, p.keys[jose.RS256], p.claims(change))
}

func (p *idp) verifier(tb testing.TB) *Verifier {
	tb.Helper()
	v, err := NewVerifier(tb.Context(), []Issuer{{
		Name: "ci", URL: p.URL, Audience: "headgate", GroupsClaim: "groups", Claims: []string{"repository_id", "ref", "absent"},
	}}, p.Client())
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func TestVerifyReturnsThePrincipalOfAGoodToken(t *testing.T) {
	p := newIDP(t)
	v := p.verifier(t)
	want := Principal{
		Issuer: "ci", Subject: "repo:acme/web", Groups: []string{"ci", "dba"},
		Claims: map[string]string{"repository_id": "4711", "ref": "refs/heads/main"},
	}
	for _, alg := range []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.EdDSA} {
		got, err := v.Verify(t.Context(), sign(t, alg, p.keys[alg], p.claims(nil)))
		if err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", alg, diff)
		}
	}
	got, err := v.Verify(t.Context(), p.token(t, func(c map[string]any) { c["aud"], c["groups"] = "headgate", "one" }))
	if err != nil || len(got.Groups) != 1 {
		t.Errorf("one audience and one group as strings: got %+v, %v", got, err)
	}
}

func TestVerifyRefusesEveryOtherToken(t *testing.T) {
	p, other := newIDP(t), newIDP(t)
	v := p.verifier(t)
	if _, err := v.Verify(t.Context(), p.token(t, nil)); err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(p.keys[jose.RS256].Public())
	if err != nil {
		t.Fatal(err)
	}
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(p.claims(nil)) + "."
	good := p.token(t, nil)
	set := func(name string, value any) string { return p.token(t, func(c map[string]any) { c[name] = value }) }
	for name, tc := range map[string]struct {
		token string
		want  error
	}{
		"empty":            {"", ErrMalformed},
		"no JSON":          {"a.b.c", ErrMalformed},
		"too long":         {strings.Repeat("x", maxToken+1), ErrMalformed},
		"expired":          {set("exp", time.Now().Add(-time.Minute).Unix()), ErrExpired},
		"no expiry":        {p.token(t, func(c map[string]any) { delete(c, "exp") }), ErrExpired},
		"not yet":          {set("nbf", time.Now().Add(time.Hour).Unix()), ErrInvalid},
		"wrong audience":   {set("aud", "somebody"), ErrAudience},
		"no audience":      {p.token(t, func(c map[string]any) { delete(c, "aud") }), ErrAudience},
		"wrong issuer":     {other.token(t, nil), ErrIssuer},
		"issuer's keys":    {sign(t, jose.RS256, other.keys[jose.RS256], p.claims(nil)), ErrInvalid},
		"alg none":         {none, ErrInvalid},
		"HS256 public key": {sign(t, jose.HS256, public, p.claims(nil)), ErrInvalid},
		"RS512":            {sign(t, jose.RS512, p.keys[jose.RS512], p.claims(nil)), ErrInvalid},
		"changed claims":   {good[:strings.Index(good, ".")+1] + base64.RawURLEncoding.EncodeToString(p.claims(func(c map[string]any) { c["sub"] = "root" })) + good[strings.LastIndex(good, "."):], ErrInvalid},
		"no signature":     {good[:strings.LastIndex(good, ".")+1], ErrInvalid},
		"no subject":       {set("sub", ""), ErrMalformed},
		"long subject":     {set("sub", strings.Repeat("x", maxSubject+1)), ErrMalformed},
		"newline in sub":   {set("sub", "a\nb"), ErrMalformed},
		"many groups":      {set("groups", make([]string, maxGroups+1)), ErrMalformed},
		"groups a number":  {set("groups", 5), ErrMalformed},
		"an empty group":   {set("groups", []string{"ci", ""}), ErrMalformed},
		"a long claim":     {set("ref", strings.Repeat("x", maxValue+1)), ErrMalformed},
		"escape in claim":  {set("ref", "\x1b[2J"), ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := v.Verify(t.Context(), tc.token)
			if !errors.Is(err, tc.want) || !got.IsAnonymous() {
				t.Errorf("got %v, %v, want %v", got, err, tc.want)
			}
			if err != nil && len(tc.token) > 20 && strings.Contains(err.Error(), tc.token[len(tc.token)-20:]) {
				t.Errorf("the error has the token in it: %v", err)
			}
		})
	}
}

func TestVerifyRecoversWhenTheIssuerDoes(t *testing.T) {
	p := newIDP(t)
	v := p.verifier(t)
	p.broken.Store(true)
	if got, err := v.Verify(t.Context(), p.token(t, nil)); !errors.Is(err, ErrUnreachable) || !got.IsAnonymous() {
		t.Errorf("got %v, %v", got, err)
	}
	p.broken.Store(false)
	if _, err := v.Verify(t.Context(), p.token(t, nil)); err != nil {
		t.Error(err)
	}
	p.broken.Store(true)
	if _, err := v.Verify(t.Context(), p.token(t, nil)); err != nil {
		t.Errorf("with the keys at hand: %v", err)
	}
}

func TestMissingKeysAreNoWrongSignature(t *testing.T) {
	p := newIDP(t)
	p.keysURL = p.URL + "/moved"
	p.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.NotFound(w, r)
			return
		}
		p.serve(w, r)
	})
	if _, err := p.verifier(t).Verify(t.Context(), p.token(t, nil)); !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestForgedTokensDoNotFloodTheIssuer(t *testing.T) {
	p, stranger := newIDP(t), newIDP(t)
	v := p.verifier(t)
	forged := sign(t, jose.RS256, stranger.keys[jose.RS256], p.claims(nil))
	for range 50 {
		if _, err := v.Verify(t.Context(), forged); err == nil {
			t.Fatal("a forged token was accepted")
		}
	}
	if n := p.requests.Load(); n > fetchBurst+1 {
		t.Errorf("the issuer got %d requests", n)
	}
	if _, err := v.Verify(t.Context(), p.token(t, nil)); err != nil {
		t.Errorf("a good token, after the flood: %v", err)
	}
}

func TestFetchBudgetRefills(t *testing.T) {
	now := time.Unix(1000, 0)
	b := &boundedTransport{now: func() time.Time { return now }}
	for range fetchBurst {
		if !b.take() {
			t.Fatal("the burst is smaller than it should be")
		}
	}
	if b.take() {
		t.Error("the burst is larger than it should be")
	}
	now = now.Add(fetchInterval)
	if !b.take() || b.take() {
		t.Error("an interval is not worth one request")
	}
}

func TestAnswersOfTheIssuerAreBounded(t *testing.T) {
	l := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("x"), 2*maxAnswer)) // the reader stops early
	}))
	defer l.Close()
	resp, err := boundedClient(l.Client()).Get(l.URL)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil || b.Len() != maxAnswer {
		t.Errorf("read %d bytes, %v", b.Len(), err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
}

func TestKeysMustBeServedByHTTPS(t *testing.T) {
	p := newIDP(t)
	p.keysURL = "http://127.0.0.1:1/keys"
	if _, err := p.verifier(t).Verify(t.Context(), p.token(t, nil)); !errors.Is(err, ErrUnreachable) || !strings.Contains(fmt.Sprint(err), "https") {
		t.Errorf("got %v", err)
	}
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	p := newIDP(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.verifier(t).Verify(ctx, p.token(t, nil)); !errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v", err)
	}
}

func TestNewVerifierRefusesIssuersThatCannotBeTrusted(t *testing.T) {
	good := Issuer{Name: "ci", URL: "https://issuer.example", Audience: "headgate"}
	client := &http.Client{Transport: http.DefaultTransport}
	for name, change := range map[string]func(*Issuer){
		"no name":     func(i *Issuer) { i.Name = "" },
		"colon":       func(i *Issuer) { i.Name = "a:b" },
		"http":        func(i *Issuer) { i.URL = "http://issuer.example" },
		"no host":     func(i *Issuer) { i.URL = "https://" },
		"no audience": func(i *Issuer) { i.Audience = "" },
	} {
		i := good
		change(&i)
		if _, err := NewVerifier(t.Context(), []Issuer{i}, client); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := NewVerifier(t.Context(), []Issuer{good, good}, client); err == nil {
		t.Error("the same issuer twice: accepted")
	}
	if _, err := NewVerifier(t.Context(), []Issuer{good}, nil); err == nil {
		t.Error("no client: accepted")
	}
	if _, err := NewVerifier(t.Context(), []Issuer{good}, &http.Client{}); err == nil {
		t.Error("a client that dials by itself: accepted")
	}
	if _, err := NewVerifier(t.Context(), []Issuer{good}, client); err != nil {
		t.Error(err)
	}
}

func TestZeroValueDenies(t *testing.T) {
	p := newIDP(t)
	for _, v := range []*Verifier{nil, {}} {
		if who, err := v.Verify(t.Context(), p.token(t, nil)); !errors.Is(err, ErrIssuer) || !who.IsAnonymous() {
			t.Errorf("verifier: got %v, %v", who, err)
		}
	}
	for _, b := range []*Binder{nil, {}} {
		if !b.Of(process.ID{PID: 1}).IsAnonymous() {
			t.Error("an empty binder knows somebody")
		}
		b.Forget(process.ID{PID: 1})
		if b.Bind(process.ID{}, Principal{Issuer: "a", Subject: "b"}) == nil || b.Bind(process.ID{PID: 1}, Anonymous) == nil {
			t.Error("nobody was bound")
		}
	}
	if (*Binder)(nil).Bind(process.ID{PID: 1}, Principal{Issuer: "a", Subject: "b"}) == nil {
		t.Error("a nil binder bound somebody")
	}
}

func TestReasonsAreDistinct(t *testing.T) {
	seen := map[string]bool{}
	for _, err := range []error{nil, ErrMalformed, ErrIssuer, ErrAudience, ErrExpired, ErrInvalid, ErrUnreachable, errors.New("x")} {
		if r := Reason(err); seen[r] {
			t.Errorf("%q stands for two errors", r)
		} else {
			seen[r] = true
		}
	}
}

func TestBinderKeepsATreeWithItsPrincipal(t *testing.T) {
	var b Binder
	root, other := process.ID{PID: 7, Start: 1}, process.ID{PID: 7, Start: 2}
	who := Principal{Issuer: "ci", Subject: "repo:acme/web", Groups: []string{"ci"}, Claims: map[string]string{"ref": "main"}}
	if err := b.Bind(root, who); err != nil {
		t.Fatal(err)
	}
	if err := b.Bind(root, who); err != nil {
		t.Errorf("the same again: %v", err)
	}
	who.Groups[0], who.Claims["ref"] = "dba", "evil"
	if got := b.Of(root); got.Groups[0] != "ci" || got.Claims["ref"] != "main" {
		t.Errorf("the caller changed a binding: %+v", got)
	}
	for _, p := range []Principal{who, {Issuer: "ci", Subject: "root"}, {Issuer: "people", Subject: "repo:acme/web"}} {
		if err := b.Bind(root, p); !errors.Is(err, ErrBound) {
			t.Errorf("rebinding to %+v: got %v", p, err)
		}
	}
	if !b.Of(other).IsAnonymous() {
		t.Error("a recycled pid inherited a principal")
	}
	b.Forget(root)
	if !b.Of(root).IsAnonymous() {
		t.Error("a forgotten tree still has a principal")
	}
}

func TestBinderIsBoundedAndEvictsNobody(t *testing.T) {
	var b Binder
	who := Principal{Issuer: "ci", Subject: "s"}
	for i := range maxTrees {
		if err := b.Bind(process.ID{PID: 1, Start: uint64(i) + 1}, who); err != nil {
			t.Fatal(err)
		}
	}
	if b.Bind(process.ID{PID: 2}, who) == nil {
		t.Error("one more tree than the bound was accepted")
	}
	if b.Of(process.ID{PID: 1, Start: 1}).IsAnonymous() {
		t.Error("the first tree lost its principal")
	}
}

func TestBindingRacesHaveOneWinner(t *testing.T) {
	var b Binder
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if b.Bind(process.ID{PID: 1}, Principal{Issuer: "ci", Subject: fmt.Sprint(i)}) == nil {
				won.Add(1)
			}
			b.Of(process.ID{PID: 1})
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d principals were bound to one tree", won.Load())
	}
}

func FuzzVerify(f *testing.F) {
	p := newIDP(f)
	v := p.verifier(f)
	good := p.token(f, nil)
	for _, s := range []string{"", "..", good, good + "x", "e30.e30.", strings.ReplaceAll(good, ".", "..")} {
		f.Add(s)
	}
	want, err := v.Verify(f.Context(), good)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, token string) {
		// Base64 has more than one spelling of the same token, hence not "any other".
		if who, err := v.Verify(t.Context(), token); err == nil && !cmp.Equal(who, want) {
			t.Fatalf("%q was accepted as %v", token, who)
		}
	})
}
