package postgres

import (
	"testing"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// A catalog can get too old in the middle of a session. Where a rule refuses code of
// users, what may run some is unknown then, whether anything is masked or not.
func TestWithoutACatalogARuleAgainstCodeOfUsersStillHolds(t *testing.T) {
	masked := mustCompile(t, mask.Rule{Name: "m", Columns: []string{"*.*.ssn"}, With: "redact"})
	for _, set := range []*mask.Set{masked, mustCompile(t)} {
		for _, refuses := range []bool{true, false} {
			x := &exchange{session: &protocol.Session{Refuses: func(...string) bool { return refuses }}}
			known := knowledge{Shield: catalog.NewShield(set, nil)}
			fact := &statement.Parse("select lower(name) from people")[0]
			effects, reason := x.codeOf(&known, fact)
			if unknown := len(effects) == 1 && effects[0] == statement.Unknown && reason == reasonCatalog; unknown != refuses {
				t.Errorf("masks %v, a rule refuses %v: %q (%s)", set.HasColumns(), refuses, effects, reason)
			}
		}
	}
}

func TestAFunctionOfUsersThatIsCalledByItsOIDIsCodeOfUsers(t *testing.T) {
	for oid, want := range map[uint32]bool{catalog.FirstUserOID - 1: false, catalog.FirstUserOID: true, 1<<32 - 1: true} {
		fact := functionFacts(oid)
		if fact.Does(statement.UserFunction) != want || fact.Does(statement.Opaque) != want || !fact.Does(verbFunctionCall) {
			t.Errorf("%d: %q", oid, fact.Effects)
		}
	}
}
