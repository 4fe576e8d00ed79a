package credential

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Mint makes a secret that is good for a short time and for one account at one
// endpoint, a name and a port. ctx bounds what it may take. Errors must not hold
// the secret. It is called concurrently.
type Mint func(ctx context.Context, region, endpoint, account string) ([]byte, error)

// WithRDS lets a store make tokens for the IAM authentication of Amazon RDS,
// which is the source rds-iam:REGION.
func WithRDS(mint Mint) Option { return func(s *sources) { s.mint = mint } }

// mintPatience bounds the making of a secret: whoever issues the keys that sign
// it may have to be asked.
const mintPatience = 10 * time.Second

// minted is a source of secrets that are made for each login.
type minted struct {
	mint            Mint
	region, account string
	endpoints       map[netip.AddrPort]string
}

func mintedSource(spec Spec, region string, mint Mint) (source, error) {
	if mint == nil {
		return nil, errors.New("source rds-iam: can't be used here")
	}
	if spec.Username == "" {
		return nil, errors.New("source rds-iam: needs a username")
	}
	return minted{mint: mint, region: region, account: spec.Username, endpoints: spec.Endpoints}, nil
}

func (m minted) read(ctx context.Context, target netip.AddrPort) (Secret, error) {
	target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
	endpoint, ok := m.endpoints[target]
	if !ok {
		return Secret{}, fmt.Errorf("make token: %s is none of the names in hosts: write the endpoint of the database there", target)
	}
	ctx, cancel := context.WithTimeout(ctx, mintPatience)
	defer cancel()
	value, err := m.mint(ctx, m.region, endpoint, m.account)
	if err != nil {
		return Secret{}, fmt.Errorf("make token: %w", err)
	}
	if len(value) == 0 || len(value) > maxSecret {
		return Secret{}, fmt.Errorf("make token: %d bytes", len(value))
	}
	return NewSecret(value), nil
}
