// Package e2e holds the end-to-end tests: the real command as a daemon, real
// agents as processes, a real PostgreSQL, and the kernel in between. They are
// named TestPrivileged… and run by scripts/test.sh privileged, in a network
// namespace and a child cgroup of their own.
package e2e
