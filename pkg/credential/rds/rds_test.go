package rds_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/credential/rds"
)

var errNoWay = errors.New("no way out")

// isolate takes away everything that this machine may know of AWS.
func isolate(t *testing.T) rds.Dial {
	t.Helper()
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_ARN",
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
		"HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy", "ALL_PROXY", "all_proxy", "AWS_CA_BUNDLE",
	} {
		t.Setenv(name, "")
	}
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	return func(context.Context, string, string) (net.Conn, error) { return nil, errNoWay }
}

func TestATokenIsARequestThatIsSignedForTheAccountAtTheEndpoint(t *testing.T) {
	dial := isolate(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "not-in-the-token")
	t.Setenv("AWS_SESSION_TOKEN", "the-session")
	var mint credential.Mint = rds.New(dial).Token
	token, err := mint(t.Context(), "eu-central-1", "db.example.eu-central-1.rds.amazonaws.com:5432", "app user")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(token), "not-in-the-token") {
		t.Fatal("the token holds the key")
	}
	u, err := url.Parse("https://" + string(token))
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if u.Host != "db.example.eu-central-1.rds.amazonaws.com:5432" || q.Get("Action") != "connect" || q.Get("DBUser") != "app user" ||
		q.Get("X-Amz-Expires") != "900" || q.Get("X-Amz-Security-Token") != "the-session" || q.Get("X-Amz-Signature") == "" ||
		!strings.HasPrefix(q.Get("X-Amz-Credential"), "AKIDEXAMPLE/") || !strings.HasSuffix(q.Get("X-Amz-Credential"), "/eu-central-1/rds-db/aws4_request") {
		t.Errorf("host %s, query %v", u.Host, q)
	}
}

func TestKeysAreAskedForThroughOurDoorOnly(t *testing.T) {
	dial := isolate(t)
	if token, err := rds.New(dial).Token(t.Context(), "eu-central-1", "db.example:5432", "app"); err == nil || len(token) > 0 {
		t.Errorf("got a token of %d bytes, %v", len(token), err)
	}
	// A web identity needs STS, and STS a connection.
	identity := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(identity, []byte("a.b.c"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/gate")
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", identity)
	if _, err := rds.New(dial).Token(t.Context(), "eu-central-1", "db.example:5432", "app"); err == nil || !strings.Contains(err.Error(), errNoWay.Error()) {
		t.Errorf("got %v, want one that is %q", err, errNoWay)
	}
}
