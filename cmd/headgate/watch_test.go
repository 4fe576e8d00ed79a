package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/config"
)

// A change is told once it is over, and what changes nothing is not told. The
// directory may go and come back.
func TestAWatchedDirectoryTellsOfChangesOfThePolicy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policies")
	put := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("a.yaml", "version: 1\n")
	ctx, stop := context.WithCancel(t.Context())
	told := make(chan string, 16)
	ended := make(chan error, 1)
	look := func() string { return fingerprint(config.LoadPolicies(dir)) }
	seen := look()
	go func() {
		ended <- watchDirectory(ctx, dir, func() string { return seen }, func() { seen = look(); told <- seen })
	}()
	want := func(what string) {
		t.Helper()
		for {
			select {
			case got := <-told:
				if got == look() {
					return
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%s: nothing was told", what)
			}
		}
	}
	put("b.yaml", "version: 1\nmode: observe\n")
	want("a file more")
	put("b_test.yaml", "nonsense")
	put("b.yaml", "version: 1\nmode: observe\n")
	put("b.yaml", "version: 2\n")
	want("a file that is wrong")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	want("nothing left")
	put("c.yaml", "version: 1\n")
	want("another directory")
	put("c.yaml", "version: 1\nmode: enforce\n")
	want("a change in the other directory")
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(told) > 0 {
		t.Errorf("told once more: %q", <-told)
	}
}
