package pgtest

import (
	"errors"
	"strings"
	"testing"
)

func TestEveryVersionStartsWithTheFixtureInIt(t *testing.T) {
	for _, v := range Versions() {
		t.Run(v.String(), func(t *testing.T) {
			c := v.Start(t)
			version := c.SQL(t, Database, "show server_version_num")
			if v == V18 && !strings.HasPrefix(version, "18") {
				t.Errorf("the server is %s", version)
			}
			if n := c.SQL(t, Database, "select count(*) from customers"); n != "3" {
				t.Errorf("%s customers, want 3", n)
			}
		})
	}
}

func TestAVersionThatIsNotInstalledIsMissing(t *testing.T) {
	t.Setenv("HEADGATE_TEST_CACHE", t.TempDir())
	_, err := V18.Open()
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "PostgreSQL 18") {
		t.Errorf("error is %v", err)
	}
}
