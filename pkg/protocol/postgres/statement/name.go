package statement

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// Bounds of objects that are no identifiers, in bytes: PATH_MAX of Linux, and
// what a rule can sensibly compare a setting with.
const (
	maxPath  = 4096
	maxValue = 256
)

// name notes the objects that are not noted where a statement is understood:
// files, roles, types and locks.
func (w *walker) name(m proto.Message) {
	switch n := m.(type) {
	case *pg.CopyStmt:
		w.file(n)
	case *pg.GrantRoleStmt:
		for _, r := range n.GetGrantedRoles() {
			w.object("role", r.GetAccessPriv().GetPrivName(), true)
		}
	case *pg.AlterRoleStmt:
		w.object("role", n.GetRole().GetRolename(), true)
	case *pg.AlterRoleSetStmt:
		w.object("role", n.GetRole().GetRolename(), true)
		w.object("database", n.GetDatabase(), true)
	case *pg.DropRoleStmt:
		for _, r := range n.GetRoles() {
			w.object("role", r.GetRoleSpec().GetRolename(), true)
		}
	case *pg.RoleSpec:
		if n.GetRoletype() == pg.RoleSpecType_ROLESPEC_PUBLIC {
			w.object("role", "public", false)
		}
	case *pg.TypeName:
		if parts := stringsOf(n.GetNames()); !n.GetPctType() && !isBuiltinType(parts) {
			w.object("type", qualified(parts...), false)
		}
	case *pg.LockStmt:
		if mode := int(n.GetMode()); mode > 0 && mode < len(lockModes) {
			w.object("lock_mode", lockModes[mode], false)
		}
	case *pg.LockingClause:
		w.object("lock_mode", lockStrengths[n.GetStrength()], false)
	}
}

// file notes what the upstream reads or writes by itself.
func (w *walker) file(n *pg.CopyStmt) {
	kind := "file"
	if n.GetIsProgram() {
		kind = "program"
	}
	if len(n.GetFilename()) > maxPath {
		w.unknown("path or command is too long")
		return
	}
	w.object(kind, n.GetFilename(), !n.GetIsFrom() || n.GetIsProgram())
}

// newValue notes what a setting is set to, and the role that acts then.
func (w *walker) newValue(name string, values []string) {
	if len(values) == 0 || slices.Contains(values, notConstant) {
		return
	}
	value := strings.Join(values, ", ")
	if len(value) <= maxValue {
		w.object("setting_value", name+"="+value, true)
	}
	if (name == "role" || name == "session_authorization") && value != "none" {
		w.object("role", value, false)
	}
}

// lockModes are those of LOCK TABLE, by number (storage/lockdefs.h).
var lockModes = []string{
	"", "access share", "row share", "row exclusive", "share update exclusive", "share", "share row exclusive", "exclusive",
	"access exclusive",
}

var lockStrengths = map[pg.LockClauseStrength]string{
	pg.LockClauseStrength_LCS_FORKEYSHARE:    "for key share",
	pg.LockClauseStrength_LCS_FORSHARE:       "for share",
	pg.LockClauseStrength_LCS_FORNOKEYUPDATE: "for no key update",
	pg.LockClauseStrength_LCS_FORUPDATE:      "for update",
}

// isBuiltinType reports whether a type is one of PostgreSQL's own. pg_catalog is
// searched first.
func isBuiltinType(parts []string) bool {
	switch {
	case len(parts) == 2 && parts[0] == "pg_catalog":
		return true
	case len(parts) != 1:
		return false
	case strings.HasSuffix(parts[0], "serial"):
		return parts[0] == "serial" || parts[0] == "bigserial" || parts[0] == "smallserial"
	}
	_, ok := slices.BinarySearch(builtinTypes, parts[0])
	return ok
}
