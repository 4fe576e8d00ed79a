package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/headgate/headgate/bpf"
)

// abi names the layout of everything that is pinned. Raise it with any change
// of a map or of bpf/shared.h: an older daemon's programs would misread it.
const abi = "v9"

const (
	bpfMount   = "/sys/fs/bpf"
	linkPrefix = "link_"
	// nextSuffix is for a link that is about to replace one.
	nextSuffix = "_next"
)

// pins is the directory in which maps and links outlive the daemon. It is
// locked for as long as it is open.
type pins struct {
	parent string // as configured
	dir    string // for this ABI
	lock   *os.File
	fresh  bool // nothing was pinned when it was opened
}

// openPins prepares the directory. It returns ErrABI if another version's pins
// are beside it: two versions must not both redirect.
func openPins(parent string) (*pins, error) {
	if err := needBPFFS(parent); err != nil {
		return nil, err
	}
	p := &pins{parent: parent, dir: filepath.Join(parent, abi)}
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fmt.Errorf("make pin directory: %w", err)
	}
	if err := p.acquire(); err != nil {
		return nil, err
	}
	if err := p.prepare(); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *pins) acquire() error {
	lock, err := os.Open(p.parent)
	if err != nil {
		return fmt.Errorf("open pin directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrBusy
		}
		return errors.Join(fmt.Errorf("lock %s: %w", p.parent, err), lock.Close())
	}
	p.lock = lock
	return nil
}

func (p *pins) prepare() error {
	layouts, err := p.layouts()
	if err != nil {
		return err
	}
	for _, name := range layouts {
		if name != abi {
			return fmt.Errorf("%w: %s is pinned in %s, this is %s", ErrABI, name, p.parent, abi)
		}
	}
	if err := os.Mkdir(p.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make pin directory: %w", err)
	}
	there, err := os.ReadDir(p.dir)
	if err != nil {
		return fmt.Errorf("read pin directory: %w", err)
	}
	p.fresh = len(there) == 0
	return nil
}

// needBPFFS makes sure that dir is, or will be, on a BPF file system. Below the
// usual place it mounts one if the host has not.
func needBPFFS(dir string) error {
	existing := dir
	for existing != "/" {
		if _, err := os.Stat(existing); err == nil {
			break
		}
		existing = filepath.Dir(existing)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(existing, &fs); err != nil {
		return fmt.Errorf("inspect %s: %w", existing, err)
	}
	if fs.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if dir != bpfMount && !strings.HasPrefix(dir, bpfMount+"/") {
		return fmt.Errorf("pin directory %s is not on a BPF file system", dir)
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount("bpf", bpfMount, "bpf", flags, "mode=0700"); err != nil {
		return fmt.Errorf("mount BPF file system: %w", err)
	}
	return nil
}

// sharedMaps are those that outlive a daemon. What a program only scribbles in
// is not among them.
func sharedMaps(spec *ebpf.CollectionSpec) []string {
	var names []string
	for name := range spec.Maps {
		if name != bpf.HeadgateMapScratch && !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	return names
}

// share makes the spec use pinned maps, or pin those that it creates. It returns
// ErrABI before anything is created if a pinned map has another layout. The
// table of processes keeps the size that it was created with: replacing it would
// forget who is enrolled.
func (p *pins) share(spec *ebpf.CollectionSpec) error {
	for _, name := range sharedMaps(spec) {
		spec.Maps[name].Pinning = ebpf.PinByName
		m, err := ebpf.LoadPinnedMap(filepath.Join(p.dir, name), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open pinned map %s: %w", name, err)
		}
		if name == bpf.HeadgateMapProcs {
			spec.Maps[name].MaxEntries = m.MaxEntries()
		}
		err = spec.Maps[name].Compatible(m)
		if err := errors.Join(err, m.Close()); err != nil {
			return fmt.Errorf("%w: map %s: %v", ErrABI, name, err)
		}
	}
	return nil
}

func (p *pins) link(program string) string { return filepath.Join(p.dir, linkPrefix+program) }

// remove takes away every pin that this package makes, and the directories if
// nothing else is in them.
func (p *pins) remove() error {
	spec, err := bpf.LoadHeadgate()
	if err != nil {
		return fmt.Errorf("read object: %w", err)
	}
	var errs []error
	for name := range spec.Programs {
		errs = append(errs, unpin(p.link(name)), unpin(p.link(name)+nextSuffix))
	}
	for _, name := range sharedMaps(spec) {
		errs = append(errs, unpin(filepath.Join(p.dir, name)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.Remove(p.dir); err != nil {
		return fmt.Errorf("remove pin directory: %w", err)
	}
	return p.removeParent()
}

// removeParent removes the directory that was configured, unless it holds what
// somebody else put there.
func (p *pins) removeParent() error {
	if err := os.Remove(p.parent); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("remove pin directory: %w", err)
	}
	return nil
}

func unpin(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin: %w", err)
	}
	return nil
}

func (p *pins) close() error { return p.lock.Close() }

// Uninstall detaches what earlier daemons left pinned below pinDir, whatever
// their layout, and removes the pins, and nothing else. There being none is no
// error. It returns [ErrBusy] while a daemon runs.
func Uninstall(pinDir string) error {
	if _, err := os.Stat(pinDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := needBPFFS(pinDir); err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	p := &pins{parent: pinDir}
	if err := p.acquire(); err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	layouts, err := p.layouts()
	errs := []error{err}
	for _, name := range layouts {
		errs = append(errs, removeLayout(filepath.Join(pinDir, name)))
	}
	if err := errors.Join(errs...); err != nil {
		return errors.Join(fmt.Errorf("uninstall: %w", err), p.close())
	}
	return errors.Join(p.removeParent(), p.close())
}

// layouts are the directories that this or another version pins in.
func (p *pins) layouts() ([]string, error) {
	entries, err := os.ReadDir(p.parent)
	if err != nil {
		return nil, fmt.Errorf("read pin directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), "v")
		if ok && e.IsDir() && number != "" && strings.Trim(number, "0123456789") == "" {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// removeLayout takes off the programs whose links are pinned in dir, and then
// every pin there: the directory is headgate's alone.
func removeLayout(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read pin directory: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), linkPrefix) {
			continue
		}
		l, err := link.LoadPinnedLink(filepath.Join(dir, e.Name()), nil)
		if err != nil {
			errs = append(errs, fmt.Errorf("open pinned link: %w", err))
			continue
		}
		errs = append(errs, detach(l), l.Close())
	}
	for _, e := range entries {
		errs = append(errs, unpin(filepath.Join(dir, e.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil {
		return fmt.Errorf("remove pin directory: %w", err)
	}
	return nil
}
