// Command headgate-bench is what make bench runs; see docs/performance.md.
package main

import (
	"fmt"
	"os"

	"github.com/headgate/headgate/pkg/internal/bench"
)

func main() {
	if err := bench.Main(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "headgate-bench:", err)
		os.Exit(1)
	}
}
