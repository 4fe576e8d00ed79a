package statement

import "strings"

// Limits on the shape of a text. The parser's own recursion ends in a trap
// somewhere above 1,000 nested queries, and its cost is in tokens: 100,000 of
// them take about half a second.
const (
	maxDepth      = 1000
	maxTokens     = 100_000
	maxStatements = 10_000
)

// shape is what a first look at a text tells: whether it holds anything to
// run, and how much work the parser will have with it.
type shape struct {
	// blank means: white space, semicolons and terminated comments only.
	blank bool
	// tokens counts words, numbers, strings and operators.
	tokens int
	// depth is no less than the depth of the syntax tree in nested
	// expressions, and often several times as much.
	depth int
}

// level is one open bracket or CASE. Between two separators (a comma, AND, OR)
// a path of the tree passes through each word and operator at most once, and
// through at most one of the brackets.
type level struct {
	isCase  bool
	between int // BETWEENs whose AND is still to come
	chain   int // words and operators since the last separator
	bracket int // the deepest bracket since the last separator
	wide    int // joins and set operations, which separators do not end
	inside  int // the deepest part that a separator has ended
}

func (l *level) separate() {
	l.inside = max(l.inside, l.chain+l.bracket)
	l.chain, l.bracket, l.between = 0, 0, 0
}

func (l *level) depth() int { return l.wide + max(l.inside, l.chain+l.bracket) }

// scanner walks a text by the lexical rules of PostgreSQL, with
// standard_conforming_strings on.
type scanner struct {
	text   string
	pos    int
	levels []level
	shape  shape
	dotted bool // the last token was a dot: the next word is a name
}

// scan looks at a text once, in linear time. It errs towards more depth.
func scan(text string) shape {
	s := scanner{text: text, levels: make([]level, 1, 16), shape: shape{blank: true}}
	for s.pos < len(s.text) && s.shape.tokens <= maxTokens && s.shape.depth <= maxDepth {
		s.token()
	}
	for len(s.levels) > 1 {
		s.pop()
	}
	s.shape.depth = max(s.shape.depth, s.levels[0].depth())
	return s.shape
}

func (s *scanner) top() *level { return &s.levels[len(s.levels)-1] }

func (s *scanner) push(isCase bool) {
	s.levels = append(s.levels, level{isCase: isCase})
	s.shape.depth = max(s.shape.depth, len(s.levels))
}

func (s *scanner) pop() {
	if len(s.levels) == 1 {
		return
	}
	d := s.top().depth() + 1
	s.levels = s.levels[:len(s.levels)-1]
	l := s.top()
	l.bracket = max(l.bracket, d)
	s.shape.depth = max(s.shape.depth, l.depth())
}

// token consumes one token or a run of white space.
func (s *scanner) token() {
	c := s.text[s.pos]
	switch {
	case isSpace(c):
		s.pos++
	case c == ';':
		s.pos++
		s.top().separate()
		s.top().wide = 0
	case strings.HasPrefix(s.text[s.pos:], "--"):
		s.lineComment()
	case strings.HasPrefix(s.text[s.pos:], "/*"):
		s.blockComment()
	default:
		s.shape.blank = false
		dotted := s.dotted
		s.dotted = c == '.'
		s.solid(c, dotted)
		s.shape.depth = max(s.shape.depth, s.top().depth()+len(s.levels)-1)
	}
}

// solid consumes a token that the grammar sees.
func (s *scanner) solid(c byte, dotted bool) {
	switch {
	case c == '(' || c == '[':
		s.pos++
		s.push(false)
	case c == ')' || c == ']':
		s.pos++
		for len(s.levels) > 1 && s.top().isCase {
			s.pop()
		}
		s.pop()
	case c == ',':
		s.pos++
		s.top().separate()
	case c == '.':
		s.pos++
	case c == '\'':
		s.shape.tokens++
		s.quoted('\'', false)
	case c == '"':
		s.shape.tokens++
		s.quoted('"', false)
	case c == '$':
		s.shape.tokens++
		s.dollar()
	case c >= '0' && c <= '9':
		s.shape.tokens++
		s.skipWord()
	case isWordStart(c):
		s.shape.tokens++
		s.word(dotted)
	default:
		s.shape.tokens++
		s.top().chain++
		s.pos++
	}
}

// word consumes an identifier, a keyword, or a string with a prefix.
func (s *scanner) word(dotted bool) {
	start := s.pos
	s.skipWord()
	w := s.text[start:s.pos]
	if s.pos < len(s.text) && s.text[s.pos] == '\'' && len(w) == 1 {
		s.quoted('\'', w == "e" || w == "E")
		return
	}
	if dotted {
		s.top().chain++
		return
	}
	switch l := s.top(); strings.ToLower(w) {
	case "and":
		if l.between > 0 {
			l.between--
			return
		}
		l.separate()
	case "or":
		l.separate()
	case "between":
		l.between++
		l.chain++
	case "join", "union", "intersect", "except":
		l.separate()
		l.wide++
	case "case":
		s.push(true)
	case "when", "then", "else":
		if l.isCase {
			l.separate()
			return
		}
		l.chain++
	case "end":
		if l.isCase {
			s.pop()
			return
		}
		l.chain++
	default:
		l.chain++
	}
}

func (s *scanner) skipWord() {
	for s.pos < len(s.text) && isWordPart(s.text[s.pos]) {
		s.pos++
	}
}

// quoted consumes a string or a quoted identifier. A doubled quote needs no
// care: it ends one and begins the next.
func (s *scanner) quoted(quote byte, escapes bool) {
	s.pos++
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == quote:
			s.pos++
			if s.pos < len(s.text) && s.text[s.pos] == quote {
				break // doubled: still inside
			}
			return
		case c == '\\' && escapes:
			s.pos++
		}
		s.pos++
	}
}

// dollar consumes a dollar-quoted string, or else a parameter.
func (s *scanner) dollar() {
	end := s.pos + 1
	for end < len(s.text) && isWordPart(s.text[end]) && s.text[end] != '$' {
		end++
	}
	isTag := end < len(s.text) && s.text[end] == '$' &&
		(end == s.pos+1 || isWordStart(s.text[s.pos+1]))
	if !isTag {
		s.pos = end
		return
	}
	tag := s.text[s.pos : end+1]
	if i := strings.Index(s.text[end+1:], tag); i >= 0 {
		s.pos = end + 1 + i + len(tag)
		return
	}
	s.pos = len(s.text)
}

func (s *scanner) lineComment() {
	if i := strings.IndexAny(s.text[s.pos:], "\r\n"); i >= 0 {
		s.pos += i
		return
	}
	s.pos = len(s.text)
}

// blockComment consumes a comment, which may hold further comments. One that
// does not end is an error in PostgreSQL: it makes the text not blank.
func (s *scanner) blockComment() {
	for depth := 0; s.pos < len(s.text); {
		switch rest := s.text[s.pos:]; {
		case strings.HasPrefix(rest, "/*"):
			depth++
			s.pos += 2
		case strings.HasPrefix(rest, "*/"):
			depth--
			s.pos += 2
			if depth == 0 {
				return
			}
		default:
			s.pos++
		}
	}
	s.shape.blank = false
}

func isSpace(c byte) bool {
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f'
}

func isWordStart(c byte) bool {
	return c == '_' || c >= 0x80 || c|0x20 >= 'a' && c|0x20 <= 'z'
}

func isWordPart(c byte) bool { return isWordStart(c) || c >= '0' && c <= '9' || c == '$' }
