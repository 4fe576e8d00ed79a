package record

import (
	"errors"
	"os"
)

// enter opens the log's directory and creates it where there is none.
func (l *Log) enter() error {
	if err := os.MkdirAll(l.path, dirMode); err != nil {
		return err
	}
	root, err := os.OpenRoot(l.path)
	if err != nil {
		return err
	}
	l.root = root
	l.dir, err = root.Open(".")
	if err == nil {
		err = l.dir.Chmod(dirMode)
	}
	if err != nil {
		return errors.Join(err, l.leave())
	}
	return nil
}

// leave closes the directory, and with it gives up the lock.
func (l *Log) leave() error {
	var errs []error
	if l.dir != nil {
		errs = append(errs, l.dir.Close())
	}
	if l.root != nil {
		errs = append(errs, l.root.Close())
	}
	l.dir, l.root = nil, nil
	return errors.Join(errs...)
}

func (l *Log) createSegment(n uint64) (file, error) {
	return l.root.OpenFile(segmentName(n), os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, fileMode)
}

func (l *Log) removeSegment(n uint64) error { return l.root.Remove(segmentName(n)) }

// syncDir makes the names of the segments durable.
func (l *Log) syncDir() error {
	if l.dir == nil {
		return syncPath(l.path)
	}
	return l.dir.Sync()
}

func syncPath(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
