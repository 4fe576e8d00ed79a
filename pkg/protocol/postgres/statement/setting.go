package statement

import (
	"slices"
	"strconv"
	"strings"
)

// notConstant stands for a value that is not in the text. No setting has it:
// it is not valid UTF-8.
const notConstant = "\xff"

// unsafeSettings enforce or record something, or load code. Those that begin
// with log_ or pgaudit. count too.
var unsafeSettings = []string{
	"allow_in_place_tablespaces",
	"allow_system_table_mods",
	"dynamic_library_path",
	"event_triggers",
	"ignore_checksum_failure",
	"jit_provider",
	"lo_compat_privileges",
	"local_preload_libraries",
	"restrict_nonsystem_relation_kind",
	"row_security",
	"session_preload_libraries",
	"session_replication_role",
	"shared_preload_libraries",
	"track_activities",
	"zero_damaged_pages",
}

// Setting tells what setting name to values does: [Set], [SetRole],
// [SetUnsafe], or [Unknown] with a reason where it would change what a later
// text means to the upstream. No values stand for the default that the session
// began with, which the session has to check by itself. It also serves the
// settings in a start-up message.
func Setting(name string, values ...string) (effect, reason string) {
	name = strings.ToLower(name)
	switch {
	case name == "role" || name == "session_authorization":
		return SetRole, ""
	case name == "":
		return Unknown, "setting without a name"
	case len(values) == 0:
	case name == "standard_conforming_strings" && !isOn(values):
		return Unknown, "standard_conforming_strings off"
	case (name == "client_encoding" || name == "names") && !isUTF8(values):
		return Unknown, "client_encoding is not UTF-8"
	case name == "search_path" && !catalogFirst(values):
		return Unknown, "search_path hides built-in functions"
	}
	if slices.Contains(unsafeSettings, name) || strings.HasPrefix(name, "log_") || strings.HasPrefix(name, "pgaudit.") {
		return SetUnsafe, ""
	}
	return Set, ""
}

func isOn(values []string) bool {
	return len(values) == 1 && slices.Contains([]string{"on", "true", "yes", "1"}, strings.ToLower(values[0]))
}

// isUTF8 compares as PostgreSQL does: letters and digits only, any case.
func isUTF8(values []string) bool {
	if len(values) != 1 {
		return false
	}
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.ToLower(values[0]))
	return values[0] != notConstant && (name == "utf8" || name == "unicode")
}

// catalogFirst reports whether built-in functions stay in front. They are,
// unless the path names pg_catalog behind another schema.
func catalogFirst(values []string) bool {
	first := true
	for _, v := range values {
		if v == notConstant {
			return false
		}
		// One value may be a whole list, where set_config is called; splitting a
		// quoted name that holds a comma errs towards unknown.
		for _, schema := range strings.Split(v, ",") {
			if strings.EqualFold(strings.Trim(schema, " \t\r\n\f\v\""), "pg_catalog") && !first {
				return false
			}
			first = false
		}
	}
	return true
}

func itoa(n int32) string { return strconv.Itoa(int(n)) }
