package statement

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// CopyFormat is the format of a COPY's data.
type CopyFormat uint8

// The formats. The zero CopyFormat is none of them.
const (
	CopyText CopyFormat = iota + 1
	CopyCSV
	CopyBinary
)

// Copy is what a COPY TO STDOUT sends. Like the [Statement] that holds it, it is
// shared: read only.
type Copy struct {
	// Reason says why it is not known what the data looks like, or that there are
	// other statements beside the COPY; empty otherwise. Nothing else may be
	// relied upon if it is set.
	Reason string
	Format CopyFormat
	// Delimiter, Quote and Escape are single bytes; Quote and Escape are of CSV.
	Delimiter, Quote, Escape byte
	// Null stands for NULL, in text and CSV.
	Null string
	// Header tells that the first line holds the names of the columns.
	Header bool
	// Table tells that all columns of a table are copied that are not generated,
	// so Query may have more columns than the data.
	Table bool
	// Query is SQL text of a query whose columns are those of the data: the
	// query in the COPY as it was written, at its place, with blanks for what
	// stood in front of it; or a query made of the names of table and columns.
	Query string
	// Placed tells that positions in Query are positions in the parsed text.
	Placed bool
	// Facts are those of the query in the COPY, nil if it names a table: the
	// columns of a table are no computed ones.
	Facts *Statement
}

// copyOptions collects the options of a COPY.
type copyOptions struct {
	*Copy
	given map[string]bool
}

// newCopy returns the facts of a COPY TO STDOUT, without the text of its query;
// nil for every other COPY.
func newCopy(n *pg.CopyStmt) *Copy {
	if n.GetIsFrom() || n.GetIsProgram() || n.GetFilename() != "" {
		return nil
	}
	c := &Copy{Format: CopyText}
	options := copyOptions{Copy: c, given: map[string]bool{}}
	for _, o := range n.GetOptions() {
		options.option(o.GetDefElem())
	}
	options.defaults()
	if n.GetQuery() != nil {
		facts := analyze(n.GetQuery())
		c.Facts = &facts
		return c
	}
	c.Table = len(n.GetAttlist()) == 0
	c.Query = tableQuery(n)
	if c.Query == "" {
		c.refuse("COPY of nothing")
	}
	return c
}

// tableQuery selects what COPY would copy of a table: COPY leaves out the tables
// that inherit from it.
func tableQuery(n *pg.CopyStmt) string {
	var table []string
	for _, part := range []string{n.GetRelation().GetCatalogname(), n.GetRelation().GetSchemaname(), n.GetRelation().GetRelname()} {
		if part != "" {
			table = append(table, quoteIdentifier(part))
		}
	}
	names := stringsOf(n.GetAttlist())
	if len(table) == 0 || len(names) != len(n.GetAttlist()) {
		return ""
	}
	list := "*"
	for i, name := range names {
		names[i] = quoteIdentifier(name)
	}
	if len(names) > 0 {
		list = strings.Join(names, ", ")
	}
	return "SELECT " + list + " FROM ONLY " + strings.Join(table, ".")
}

func quoteIdentifier(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// refuse notes the first reason.
func (c *Copy) refuse(reason string) {
	if c.Reason == "" {
		c.Reason = reason
	}
}

// option takes one option, whichever syntax it was written in: the grammar makes
// them the same. What the server would refuse is refused here too; one that only
// a later server knows may mean anything.
func (c *copyOptions) option(o *pg.DefElem) {
	name := o.GetDefname()
	if c.given[name] {
		c.refuse("option " + name + " of COPY given twice")
		return
	}
	c.given[name] = true
	switch name {
	case "format":
		c.format(optionString(o))
	case "delimiter":
		c.Delimiter = c.single(o)
	case "quote":
		c.Quote = c.single(o)
	case "escape":
		c.Escape = c.single(o)
	case "null":
		s := optionString(o)
		if s == nil || strings.ContainsAny(*s, "\r\n") {
			c.refuse("option null of COPY")
			return
		}
		c.Null = *s
	case "header":
		c.Header = c.truth(o)
	case "freeze":
		c.truth(o)
	case "force_quote": // it changes which values are quoted, and not how
	case "encoding":
		if s := optionString(o); s == nil || !isUTF8([]string{*s}) {
			c.refuse("COPY in an encoding other than UTF8")
		}
	default:
		c.refuse("option " + name + " of COPY is not known")
	}
}

func (c *copyOptions) format(name *string) {
	switch {
	case name == nil:
		c.refuse("option format of COPY")
	case *name == "text":
	case *name == "csv":
		c.Format = CopyCSV
	case *name == "binary":
		c.Format = CopyBinary
	default:
		c.refuse("format of COPY is not known")
	}
}

// single returns the byte of an option that has to be one.
func (c *copyOptions) single(o *pg.DefElem) byte {
	s := optionString(o)
	if s == nil || len(*s) != 1 || (*s)[0] == '\r' || (*s)[0] == '\n' {
		c.refuse("option " + o.GetDefname() + " of COPY is not a single byte")
		return 0
	}
	return (*s)[0]
}

// truth reads a boolean as PostgreSQL's defGetBoolean does.
func (c *copyOptions) truth(o *pg.DefElem) bool {
	arg := o.GetArg()
	if arg == nil {
		return true
	}
	if i := arg.GetInteger(); i != nil && (i.GetIval() == 0 || i.GetIval() == 1) {
		return i.GetIval() == 1
	}
	if b := arg.GetBoolean(); b != nil {
		return b.GetBoolval()
	}
	if s := optionString(o); s != nil {
		switch strings.ToLower(*s) {
		case "true", "on":
			return true
		case "false", "off":
			return false
		}
	}
	c.refuse("option " + o.GetDefname() + " of COPY is not a truth value")
	return false
}

// defaults fills in what was not given, and refuses what makes data that reads in
// two ways. The server refuses the same, and is not relied upon.
func (c *copyOptions) defaults() {
	csv := c.Format == CopyCSV
	if !c.given["delimiter"] {
		c.Delimiter = '\t'
		if csv {
			c.Delimiter = ','
		}
	}
	if !c.given["null"] && !csv {
		c.Null = `\N`
	}
	if !c.given["quote"] {
		c.Quote = '"'
	}
	if !c.given["escape"] {
		c.Escape = c.Quote
	}
	if !csv && (c.given["quote"] || c.given["escape"] || c.given["force_quote"]) {
		c.refuse("options of CSV for another format of COPY")
	}
	if c.Format == CopyBinary {
		if c.given["delimiter"] || c.given["null"] || c.Header {
			c.refuse("options of text for COPY in binary format")
		}
		return
	}
	if !csv && (c.Null == `\.` || (len(c.Null)-len(strings.TrimRight(c.Null, `\`)))%2 == 1) {
		c.refuse("string for NULL of COPY is also something else")
	}
	const forbidden = "\\.abcdefghijklmnopqrstuvwxyz0123456789"
	switch {
	case !csv && strings.IndexByte(forbidden, c.Delimiter) >= 0,
		csv && c.Delimiter == c.Quote,
		strings.IndexByte(c.Null, c.Delimiter) >= 0,
		csv && strings.IndexByte(c.Null, c.Quote) >= 0:
		c.refuse("delimiter of COPY is also something else")
	}
}

// optionString returns the string of an option, nil if it has none.
func optionString(o *pg.DefElem) *string {
	if s := o.GetArg().GetString_(); s != nil {
		v := s.GetSval()
		return &v
	}
	return nil
}

// place takes the COPY's query from the text, which has that many statements:
// what stands between the parenthesis behind COPY and the one that closes it.
func (c *Copy) place(text string, statements int) {
	if statements != 1 {
		c.refuse("there are other statements beside the COPY")
	}
	if c.Facts == nil || c.Reason != "" {
		return
	}
	tokens, err := scanTokens(text)
	if err != nil {
		c.refuse("query of COPY: " + err.Error())
		return
	}
	start, end, ok := parenthesized(tokens)
	if !ok || start > end || end > len(text) {
		c.refuse("query of COPY is not where it has to be")
		return
	}
	c.Query, c.Placed = blank(text[:start])+text[start:end], true
	c.Facts.Text = strings.TrimSpace(text[start:end])
}

// blank returns as many blanks as text has characters: positions in errors count
// characters.
func blank(text string) string { return strings.Repeat(" ", len([]rune(text))) }

// parenthesized returns where the text inside the parenthesis is that has to be
// the second token.
func parenthesized(tokens []*pg.ScanToken) (start, end int, ok bool) {
	depth, seen := 0, 0
	for _, t := range tokens {
		switch t.GetToken() {
		case pg.Token_SQL_COMMENT, pg.Token_C_COMMENT:
			continue
		case pg.Token_ASCII_40:
			if depth++; depth == 1 {
				start = int(t.GetEnd())
			}
		case pg.Token_ASCII_41:
			if depth--; depth == 0 {
				return start, int(t.GetStart()), seen > 0
			}
		case pg.Token_COPY:
			if seen > 0 && depth == 0 {
				return 0, 0, false
			}
		default:
			if depth == 0 {
				return 0, 0, false
			}
		}
		seen++
	}
	return 0, 0, false
}
