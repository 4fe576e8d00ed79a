package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"

	"github.com/cilium/ebpf"

	"github.com/headgate/headgate/bpf"
)

// Repin pins again what somebody has unpinned, and returns the names, which
// the counter pins_restored counts. A program whose link is not pinned is gone with
// the daemon, and agents are free then. Without pins there is nothing to do.
func (k *Kernel) Repin() ([]string, error) {
	k.life.RLock()
	defer k.life.RUnlock()
	if k.closed || k.pins == nil {
		return nil, nil
	}
	if err := os.MkdirAll(k.pins.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make pin directory: %w", err)
	}
	var restored []string
	var errs []error
	again := func(path string, pin func(string) error) {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
			return
		}
		if err := pin(path); err != nil {
			errs = append(errs, fmt.Errorf("pin %s again: %w", filepath.Base(path), err))
			return
		}
		k.pinsRestored.Add(1)
		restored = append(restored, filepath.Base(path))
	}
	for _, a := range k.links {
		again(k.pins.link(a.program), func(path string) error {
			// A link that was opened by its pin takes itself for pinned there still.
			if err := a.link.Unpin(); err != nil {
				return err
			}
			return a.link.Pin(path)
		})
	}
	for name, m := range sharedOf(&k.maps) {
		again(filepath.Join(k.pins.dir, name), func(path string) error {
			// A map remembers where it was pinned, and would be moved from there.
			clone, err := m.Clone()
			if err != nil {
				return err
			}
			return errors.Join(clone.Pin(path), clone.Close())
		})
	}
	return restored, errors.Join(errs...)
}

// sharedOf lists the maps that are pinned, by name.
func sharedOf(maps *bpf.HeadgateMaps) map[string]*ebpf.Map {
	all := make(map[string]*ebpf.Map)
	v := reflect.ValueOf(maps).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("ebpf")
		if m, ok := v.Field(i).Interface().(*ebpf.Map); ok && m != nil && name != bpf.HeadgateMapScratch {
			all[name] = m
		}
	}
	return all
}
