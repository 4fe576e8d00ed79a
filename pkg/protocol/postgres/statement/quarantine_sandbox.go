//go:build !pgquery_cgo && !tinygo

package statement

import (
	"container/list"
	"sync"
	_ "unsafe" // for the names below
)

// The library has no call that discards a sandbox, and a broken one must not
// judge the next text. If an update renames these two, the build fails.

//go:linkname idleSandboxes github.com/wasilibs/go-pgquery/parser.abiPool
var idleSandboxes *list.List

//go:linkname idleSandboxesMu github.com/wasilibs/go-pgquery/parser.abiPoolMu
var idleSandboxesMu sync.Mutex

// quarantine forgets every sandbox that the library keeps. The next text gets a
// new one. Call it with the library locked.
func quarantine() {
	idleSandboxesMu.Lock()
	defer idleSandboxesMu.Unlock()
	idleSandboxes.Init()
}
