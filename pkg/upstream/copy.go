package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

const bufferSize = 64 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// CopyBoth forwards bytes between the agent's connection and the target's until
// both directions have ended. When one side ends its direction, the other gets
// a half-close ([net.TCPConn.CloseWrite]) and the opposite direction goes on;
// where a connection has no CloseWrite, both directions end. An error in one
// direction, or the end of ctx, ends both at once.
//
// It returns how many bytes were written upstream and downstream, and the first
// error: nil after an orderly end, the cause of ctx if that ended it. When it
// returns, no goroutine of it is left. It does not close the connections, which
// remain the caller's, but they may have been given a deadline in the past and
// are good for nothing but Close.
func CopyBoth(ctx context.Context, downstream, upstream net.Conn) (upBytes, downBytes int64, err error) {
	var once sync.Once
	end := func(cause error) {
		once.Do(func() {
			err = cause
			// A deadline in the past wakes whoever reads or writes. If it cannot
			// be set, the connection is closed already, which wakes them as well.
			past := time.Unix(1, 0)
			_ = downstream.SetDeadline(past)
			_ = upstream.SetDeadline(past)
		})
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		end(fmt.Errorf("copy: %w", context.Cause(ctx)))
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		downBytes = copyOne(downstream, upstream, end)
	}()
	upBytes = copyOne(upstream, downstream, end)
	<-done
	if !stop() {
		<-ended
	}
	return upBytes, downBytes, err
}

// errNoHalfClose ends both directions without being an error of the session.
var errNoHalfClose = errors.New("connection has no half-close")

// copyOne forwards one direction and half-closes its end.
func copyOne(to, from net.Conn, end func(error)) int64 {
	buffer := buffers.Get().(*[bufferSize]byte)
	n, used, err := pump(to, from, buffer[:])
	// What was forwarded must not wait in memory for the next session.
	clear(buffer[:used])
	buffers.Put(buffer)
	if err == nil {
		err = closeWrite(to)
	}
	switch {
	case errors.Is(err, errNoHalfClose):
		end(nil)
	case err != nil:
		end(fmt.Errorf("copy: %w", err))
	}
	return n
}

// pump is io.Copy without splice(2) and ReadFrom, which measured slower. It tells
// how much of the buffer it has used at most.
func pump(to io.Writer, from io.Reader, buffer []byte) (total int64, used int, err error) {
	for {
		n, err := from.Read(buffer)
		used = max(used, n)
		if n > 0 {
			written, werr := to.Write(buffer[:n])
			total += int64(written)
			if werr != nil {
				return total, used, werr
			}
		}
		if err == io.EOF {
			return total, used, nil
		}
		if err != nil {
			return total, used, err
		}
	}
}

func closeWrite(conn net.Conn) error {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return errNoHalfClose
	}
	// Not connected: the other end is gone altogether, and the opposite
	// direction says so.
	if err := half.CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
		return err
	}
	return nil
}
