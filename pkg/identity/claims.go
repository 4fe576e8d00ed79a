package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
)

// A token is signed by a trusted issuer, but what stands in it can come from
// people who name their groups and branches as they like. Hence the bounds.
const (
	maxSubject = 255 // OpenID Connect Core, section 2
	maxGroups  = 256
	maxClaims  = 64
	maxValue   = 1024
)

// principal takes from a verified token what the configuration lets through.
func (p *provider) principal(token *oidc.IDToken) (Principal, error) {
	var claims map[string]json.RawMessage
	if err := token.Claims(&claims); err != nil {
		return Anonymous, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if token.Subject == "" || len(token.Subject) > maxSubject || !printable(token.Subject) {
		return Anonymous, fmt.Errorf("%w: subject is empty, too long or not printable", ErrMalformed)
	}
	who := Principal{Issuer: p.Name, Subject: token.Subject}
	if raw, ok := claims[p.GroupsClaim]; ok && p.GroupsClaim != "" {
		var groups list
		if err := json.Unmarshal(raw, &groups); err != nil || len(groups) > maxGroups {
			return Anonymous, fmt.Errorf("%w: claim %q is no list of at most %d groups", ErrMalformed, p.GroupsClaim, maxGroups)
		}
		for _, g := range groups {
			if g == "" || len(g) > maxValue || !printable(g) {
				return Anonymous, fmt.Errorf("%w: claim %q has a group that is empty, too long or not printable", ErrMalformed, p.GroupsClaim)
			}
		}
		who.Groups = groups
	}
	for _, name := range p.Claims {
		raw, ok := claims[name]
		if !ok || string(raw) == "null" {
			continue
		}
		value, err := claimText(raw)
		if err != nil {
			return Anonymous, fmt.Errorf("%w: claim %q %v", ErrMalformed, name, err)
		}
		if who.Claims == nil {
			who.Claims = make(map[string]string, len(p.Claims))
		}
		who.Claims[name] = value
	}
	return who, nil
}

// claimText returns a string as it is and everything else as compact JSON:
// numbers keep their digits, lists and objects can be matched as text.
func claimText(raw json.RawMessage) (string, error) {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		var b bytes.Buffer
		if err := json.Compact(&b, raw); err != nil {
			return "", err
		}
		text = b.String()
	}
	if len(text) > maxValue {
		return "", fmt.Errorf("is longer than %d bytes", maxValue)
	}
	if !printable(text) {
		return "", errors.New("is not printable")
	}
	return text, nil
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
