package mask

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"regexp"
	"syscall"
	"testing"
	"time"
)

// columns returns values as rows of a table have them: an id and three hex
// strings where plain, and otherwise id, email, card number in two of three
// rows, md5 and timestamp.
func columns(plain bool) (values [][]byte, size int64) {
	r := rand.New(rand.NewPCG(1, 2))
	hexes := func() []byte {
		b := make([]byte, 16)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return []byte(hex.EncodeToString(b))
	}
	for row := range 600 {
		values = append(values, fmt.Append(nil, row+100000), hexes())
		if plain {
			values = append(values, hexes(), hexes())
			continue
		}
		values = append(values, fmt.Appendf(nil, "user%d@example.com", row), fmt.Append(nil, "2026-11-23 04:50:00.123456"))
		if row%3 != 0 {
			values = append(values, []byte("4111 1111 1111 1111"))
		}
	}
	for _, v := range values {
		size += int64(len(v))
	}
	return values, size
}

// processorTime measures what the process used, for machines that have other
// things to do. Call the result when the work is done.
func processorTime(b *testing.B, size int64) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start := used()
	return func() {
		b.ReportMetric(float64(size)*float64(b.N)/1e6/(used()-start).Seconds(), "MB/cpu-s")
	}
}

func BenchmarkScan(b *testing.B) {
	for _, data := range []string{"plain", "people"} {
		values, size := columns(data == "plain")
		for _, detectors := range [][]string{{"pan", "email"}, {"pan", "email", "ssn"}, Detectors()} {
			s := mustCompile(b, Rule{Name: "r", Detect: detectors, With: "keep-last-4"})
			b.Run(fmt.Sprintf("%s/%d-detectors", data, len(detectors)), func(b *testing.B) {
				b.SetBytes(size)
				b.ReportAllocs()
				var buf []byte
				defer processorTime(b, size)()
				for b.Loop() {
					for _, v := range values {
						out, hits := s.Scan(buf[:0], v)
						if hits > 0 {
							buf = out
						}
					}
				}
			})
		}
	}
}

// BenchmarkRegexp is what one would write without this package. It checks less:
// no Luhn, no check digits, no country, no boundaries.
func BenchmarkRegexp(b *testing.B) {
	re := regexp.MustCompile(`[\w.%+-]+@[\w-]+(\.[\w-]+)+|\d{3}-\d\d-\d{4}|(\d[ -]?){12,19}|[A-Z]{2}\d\d[A-Z0-9]{11,30}`)
	for _, data := range []string{"plain", "people"} {
		values, size := columns(data == "plain")
		b.Run(data, func(b *testing.B) {
			b.SetBytes(size)
			defer processorTime(b, size)()
			for b.Loop() {
				for _, v := range values {
					re.ReplaceAll(v, []byte("****"))
				}
			}
		})
	}
}

func BenchmarkApply(b *testing.B) {
	for _, with := range []string{"redact", "keep-last-4", "hash"} {
		b.Run(with, func(b *testing.B) {
			a, _ := mustCompile(b, Rule{Name: "r", Columns: []string{"*.*.*"}, With: with}).Column("", "", "")
			value := []byte("4111 1111 1111 1111")
			b.SetBytes(int64(len(value)))
			b.ReportAllocs()
			var buf []byte
			for b.Loop() {
				buf, _ = a.Apply(buf[:0], value)
			}
		})
	}
}
