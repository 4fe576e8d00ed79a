package credential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const maxSecret = 64 << 10

// source is where a secret comes from. The target is the destination that it is
// for.
type source interface {
	read(ctx context.Context, target netip.AddrPort) (Secret, error)
}

// lookup is os.LookupEnv, or what a test puts in its place.
type lookup func(key string) (string, bool)

func parseSource(spec Spec, from sources) (source, error) {
	scheme, rest, _ := strings.Cut(spec.From, ":")
	if rest == "" {
		return nil, errors.New("want a source such as file:/path, systemd:NAME or env:NAME")
	}
	switch scheme {
	case "file":
		if !filepath.IsAbs(rest) {
			return nil, errors.New("path of a file source must be absolute")
		}
		return file{path: rest}, nil
	case "systemd":
		return systemdSource(rest, from.env)
	case "env":
		return environment{name: rest, env: from.env}, nil
	case "rds-iam":
		return mintedSource(spec, rest, from.mint)
	default:
		// The text is not repeated: somebody may have put the secret itself there.
		return nil, errors.New("unknown source: want file:PATH, systemd:NAME, env:NAME or rds-iam:REGION")
	}
}

// systemdSource finds a credential that the service manager passed
// (systemd.exec(5), LoadCredential=).
func systemdSource(name string, env lookup) (source, error) {
	if name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return nil, errors.New("name of a systemd credential must be a plain file name")
	}
	dir, ok := env("CREDENTIALS_DIRECTORY")
	if !ok || !filepath.IsAbs(dir) {
		return nil, errors.New("no systemd credentials: $CREDENTIALS_DIRECTORY is not set")
	}
	return file{path: filepath.Join(dir, name)}, nil
}

type environment struct {
	name string
	env  lookup
}

func (e environment) read(context.Context, netip.AddrPort) (Secret, error) {
	value, ok := e.env(e.name)
	if !ok || value == "" {
		return Secret{}, fmt.Errorf("read secret: $%s is not set", e.name)
	}
	if len(value) > maxSecret {
		return Secret{}, fmt.Errorf("read secret: $%s is longer than %d bytes", e.name, maxSecret)
	}
	return NewSecret([]byte(value)), nil
}

// file is read each time: it is small, sessions are few compared to that, and a
// rotated or withdrawn secret takes effect with the next one.
type file struct{ path string }

func (f file) read(context.Context, netip.AddrPort) (Secret, error) {
	value, err := readFile(f.path, 0o007)
	if err != nil {
		return Secret{}, err
	}
	value = bytes.TrimSuffix(bytes.TrimSuffix(value, []byte("\n")), []byte("\r"))
	if len(value) == 0 {
		return Secret{}, fmt.Errorf("read secret: %s is empty", f.path)
	}
	return NewSecret(value), nil
}

// readCertificate reads what everybody may read, but not write.
func readCertificate(path string) ([]byte, error) { return readFile(path, 0o002) }

// readFile reads a small regular file of which others have none of the rights in
// forbidden. It opens without blocking, so that a FIFO in the file's place is
// refused and not waited for.
func readFile(path string, forbidden os.FileMode) ([]byte, error) {
	h, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	defer h.Close() // nothing was written
	info, err := h.Stat()
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read secret: %s is not a regular file", path)
	}
	if info.Mode().Perm()&forbidden != 0 {
		return nil, fmt.Errorf("read secret: mode %#o of %s lets everybody in (chmod o= it)", info.Mode().Perm(), path)
	}
	value, err := io.ReadAll(io.LimitReader(h, maxSecret+1))
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	if len(value) > maxSecret {
		return nil, fmt.Errorf("read secret: %s is longer than %d bytes", path, maxSecret)
	}
	return value, nil
}
