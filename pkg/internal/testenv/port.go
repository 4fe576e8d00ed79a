package testenv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// FreePort returns a port that nobody has on loopback, of TCP and of UDP, over
// IPv4 and IPv6. It is below the range from which the kernel gives ports to
// whoever asks for none, so that it stays free until the test takes it.
func FreePort(t testing.TB) uint16 {
	t.Helper()
	var err error
	for range 100 {
		port := uint16(10000 + rand.IntN(20000))
		if err = bindable(port); err == nil {
			return port
		}
	}
	t.Fatalf("find a free port: %v", err)
	return 0
}

func bindable(port uint16) error {
	var errs []error
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		address := fmt.Sprintf("%s:%d", host, port)
		l, err := net.Listen("tcp", address)
		errs = append(errs, err)
		if err == nil {
			errs = append(errs, l.Close())
		}
		p, err := net.ListenPacket("udp", address)
		errs = append(errs, err)
		if err == nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}
