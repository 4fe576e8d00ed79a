package statement

import (
	"errors"
	"fmt"
	"sync"

	pg "github.com/pganalyze/pg_query_go/v6"
	"github.com/wasilibs/go-pgquery"
)

// The library keeps its sandboxes in a pool of its own, one for the whole
// process, and puts one back even after a trap left its memory half written.
// So the guard is one for the process too: it lets one text in at a time,
// which bounds the pool to one sandbox, and gives [quarantine] the certainty
// that nobody picked up a broken one. A text that takes long has to pass
// behind the other long ones first, so that a short one waits for at most one.
var (
	library sync.Mutex
	long    sync.Mutex
)

// longTokens is from where a text takes milliseconds.
const longTokens = 2000

// errTrap means that the sandbox was lost in the middle of a text.
var errTrap = errors.New("parser trapped")

// parseTree turns text into a syntax tree. The caller has bounded its size and
// shape. It returns errTrap if the sandbox broke; the sandbox is replaced.
func parseTree(text string, sh shape) (tree *pg.ParseResult, err error) {
	if sh.tokens > longTokens {
		long.Lock()
		defer long.Unlock()
	}
	library.Lock()
	defer library.Unlock()
	defer func() {
		if cause := recover(); cause != nil {
			quarantine()
			tree, err = nil, errTrap
		}
	}()
	tree, err = pg_query.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("parse text: %w", err)
	}
	return tree, nil
}

// scanTokens returns the tokens of a text that parseTree has accepted, comments
// included.
func scanTokens(text string) (tokens []*pg.ScanToken, err error) {
	library.Lock()
	defer library.Unlock()
	defer func() {
		if cause := recover(); cause != nil {
			quarantine()
			tokens, err = nil, errTrap
		}
	}()
	result, err := pg_query.Scan(text)
	if err != nil {
		return nil, fmt.Errorf("scan text: %w", err)
	}
	return result.GetTokens(), nil
}
