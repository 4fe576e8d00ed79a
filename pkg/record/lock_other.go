//go:build !unix

package record

import (
	"errors"
	"os"
)

// lock fails: without a lock two writers could fork the chain.
func lock(*os.File) error { return errors.ErrUnsupported }
