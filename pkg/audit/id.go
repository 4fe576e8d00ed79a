package audit

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrSessionID means that a text is no session id.
var ErrSessionID = errors.New("not a session id")

const (
	maxSessionID = 64
	// 36^9 milliseconds last for 3,200 years.
	timeDigits  = 9
	randomBytes = 10
)

// NewSessionID returns an id for a session that begins now. Ids sort by time,
// to the millisecond, cannot be guessed, and are made of 0-9 and a-z.
func NewSessionID(now time.Time) string {
	stamp := strconv.FormatInt(max(now.UnixMilli(), 0), 36)
	var random [randomBytes]byte
	// Read never fails: it ends the program where there is no randomness.
	_, _ = rand.Read(random[:])
	return strings.Repeat("0", max(timeDigits-len(stamp), 0)) + stamp +
		strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(random[:]))
}

// CheckSessionID returns [ErrSessionID] unless id is 1 to 64 of 0-9 and a-z.
// Nothing else may become part of a path.
func CheckSessionID(id string) error {
	ok := len(id) > 0 && len(id) <= maxSessionID
	for i := 0; ok && i < len(id); i++ {
		ok = id[i] >= '0' && id[i] <= '9' || id[i] >= 'a' && id[i] <= 'z'
	}
	if !ok {
		return fmt.Errorf("session %.80q: %w", id, ErrSessionID)
	}
	return nil
}
