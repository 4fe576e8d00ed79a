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
	// Prefix says that Name is only the beginning. Such a rule does not allow.
	Prefix bool
	// File says that Name is the last component of a path, whichever it is in:
	// for relative names and other ways to the same file. Such a rule does not
	// allow. One that denies goes before a Prefix that observes, and a rule for
	// the whole path that does not deny goes before it.
	File bool
	// Verdict is Deny, Observed or Direct, which allows. Of rules for the same
	// thing the denial counts, and then what is observed.
	Verdict Verdict
	// Rule is the caller's number for the rule that says so: [Refusal.Rule].
	Rule uint64
}

// value checks a rule and returns what the kernel needs of it.
func (u UnixSocket) value() (bpf.HeadgateNameValue, error) {
	v := bpf.HeadgateNameValue{Rule: u.Rule}
	if !u.Prefix && !u.File {
		v.Whole = 1
	}
	switch u.Verdict {
	case Deny:
		v.Verdict = bpf.HeadgateVerdictVERDICT_DENY
	case Observed:
		v.Verdict = bpf.HeadgateVerdictVERDICT_OBSERVED
	case Direct:
		if v.Whole == 0 {
			return v, fmt.Errorf("unix socket %q: only a whole name can be allowed", u.Name)
		}
		v.Verdict = bpf.HeadgateVerdictVERDICT_DIRECT
	default:
		return v, fmt.Errorf("unix socket %q: no verdict %d for unix sockets", u.Name, u.Verdict)
	}
	return v, nil
}

// key returns the name as the kernel compares it: a whole one with the NUL that
// ends it, unless it is of the full length.
func (u UnixSocket) key(room int) ([]byte, error) {
	if len(u.Name) == 0 || len(u.Name) > room {
		return nil, fmt.Errorf("unix socket %q: want 1 to %d bytes", u.Name, room)
	}
	name := []byte(u.Name)
	if !u.Prefix {
		name = append(name, 0)
	}
	return name[:min(len(name), room)], nil
}

// SetUnixSockets replaces the rules. The kernel needs to be able to look at unix
// sockets, see [Kernel.Lost]; if it is not, nothing asks for them. New rules come
// first and old ones go last.
func (k *Kernel) SetUnixSockets(list []UnixSocket) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	paths := make(map[bpf.HeadgateUnixPathKey]bpf.HeadgateNameValue)
	files := make(map[bpf.HeadgateUnixFileKey]bpf.HeadgateNameValue)
	for _, u := range list {
		value, err := u.value()
		if err != nil {
			return err
		}
		if u.File {
			var key bpf.HeadgateUnixFileKey
			name, err := u.key(len(key.Name))
			if err != nil {
				return err
			}
			key.Prefixlen = uint32(8 * copy(key.Name[:], name))
			addName(files, key, value)
			continue
		}
		var key bpf.HeadgateUnixPathKey
		name, err := u.key(len(key.Name))
		if err != nil {
			return err
		}
		key.Prefixlen = uint32(8 * copy(key.Name[:], name))
		addName(paths, key, value)
	}
	return errors.Join(replaceNames(k.maps.UnixPaths, paths), replaceNames(k.maps.UnixFiles, files))
}

// addName keeps the more restrictive of two rules for the same thing.
func addName[K comparable](m map[K]bpf.HeadgateNameValue, key K, v bpf.HeadgateNameValue) {
	if before, taken := m[key]; !taken || stricter(v.Verdict, before.Verdict) {
		m[key] = v
	}
}

// replaceNames makes the trie hold what wanted holds.
func replaceNames[K comparable](trie *ebpf.Map, wanted map[K]bpf.HeadgateNameValue) error {
	if len(wanted) > int(trie.MaxEntries()) {
		return fmt.Errorf("set unix sockets: %d rules are more than the %d that fit", len(wanted), trie.MaxEntries())
	}
	var old []K
	var key K
	var value bpf.HeadgateNameValue
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
