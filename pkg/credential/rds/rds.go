// Package rds makes the tokens with which accounts of Amazon RDS log in that have
// no password: a request that is signed with keys of AWS for one account at one
// endpoint, and is good for 15 minutes
// (docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.html).
//
// The AWS SDK finds the keys where it always does: the environment, its shared
// configuration, a web identity, the role of a container or of the instance.
package rds

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/rds/auth"
)

// maxRegions bounds the regions of which the configuration is remembered. There
// are as many as the configuration of headgate names.
const maxRegions = 64

// Dial opens a connection to a name and a port.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Minter makes tokens. It is safe for concurrent use.
type Minter struct {
	http *awshttp.BuildableClient

	mu      sync.Mutex
	regions map[string]aws.Config
}

// New returns a Minter whose SDK asks for keys, where it has to ask anybody,
// through dial, and the proxy of the environment if there is one.
func New(dial Dial) *Minter {
	client := awshttp.NewBuildableClient().WithTimeout(10 * time.Second).WithTransportOptions(func(t *http.Transport) {
		t.DialContext = dial
	})
	return &Minter{http: client, regions: make(map[string]aws.Config)}
}

// Token returns a token for an account at an endpoint, a name and a port. The
// signature is made here; only keys that are not there yet, or have run out, are
// asked for elsewhere, for as long as ctx lasts. It has the
// form of a Mint of package credential.
func (m *Minter) Token(ctx context.Context, region, endpoint, account string) ([]byte, error) {
	from, err := m.configuration(ctx, region)
	if err != nil {
		return nil, err
	}
	token, err := auth.BuildAuthToken(ctx, endpoint, region, account, from.Credentials)
	if err != nil {
		return nil, fmt.Errorf("sign token for %s: %w", endpoint, err)
	}
	return []byte(token), nil
}

// configuration finds out where keys come from; the SDK remembers the keys.
func (m *Minter) configuration(ctx context.Context, region string) (aws.Config, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.regions[region]; ok {
		return c, nil
	}
	c, err := config.LoadDefaultConfig(ctx, config.WithRegion(region), config.WithHTTPClient(m.http))
	if err != nil {
		return aws.Config{}, fmt.Errorf("configure AWS: %w", err)
	}
	if len(m.regions) < maxRegions {
		m.regions[region] = c
	}
	return c, nil
}
