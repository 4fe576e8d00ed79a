package record

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Mark tells states of a log apart: between two that are equal nothing was
// appended. They may differ without a new entry, too, after some were moved from
// the journal to a segment.
type Mark struct {
	bytes   int64 // of all segments
	journal uint64
}

// Look returns the mark of the log in dir, without reading its lines.
func Look(dir string) (Mark, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Mark{}, fmt.Errorf("look at log %s: %w", dir, err)
	}
	m, err := look(root)
	if err = errors.Join(err, root.Close()); err != nil {
		return Mark{}, fmt.Errorf("look at log %s: %w", dir, err)
	}
	return m, nil
}

func look(root *os.Root) (Mark, error) {
	var m Mark
	f, err := openJournal(root)
	if err != nil {
		return m, err
	}
	if f != nil {
		m.journal, err = readState(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return m, err
		}
	}
	files, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return m, err
	}
	for _, file := range files {
		if _, ok := segmentNumber(file.Name()); !ok {
			continue
		}
		info, err := file.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // a writer that lacked room for its header took it back
		}
		if err != nil {
			return m, err
		}
		m.bytes += info.Size()
	}
	return m, nil
}
