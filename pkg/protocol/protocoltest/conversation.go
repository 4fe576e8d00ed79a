package protocoltest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
)

// conversation is one parsed file. It is not changed by being played.
type conversation struct {
	settings settings
	table    table
	masks    *mask.Set

	agent    []step
	upstream []step // nil if nothing may be dialled

	operations []entry
	frames     []entry // nil if they are not compared
	detect     *protocol.Match
	refusal    []byte // nil if it is not compared
}

type settings struct {
	observe    bool
	slow       bool
	resource   policy.Resource
	credential *credential.Credential
}

// action is what a party does in one step.
type action uint8

const (
	send action = iota
	receive
	halfClose
	hangUp
	abort
	awaitEnd
	awaitReset
)

type step struct {
	action action
	bytes  []byte
}

var ends = map[string]action{
	"! eof": halfClose, "! close": hangUp, "! reset": abort,
	"? eof": awaitEnd, "? reset": awaitReset,
}

func parse(archive *txtar.Archive, codec Codec) (*conversation, error) {
	c := &conversation{settings: plain()}
	seen := map[string]bool{}
	for _, file := range archive.Files {
		if seen[file.Name] {
			return nil, fmt.Errorf("section %q: it is there twice", file.Name)
		}
		seen[file.Name] = true
		if err := c.section(file.Name, meaningful(string(file.Data)), codec); err != nil {
			return nil, fmt.Errorf("section %q: %w", file.Name, err)
		}
	}
	if !seen["agent"] {
		return nil, errors.New(`section "agent" is missing`)
	}
	c.table.allow = c.settings.observe
	return c, nil
}

func (c *conversation) section(name string, text []string, codec Codec) (err error) {
	switch name {
	case "session":
		c.settings, err = parseSettings(text)
	case "decide":
		c.table, err = parseTable(text)
	case "masks":
		c.masks, err = parseMasks(text)
	case "agent":
		c.agent, err = parseSteps(text, '>', codec)
	case "upstream":
		c.upstream, err = parseSteps(text, '<', codec)
	case "operations":
		c.operations, err = parseEntries(text)
	case "frames":
		c.frames, err = parseEntries(text)
	case "detect":
		c.detect, err = parseMatch(strings.Join(text, " "))
	case "refusal":
		var steps []step
		steps, err = parseSteps(text, '>', codec)
		c.refusal = append([]byte{}, total(steps, receive)...)
	default:
		err = errors.New("unknown section")
	}
	return err
}

// meaningful returns the lines that are neither blank nor a comment.
func meaningful(text string) []string {
	var kept []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "#") {
			kept = append(kept, line)
		}
	}
	return kept
}

// parseSteps reads the script of the party that sends in the direction of out.
// Neighbours that say the same become one step. The result is never nil.
func parseSteps(text []string, out byte, codec Codec) ([]step, error) {
	steps := []step{}
	for i, line := range text {
		if end, ok := ends[line]; ok {
			if end != halfClose && end != awaitEnd && i < len(text)-1 {
				return nil, fmt.Errorf("%q: only the last line may be this", line)
			}
			steps = append(steps, step{action: end})
			continue
		}
		if line[0] != '>' && line[0] != '<' {
			return nil, fmt.Errorf("%q: want \">\", \"<\" or one of the ends", line)
		}
		bytes, err := codec.Encode(strings.TrimSpace(line[1:]))
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		act := receive
		if line[0] == out {
			act = send
		}
		if n := len(steps); n > 0 && steps[n-1].action == act {
			steps[n-1].bytes = append(steps[n-1].bytes, bytes...)
			continue
		}
		steps = append(steps, step{act, bytes})
	}
	return steps, nil
}

// withoutEnds returns the steps of a party that waits for the other to end.
func withoutEnds(steps []step) []step {
	return slices.DeleteFunc(slices.Clone(steps), func(s step) bool { return s.action > receive })
}

// total returns all that is sent, or all that is received.
func total(steps []step, what action) []byte {
	var all []byte
	for _, s := range steps {
		if s.action == what {
			all = append(all, s.bytes...)
		}
	}
	return all
}

// opening is what the agent sends before it first waits for anything.
func (c *conversation) opening() []byte {
	if len(c.agent) == 0 || c.agent[0].action != send {
		return nil
	}
	return c.agent[0].bytes
}

func parseEntries(text []string) ([]entry, error) {
	entries := []entry{}
	for _, line := range text {
		e, err := parseEntry(line)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func parseMatch(word string) (*protocol.Match, error) {
	for _, m := range []protocol.Match{protocol.No, protocol.More, protocol.Yes} {
		if matchWord(m) == word {
			return &m, nil
		}
	}
	return nil, fmt.Errorf("%q: want yes, no or more", word)
}

func matchWord(m protocol.Match) string {
	switch m {
	case protocol.Yes:
		return "yes"
	case protocol.More:
		return "more"
	default:
		return "no"
	}
}

// plain are the settings of a session without a section for them.
func plain() settings {
	return settings{resource: policy.Resource{TLS: policy.TLS{Verify: policy.TLSOff}}}
}

func parseSettings(text []string) (settings, error) {
	s := plain()
	for _, line := range text {
		words := strings.Fields(line)
		switch {
		case words[0] == "observe" && len(words) == 1:
			s.observe = true
		case words[0] == "slow" && len(words) == 1:
			s.slow = true
		case words[0] == "resource" && len(words) == 2:
			s.resource.Name = words[1]
		case words[0] == "tls" && len(words) == 2:
			s.resource.TLS.Verify = words[1]
		case words[0] == "credential" && len(words) == 3:
			s.credential = newCredential(words[1], words[2])
		default:
			return settings{}, fmt.Errorf("%q: unknown setting", line)
		}
	}
	return s, nil
}

func parseMasks(text []string) (*mask.Set, error) {
	var rules []mask.Rule
	for i, line := range text {
		words := strings.Fields(line)
		if len(words) < 3 || len(words) > 4 {
			return nil, fmt.Errorf("%q: want what, its name, and a transform", line)
		}
		rule := mask.Rule{Name: fmt.Sprintf("mask-%d", i+1), With: words[2]}
		switch words[0] {
		case "column":
			rule.Columns = words[1:2]
		case "detector":
			rule.Detect = words[1:2]
		default:
			return nil, fmt.Errorf("%q: want column or detector", line)
		}
		if len(words) == 4 {
			rule.Constant = words[3]
		}
		rules = append(rules, rule)
	}
	return mask.Compile(rules)
}
