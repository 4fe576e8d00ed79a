package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/headgate/headgate/pkg/config"
	"github.com/headgate/headgate/pkg/policy"
)

// settle is how long nothing may change in the policy directory before it is read:
// whoever copies several files there means them together.
const settle = 500 * time.Millisecond

// longestWait is how long changes that do not end put off reading the directory.
const longestWait = 5 * time.Second

// watchPolicies loads the policy again when its directory changed. That the
// directory is not there, or cannot be watched, is told and no reason to stop: what
// is in force stays, and a reload that is asked for still works.
func (d *daemon) watchPolicies(ctx context.Context) error {
	if !d.cfg.WatchPolicies {
		return nil
	}
	err := watchDirectory(ctx, d.cfg.Policies, d.policies.Seen, func() {
		if err := d.loadPolicy(ctx); err != nil {
			d.log.Error().Err(err).Msg("policy directory changed, policy not reloaded; the old one stays in force")
			return
		}
		d.log.Info().Uint64("generation", d.policies.Engine().Generation()).Msg("policy directory changed, policy reloaded")
	})
	if err != nil {
		d.log.Error().Err(err).Msg("policy directory is not watched: use headgate reload")
	}
	return nil
}

// watchDirectory calls changed when the policy files in a directory are not those
// that were seen last and have been left alone for a moment. The directory may be
// replaced by another one.
func watchDirectory(ctx context.Context, dir string, seen func() string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch directory: %w", err)
	}
	defer func() {
		// Nobody asks it anything more.
		_ = w.Close()
	}()
	if err := w.Add(filepath.Dir(filepath.Clean(dir))); err != nil {
		return fmt.Errorf("watch directory: %w", err)
	}
	quiet := time.NewTimer(settle)
	defer quiet.Stop()
	var first time.Time // of the changes that were not looked at yet
	again := func() {
		if first.IsZero() {
			first = time.Now()
		}
		quiet.Reset(min(settle, max(0, longestWait-time.Since(first))))
	}
	for {
		if err := w.Add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("watch directory: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.Events:
			if isWithin(e.Name, dir) {
				again()
			}
		case err := <-w.Errors:
			if err != nil { // events were lost: look
				again()
			}
		case <-quiet.C:
			first = time.Time{}
			if fingerprint(config.LoadPolicies(dir)) != seen() {
				changed()
			}
		}
	}
}

// isWithin reports whether a path is a directory or below it.
func isWithin(path, dir string) bool {
	path, dir = filepath.Clean(path), filepath.Clean(dir)
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// fingerprint tells what was read of a policy directory from what is read later.
func fingerprint(files []*policy.File, err error) string {
	if err != nil {
		return err.Error()
	}
	var sums strings.Builder
	for _, f := range files {
		sums.WriteString(f.Name() + " " + f.SHA256() + "\n")
	}
	return sums.String()
}
