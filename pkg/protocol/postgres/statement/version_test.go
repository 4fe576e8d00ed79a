package statement

import "testing"

func TestWhatVersionsAfter15AddedMayBeAUsersFunction(t *testing.T) {
	for text, want := range map[string]bool{
		`SELECT json_scalar(ssn) FROM t`:                 true,
		`SELECT json(ssn) FROM t`:                        true,
		`SELECT json_serialize(ssn) FROM t`:              true,
		`SELECT json_object()`:                           true,
		`SELECT json_array()`:                            true,
		`SELECT json_exists(a, '$') FROM t`:              true,
		`SELECT gamma(1)`:                                true,
		`SELECT uuidv7()`:                                true,
		`SELECT any_value(a) FROM t`:                     true,
		`SELECT pg_catalog.gamma(1)`:                     true,
		`SELECT json_object('{a,b}')`:                    false,
		`SELECT json_build_object('a', b) FROM t`:        false,
		`SELECT lower(a), count(*), array_agg(a) FROM t`: false,
		`SELECT xmlelement(name a, b) FROM t`:            false,
	} {
		s := Parse(text)[0]
		if got := s.Does(UserFunction) && s.Does(Opaque); got != want || s.Does(Unknown) {
			t.Errorf("%s: %v", text, s.Effects)
		}
	}
}
