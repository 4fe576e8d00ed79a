package kernel

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/headgate/headgate/bpf"
)

// UnixSocket is a rule for unix sockets by name. A name that no rule matches may
// be connected to.
type UnixSocket struct {
	// Name is a whole path, or an abstract name with "@" in front.
	Name string
	// Prefix says that Name is only the beginning. Such a rule denies.
	Prefix bool
	// File says that Name is the last component of a path, whichever it is in:
	// for relative names and other ways to the same file. Such a rule denies, and
	// a rule for the whole path that allows goes before it.
	File  bool
	Allow bool
}

// SetUnixSockets replaces the rules. The kernel needs to be able to look at unix
// sockets, see [Kernel.Lost]; if it is not, nothing asks for them. New rules come
// first and old ones go last.
func (k *Kernel) SetUnixSockets(list []UnixSocket) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	paths := make(map[bpf.HeadgateUnixPathKey]bpf.HeadgateVerdict)
	files := make(map[bpf.HeadgateUnixFileKey]bpf.HeadgateVerdict)
	for _, u := range list {
		verdict := bpf.HeadgateVerdictVERDICT_DENY
		if u.Allow {
			verdict = bpf.HeadgateVerdictVERDICT_DIRECT
		}
		if u.Allow && (u.Prefix || u.File) {
			return fmt.Errorf("unix socket %q: only a whole name can be allowed", u.Name)
		}
		name := []byte(u.Name)
		if !u.Prefix {
			name = append(name, 0)
		}
		room := len(bpf.HeadgateUnixPathKey{}.Name)
		if u.File {
			room = len(bpf.HeadgateUnixFileKey{}.Name)
		}
		// A name of the full length has no NUL behind it.
		if len(u.Name) == 0 || len(u.Name) > room {
			return fmt.Errorf("unix socket %q: want 1 to %d bytes", u.Name, room)
		}
		name = name[:min(len(name), room)]
		if u.File {
			key := bpf.HeadgateUnixFileKey{Prefixlen: uint32(8 * len(name))}
			copy(key.Name[:], name)
			files[key] = verdict
			continue
		}
		key := bpf.HeadgateUnixPathKey{Prefixlen: uint32(8 * len(name))}
		copy(key.Name[:], name)
		if paths[key] != bpf.HeadgateVerdictVERDICT_DENY {
			paths[key] = verdict
		}
	}
	return errors.Join(replaceNames(k.maps.UnixPaths, paths), replaceNames(k.maps.UnixFiles, files))
}

// replaceNames makes the trie hold what wanted holds.
func replaceNames[K comparable](trie *ebpf.Map, wanted map[K]bpf.HeadgateVerdict) error {
	if len(wanted) > int(trie.MaxEntries()) {
		return fmt.Errorf("set unix sockets: %d rules are more than the %d that fit", len(wanted), trie.MaxEntries())
	}
	var old []K
	var key K
	var value bpf.HeadgateVerdict
	entries := trie.Iterate()
	for entries.Next(&key, &value) {
		if _, ok := wanted[key]; !ok {
			old = append(old, key)
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("set unix sockets: %w", err)
	}
	for key, verdict := range wanted {
		if err := trie.Put(key, verdict); err != nil {
			return fmt.Errorf("set unix sockets: %w", err)
		}
	}
	for _, key := range old {
		if err := remove(trie, key); err != nil {
			return err
		}
	}
	return nil
}
