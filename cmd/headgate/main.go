// Command headgate is the daemon and the command line of headgate: a host-level
// interceptor for agents and everything that they start.
//
// Results go to standard output, words to standard error. Exit status: 0 done,
// 1 findings or denied, 2 usage or configuration, 3 the daemon is unreachable.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := headgate(ctx, defaultEnv(), os.Args[1:])
	stop()
	os.Exit(status)
}
