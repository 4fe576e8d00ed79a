package statement

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/headgate/headgate/pkg/protocol"
)

// The defaults of [Options].
const (
	DefaultCacheEntries = 8192
	DefaultCacheBytes   = 32 << 20
	DefaultMaxText      = 1 << 20
)

// maxForm is up to where a form is looked for, in bytes of text.
const maxForm = 4 << 10

// The reasons of an unknown statement that are no message of the grammar.
const (
	reasonOversize  = "oversize"
	reasonNesting   = "nesting"
	reasonNUL       = "zero byte in text"
	reasonEncoding  = "invalid UTF-8"
	reasonNoneFound = "no statement found in a text that is not blank"
	reasonObjects   = "too many names"
	reasonNoParser  = "no parser"
)

// Options of a [Parser]. A value that is not positive means its default.
type Options struct {
	// CacheEntries bounds the texts whose facts are kept.
	CacheEntries int
	// CacheBytes bounds the estimated bytes of what is kept.
	CacheBytes int
	// MaxText is the size in bytes above which a text is unknown, unread.
	MaxText int
	// Shortcuts, where they are avoided, have every text read as if it were the first.
	Shortcuts protocol.Shortcuts
}

func (o Options) withDefaults() Options {
	pick := func(n, byDefault int) int {
		if n > 0 {
			return n
		}
		return byDefault
	}
	return Options{
		CacheEntries: pick(o.CacheEntries, DefaultCacheEntries),
		CacheBytes:   pick(o.CacheBytes, DefaultCacheBytes),
		MaxText:      pick(o.MaxText, DefaultMaxText),
		Shortcuts:    o.Shortcuts,
	}
}

// Parser turns SQL text into facts and remembers them by the exact text, and by
// its form where the values of literals change nothing. Safe for concurrent use. A
// nil or zero Parser takes every text for unknown.
type Parser struct {
	cache *cache
	// forms are the facts by the key of a form; none at all for a form of which
	// each text has to be read.
	forms     *cache
	spare     sync.Pool // of *form
	maxText   int
	shortcuts protocol.Shortcuts
}

// NewParser returns a Parser. Its first miss takes over a second, unless
// [Parser.Warm] was called.
func NewParser(o Options) *Parser {
	o = o.withDefaults()
	return &Parser{
		cache: newCache(o.CacheEntries/2, o.CacheBytes/2), forms: newCache(o.CacheEntries/2, o.CacheBytes/2), maxText: o.MaxText,
		shortcuts: o.Shortcuts, spare: sync.Pool{New: func() any { return new(form) }},
	}
}

// Parse returns what each statement of text does, in the order in which the
// upstream runs them. There is always at least one; a text that could not be
// understood is a single statement with the effect [Unknown], and a blank one
// a single statement with the effect [Empty]. The result is shared: read only.
// The text is not modified and may be kept.
func (p *Parser) Parse(text string) []Statement {
	if p == nil || p.cache == nil {
		return unknown(text, reasonNoParser)
	}
	if len(text) > p.maxText {
		return oversize(text)
	}
	if !p.shortcuts.Taken() {
		return parse(strings.Clone(text))
	}
	if facts, ok := p.cache.get(text); ok {
		return facts
	}
	facts, _ := p.learn(strings.Clone(text), nil) // the caller's may be a piece of a larger buffer
	return facts
}

// ParseForm is [Parser.Parse] of a text that is not kept. The form is nil, or the
// same statement for all texts whose facts differ in nothing but the Text. Nobody
// may look into it: it is for telling whether two are alike. Facts that nobody else
// shares are put into room, which is empty, if there is any; it is the caller's.
func (p *Parser) ParseForm(text []byte, room []Statement) (facts []Statement, form *Statement) {
	if p == nil || p.cache == nil || len(text) > p.maxText {
		return p.Parse(string(text)), nil
	}
	if facts, ok := p.cache.getBytes(text); ok {
		return facts, nil
	}
	return p.learn(string(text), room)
}

// learn returns the facts of a text that is not known.
func (p *Parser) learn(text string, room []Statement) (facts []Statement, form *Statement) {
	if facts, form = p.byForm(text, room); form != nil {
		return facts, form
	}
	facts = parse(text)
	p.cache.put(text, facts)
	return facts, nil
}

// byForm returns the facts that all texts of the same form share, if the text is
// one statement that has such a form, in room if there is any.
func (p *Parser) byForm(text string, room []Statement) (facts []Statement, common *Statement) {
	if len(text) > maxForm {
		return nil, nil
	}
	f := p.spare.Get().(*form)
	defer p.spare.Put(f)
	if !f.read(text) {
		return nil, nil
	}
	shared, known := p.forms.getBytes(f.key())
	if !known {
		key := string(f.key())
		shared = sharedFacts(text, f)
		p.forms.put(key, shared)
	}
	if len(shared) == 0 {
		return nil, nil
	}
	facts = append(room, shared[0])
	facts[0].Text = strings.TrimSpace(strings.TrimSuffix(text, ";"))
	return facts, &shared[0]
}

// Warm starts the parser and checks that it answers, so that no agent waits
// for it. It takes over a second and some 30 MiB.
func (p *Parser) Warm() error {
	facts := p.Parse("SELECT 1")
	if len(facts) != 1 || facts[0].Verb != Select {
		return fmt.Errorf("start parser: %s", facts[0].Reason)
	}
	return nil
}

// Parse does what [Parser.Parse] does, without a cache and with the default
// limit.
func Parse(text string) []Statement {
	if len(text) > DefaultMaxText {
		return oversize(text)
	}
	return parse(text)
}

// oversize does not keep the text: only its start, for the record.
func oversize(text string) []Statement {
	const keep = 1024
	return unknown(strings.ToValidUTF8(strings.Clone(text[:min(keep, len(text))]), "\uFFFD"), reasonOversize)
}

// sharedFacts returns the facts of all texts that have the same form as text, or
// nothing if they may differ. The literals have to be where a parameter would do,
// and the facts have to be those of the form with parameters, which hold for every
// value.
func sharedFacts(text string, f *form) []Statement {
	sh := scan(text)
	if sh.depth > maxDepth || sh.tokens > maxTokens {
		return nil
	}
	tree, err := parseTree(text, sh)
	if err != nil || len(tree.GetStmts()) != 1 {
		return nil
	}
	found := inert(tree.GetStmts()[0].GetStmt())
	if slices.Sort(found); !slices.Equal(found, f.at) {
		return nil // a literal stands elsewhere
	}
	facts, general := parse(text), parse(string(f.text))
	if len(facts) != 1 || len(general) != 1 || facts[0].Does(Unknown) || facts[0].Inner != nil || facts[0].Copy != nil {
		return nil
	}
	general[0].Text = facts[0].Text
	if !reflect.DeepEqual(facts, general) || facts[0].Text != strings.TrimSpace(strings.TrimSuffix(text, ";")) {
		return nil
	}
	return facts
}

func parse(text string) []Statement {
	switch {
	case strings.IndexByte(text, 0) >= 0:
		return unknown(text, reasonNUL)
	case !utf8.ValidString(text):
		return unknown(text, reasonEncoding)
	}
	sh := scan(text)
	switch {
	case sh.depth > maxDepth:
		return unknown(text, reasonNesting)
	case sh.tokens > maxTokens:
		return unknown(text, reasonOversize)
	}
	tree, err := parseTree(text, sh)
	if err != nil {
		return unknown(text, err.Error())
	}
	if len(tree.GetStmts()) == 0 {
		if sh.blank {
			return []Statement{{Verb: Empty, Effects: []string{Empty}, Text: text}}
		}
		return unknown(text, reasonNoneFound)
	}
	if len(tree.GetStmts()) > maxStatements {
		return unknown(text, reasonOversize)
	}
	facts := make([]Statement, 0, len(tree.GetStmts()))
	bodies := maxBodies
	for _, raw := range tree.GetStmts() {
		s := analyzeWith(raw.GetStmt(), &bodies)
		s.Text = slice(text, raw.GetStmtLocation(), raw.GetStmtLen())
		if s.Copy != nil {
			s.Copy.place(text, len(tree.GetStmts()))
		}
		facts = append(facts, s)
	}
	return facts
}

// slice returns the statement's part of text; all of it if the parser's
// numbers make no sense. A length of 0 means the rest.
func slice(text string, at, n int32) string {
	start, end := int(at), int(at)+int(n)
	if n == 0 {
		end = len(text)
	}
	if start < 0 || start > end || end > len(text) {
		return text
	}
	return strings.TrimSpace(text[start:end])
}
