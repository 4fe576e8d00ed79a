package audit

import (
	"slices"
	"testing"
	"time"
)

func TestSessionIDsSortByTimeAndAreUnique(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var ids []string
	for i := range 100 {
		id := NewSessionID(at.Add(time.Duration(i) * time.Second))
		if err := CheckSessionID(id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if !slices.IsSorted(ids) {
		t.Error("ids are not sorted")
	}
	if NewSessionID(at) == NewSessionID(at) {
		t.Error("two sessions of one millisecond have one id")
	}
	if err := CheckSessionID(NewSessionID(time.Time{})); err != nil {
		t.Error(err)
	}
}
