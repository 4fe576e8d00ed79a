package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/policy"
)

const (
	nameChars   = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	regionChars = "abcdefghijklmnopqrstuvwxyz0123456789-"
)

// rdsIAM is the source of tokens for Amazon RDS.
const rdsIAM = "rds-iam"

// notBuilt are the sources of secrets that are planned but not there.
var notBuilt = []string{"exec", "aws-sm", "aws-ssm", "vault"}

// credential checks one entry. It never repeats the value of from or key, which
// may be a secret in the wrong place.
func (k *checker) credential(at, name string, c Credential) {
	if strings.Trim(name, nameChars) != "" || len(name) > 63 {
		k.bad(at, "want a name of letters, digits, '.', '_' and '-', at most 63")
	}
	if region, ok := strings.CutPrefix(c.From, rdsIAM+":"); ok {
		k.rds(at, region, c)
	} else if c.From != "" || c.Certificate == "" {
		k.source(at+".from", c.From)
	}
	k.certificate(at, c)
	for i, m := range c.Methods {
		here := fmt.Sprintf("%s.methods[%d]", at, i)
		k.oneOf(here, m, credential.Methods()...)
		if slices.Index(c.Methods, m) < i {
			k.bad(here, "%s is there twice", m)
		}
	}
	if strings.ContainsFunc(c.Placeholder, func(r rune) bool { return r < ' ' || r > '~' }) || len(c.Placeholder) > 128 {
		k.bad(at+".placeholder", "want 1 to 128 printable characters of ASCII")
	}
	k.credentialHosts(at, c.Hosts)
}

// source checks where a secret is said to be.
func (k *checker) source(at, from string) {
	scheme, rest, _ := strings.Cut(from, ":")
	switch {
	case from == "":
		k.bad(at, "required")
	case slices.Contains(notBuilt, scheme):
		k.bad(at, "source %s: is not available yet, want file:, systemd:, env: or rds-iam:", scheme)
	case scheme != "file" && scheme != "systemd" && scheme != "env" || rest == "":
		k.bad(at, "not a reference to a secret; a secret itself never stands here: %s", secretHint)
	case scheme == "file" && !filepath.IsAbs(rest):
		k.bad(at, "want an absolute path after file:")
	case scheme == "systemd" && (rest == "." || rest == ".." || strings.Contains(rest, "/")):
		k.bad(at, "want the plain name of a systemd credential after systemd:")
	case scheme == "env" && strings.Contains(rest, "="):
		k.bad(at, "want the name of a variable after env:")
	}
}

func (k *checker) certificate(at string, c Credential) {
	if c.Certificate != "" {
		k.path(at+".certificate", c.Certificate)
	}
	switch {
	case c.Key != "" && c.Certificate == "":
		k.bad(at+".certificate", "required with key: write the path of the certificate")
	case c.Certificate != "":
		k.source(at+".key", c.Key)
	}
}

// rds checks what the tokens of Amazon RDS need: who they are for, and where.
func (k *checker) rds(at, region string, c Credential) {
	if region == "" || strings.Trim(region, regionChars) != "" || len(region) > 32 {
		k.bad(at+".from", "want a region of AWS after rds-iam:, as in rds-iam:eu-central-1")
	}
	if c.Username == "" {
		k.bad(at+".username", "required with rds-iam: a token is made for one account")
	}
	for i, m := range c.Methods {
		if m != "password" {
			k.bad(fmt.Sprintf("%s.methods[%d]", at, i), "want password with rds-iam, which has no other method, or nothing")
		}
	}
	for i, s := range c.Hosts {
		if h, err := policy.ParseHost(s); err == nil && h.Name == "" {
			k.bad(fmt.Sprintf("%s.hosts[%d]", at, i), "want the name of the endpoint with rds-iam: a token is made for a name")
		}
	}
}

func (k *checker) credentialHosts(at string, hosts []string) {
	if len(hosts) == 0 {
		k.bad(at+".hosts", "required: a credential is sent to no other destination")
	}
	for i, s := range hosts {
		here := fmt.Sprintf("%s.hosts[%d]", at, i)
		h, err := policy.ParseHost(s)
		if err != nil {
			k.bad(here, "host %q: %v", s, err)
		} else if h.Name == "" && h.Prefix.Bits() == 0 {
			k.bad(here, "host %q: a credential cannot be bound to every address", s)
		}
	}
}
