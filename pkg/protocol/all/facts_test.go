package all

import (
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/protocol"
)

func TestEveryVariableHasOneProtocol(t *testing.T) {
	owners := map[string]string{}
	for name, facts := range Facts(Protocols(protocol.Settings{})) {
		if other, twice := owners[facts.Variable]; twice {
			t.Errorf("%s is a variable of %s and of %s", facts.Variable, other, name)
		}
		owners[facts.Variable] = name
		for _, f := range facts.Fields {
			if f.Doc == "" || f.Kind == 0 {
				t.Errorf("%s.%s has no sentence or kind", facts.Variable, f.Name)
			}
		}
	}
	if owners["sql"] == "" {
		t.Error("nobody has the variable sql")
	}
}

func TestATextIsReadByTheProtocolThatIsNamed(t *testing.T) {
	protocols := Protocols(protocol.Settings{})
	operations, err := Read(protocols, "postgres", "delete from t")
	if err != nil || len(operations) != 1 || operations[0].Verb != "delete" || operations[0].Facts == nil {
		t.Errorf("%+v, %v", operations, err)
	}
	if _, err := Read(protocols, "tcp", "x"); err == nil || !strings.Contains(err.Error(), "give the operation's verb") {
		t.Errorf("%v", err)
	}
	if _, err := Read(protocols, "ftp", "x"); err == nil || !strings.Contains(err.Error(), `unknown protocol "ftp"`) {
		t.Errorf("%v", err)
	}
}
