package main

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/headgate/headgate/pkg/kernel"
)

func TestErrorsOfTheKernelSideSayWhatToDo(t *testing.T) {
	for _, c := range []struct {
		err  error
		says string
	}{{fmt.Errorf("load: %w", syscall.EPERM), "root"}, {fmt.Errorf("%w: v1 is pinned", kernel.ErrABI), "headgate uninstall"}} {
		var told hinted
		if err := notOpened(c.err); !errors.As(err, &told) || !strings.Contains(told.hint, c.says) || !errors.Is(err, c.err) {
			t.Errorf("%v: %+v", c.err, err)
		}
	}
}
