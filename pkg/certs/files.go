package certs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

const maxFile = 64 << 10

// access are the bits of a file's mode that must not be set.
type access fs.FileMode

const (
	ownerReads   access = 0o077
	anybodyReads access = 0o022
)

func makeDirectory(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if err := ours(dir, info); err != nil {
		return err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s can be written by others (mode %#o): chmod 0700 it", dir, info.Mode().Perm())
	}
	return nil
}

// ours makes sure that nobody else put a file there: who made the authority's key
// knows it, whatever its mode is now. Root could do anything anyway.
func ours(path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: its owner is not known", path)
	}
	if uid := int(stat.Uid); uid != os.Geteuid() && uid != 0 {
		return fmt.Errorf("%s belongs to user %d: find out who made it, then move it away", path, uid)
	}
	return nil
}

// readFile reads a regular file that nobody has access to who must not.
func readFile(path string, forbidden access) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if err := ours(path, info); err != nil {
		return nil, err
	}
	if info.Mode().Perm()&fs.FileMode(forbidden) != 0 {
		return nil, fmt.Errorf("%s is open to others (mode %#o): find out who had it, then chmod 0600 it", path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, maxFile)
	}
	return text, nil
}

// writeOnce makes a file that is whole, and on the disk, from the moment on in
// which it has its name. A file that has the name already stays, and is no error:
// somebody else was first.
func writeOnce(path string, text []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	// O_EXCL and mode 0600, whatever the umask is.
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, never takes the place of another file.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDirectory(dir)
}

func syncDirectory(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Publish puts the authority's certificate where everybody can read it, in place
// of what was there. A link is replaced and not followed.
func (a *Authority) Publish(path string) (err error) {
	if a == nil {
		return fmt.Errorf("publish certificate: %w", ErrNone)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("publish certificate: %w", err)
	}
	_, err = f.Write(a.pem)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("publish certificate: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
