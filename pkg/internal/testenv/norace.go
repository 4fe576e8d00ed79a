//go:build !race

package testenv

// Race tells whether the race detector is on. It makes pools forget some of what
// they are given, so that allocations can't be counted.
const Race = false
