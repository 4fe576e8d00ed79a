//go:build linux && !race

package socket

import (
	"errors"
	"io"
	"testing"
)

func TestReadsAndWritesAllocateNothing(t *testing.T) {
	near, far := pair(t)
	one, other := wrap(t, near), wrap(t, far)
	p := make([]byte, 64)
	var failed error
	n := testing.AllocsPerRun(100, func() {
		_, err := one.Write(p)
		if _, readErr := io.ReadFull(other, p); err != nil || readErr != nil {
			failed = errors.Join(err, readErr)
		}
	})
	if failed != nil || n != 0 {
		t.Errorf("%v allocations, %v", n, failed)
	}
}
