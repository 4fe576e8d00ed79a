package protocoltest

import (
	"fmt"
	"slices"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
)

// table is a fake of the policy: one row per effect. The zero table denies.
type table struct {
	rows  []row
	allow bool // everything, as in observe mode
}

type row struct {
	effect   string
	decision policy.Decision
}

func parseTable(text []string) (table, error) {
	var t table
	for _, line := range text {
		e, err := parseEntry(line)
		if err != nil {
			return table{}, err
		}
		if len(e.words) != 2 {
			return table{}, fmt.Errorf("%q: want a verdict and an effect", line)
		}
		d := policy.Decision{Rule: "test", Reason: policy.ReasonRule}
		switch e.words[0] {
		case "allow":
			d.Verdict = policy.Allow
		case "deny":
		case "error":
			d.Rule, d.Reason = "default", protocol.ReasonAudit
		default:
			return table{}, fmt.Errorf("%q: unknown verdict", line)
		}
		if err := decorate(&d, e.keys); err != nil {
			return table{}, fmt.Errorf("%q: %w", line, err)
		}
		t.rows = append(t.rows, row{e.words[1], d})
	}
	return t, nil
}

func decorate(d *policy.Decision, keys []keyed) error {
	for _, k := range keys {
		value, err := unquote(k.value)
		if err != nil {
			return err
		}
		switch k.key {
		case "rule":
			d.Rule = value
		case "reason":
			d.Reason = value
		case "message":
			d.Message = value
		default:
			return fmt.Errorf("unknown key %q", k.key)
		}
	}
	return nil
}

// decide answers as a policy does: one denied effect denies, and all must be
// allowed.
func (t table) decide(op *policy.Operation) policy.Decision {
	if t.allow {
		return policy.Decision{Verdict: policy.Allow, Rule: "test", Reason: policy.ReasonRule, Mode: policy.Observe}
	}
	effects := op.Effects
	if len(effects) == 0 {
		effects = []string{policy.Unknown}
	}
	var allowed policy.Decision
	for _, effect := range effects {
		d := t.effect(effect)
		if d.Verdict != policy.Allow {
			return d
		}
		allowed = d
	}
	return allowed
}

func (t table) effect(effect string) policy.Decision {
	i := slices.IndexFunc(t.rows, func(r row) bool {
		return r.effect == effect || r.effect == "*" && effect != policy.Unknown
	})
	switch {
	case i >= 0:
		return t.rows[i].decision
	case effect == policy.Unknown:
		return policy.Decision{Rule: "default", Reason: policy.ReasonUnknownOperation}
	default:
		return policy.Decision{Rule: "default", Reason: policy.ReasonUnmatched}
	}
}
