package policytest

import (
	"fmt"
	"strings"

	"github.com/headgate/headgate/pkg/mask"
)

// masks compares what is masked with what a test expects. concerned are the masks
// that have to do with what it names.
func (s *suite) masks(c *testCase) (failures, concerned []string) {
	e := &c.Expect
	all := s.engine.Masks(&c.req)
	single := s.engine.MasksByName(&c.req)
	for _, one := range []maskCheck{
		{e.Masked, "is clear, want masked", "", all, columnMasked},
		{e.Clear, "", "is masked by %s, want clear", all, columnMasked},
		{e.Found, "is passed, want found by a detector", "", all, textFound},
		{e.Passed, "", "is found by %s, want passed", all, textFound},
		{e.Unsearched, "may be searched by, want unsearched", "", all.NoPredicates(), columnMasked},
		{e.Searched, "", "may not be searched by because of %s, want searched", all.NoPredicates(), columnMasked},
		{e.Kept, "may be copied, want kept", "", all.NoCopies(), columnMasked},
		{e.Copied, "", "may not be copied because of %s, want copied", all.NoCopies(), columnMasked},
	} {
		for _, what := range one.list {
			by, hit := one.test(one.set, what)
			switch {
			case !hit && one.missing != "":
				failures = append(failures, fmt.Sprintf("%q %s", what, one.missing))
			case hit && one.unwanted != "":
				failures = append(failures, fmt.Sprintf("%q "+one.unwanted, what, by))
			}
			for name, set := range single {
				if _, hit := one.test(set, what); hit {
					concerned = append(concerned, name)
				}
			}
		}
	}
	return failures, concerned
}

// maskCheck is what a test expects of some columns or texts: that the set concerns
// them, or, if unwanted is set, that it does not.
type maskCheck struct {
	list              []string
	missing, unwanted string
	set               *mask.Set
	test              func(set *mask.Set, what string) (by string, hit bool)
}

// columnMasked looks for a column, which is in table t of schema public where it does
// not say.
func columnMasked(set *mask.Set, column string) (by string, hit bool) {
	parts := strings.Split(column, ".")
	for _, missing := range []string{"t", "public"}[len(parts)-1:] {
		parts = append([]string{missing}, parts...)
	}
	action, hit := set.Column(parts[0], parts[1], parts[2])
	return "mask " + action.Rule, hit
}

// textFound looks for what detectors find in a text.
func textFound(set *mask.Set, text string) (by string, hit bool) {
	_, hits := set.Scan(nil, []byte(text))
	return "a detector", hits > 0
}
