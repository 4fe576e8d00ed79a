// Package deptest holds the module to its own architecture.
//
// It has tests and nothing else. They read the source of the whole module, as
// text, and fail with the reason of a rule and with what to do about it. The
// linter repeats some of the rules for editors; these tests are the authority.
//
// Test support is treated as tests are: what only tests may import (this
// folder's parent) may dial, and may look into the kernel.
package deptest
