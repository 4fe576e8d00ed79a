package login

import "testing"

func TestTheWorkThatATargetDemandsIsBounded(t *testing.T) {
	if _, err := factors("r=x,s=eA==,i=4096"); err != nil {
		t.Errorf("the default of PostgreSQL is refused: %v", err)
	}
	for _, message := range []string{
		"r=x,s=eA==,i=100000000", "r=x,s=eA==,i=x", "r=x,s=eA==", "r=x,s=!,i=4096", "r=x,i=4096,s=eA==", "", "e=other-error",
		"r=x,s=eA==,i=99999999999999999999",
	} {
		if _, err := factors(message); err == nil {
			t.Errorf("%q is accepted", message)
		}
	}
}

func TestWhoAllowsSCRAMAllowsItWithChannelBinding(t *testing.T) {
	list, err := allowed([]string{"scram-sha-256"})
	if err != nil || len(list) != 2 || list[1] != SCRAMPlus {
		t.Errorf("allowed are %v, %v", list, err)
	}
	if list, err := allowed([]string{"scram-sha-256-plus"}); err != nil || len(list) != 1 {
		t.Errorf("allowed are %v, %v", list, err)
	}
	if _, err := allowed([]string{"scram"}); err == nil {
		t.Error("a method that nobody knows is allowed")
	}
}
