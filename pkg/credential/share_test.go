package credential

import (
	"runtime"
	"sync"
	"testing"
)

func TestSameSecretsShareTheirTraces(t *testing.T) {
	var shared Shared
	a, b := NewSecret([]byte("first-secret")), NewSecret([]byte("second-secret"))
	one := shared.Traces(a, b)
	if one == nil || shared.Traces(NewSecret([]byte("first-secret")), b) != one {
		t.Fatal("equal secrets have traces of their own")
	}
	for name, others := range map[string][]Secret{
		"fewer":         {a},
		"another":       {a, NewSecret([]byte("third-secret"))},
		"cut elsewhere": {NewSecret([]byte("first-secrets")), NewSecret([]byte("econd-secret"))},
	} {
		if shared.Traces(others...) == one {
			t.Errorf("%s: other secrets got the same traces", name)
		}
	}
	if !one.FindString("the FIRST-secret") || !one.FindString("second-secret") || one.FindString("third-secret") {
		t.Error("shared traces do not find what they should")
	}
	if shared.Traces() != nil || shared.Traces(Secret{}) != nil {
		t.Error("nothing has traces")
	}
	runtime.KeepAlive(one)
}

func TestTracesThatNobodyUsesAreForgotten(t *testing.T) {
	var shared Shared
	shared.Traces(NewSecret([]byte("of a token that is over")))
	count := func() int {
		shared.mu.Lock()
		defer shared.mu.Unlock()
		return len(shared.known)
	}
	for range 1000 {
		if count() == 0 {
			return
		}
		runtime.GC()
		runtime.Gosched()
	}
	t.Errorf("%d are still known", count())
}

func TestNilSharedMakesTracesAllTheSame(t *testing.T) {
	var shared *Shared
	if !shared.Traces(NewSecret([]byte("first-secret"))).FindString("first-secret") {
		t.Error("the secret is not found")
	}
}

func TestTracesAreSharedConcurrently(t *testing.T) {
	var shared Shared
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if !shared.Traces(NewSecret([]byte("first-secret"))).FindString("first-secret") {
					t.Error("the secret is not found")
				}
				runtime.GC()
			}
		})
	}
	wg.Wait()
}
