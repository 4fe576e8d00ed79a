package audit

import (
	"path"
	"regexp"
	"strings"
)

// redacted stands in the place of what was taken out.
const redacted = "[redacted]"

// secretWord is the end of a name whose value is secret, as in "--db-password",
// "PGPASSWORD" and "X-Api-Key".
const secretWord = `(?:password|passwd|passphrase|pwd|secret|token|api[-_]?key|access[-_]?key(?:[-_]id)?|secret[-_]?key|private[-_]?key|credentials?|apikey)`

var (
	// name=value and name: value, quoted or not, anywhere in an argument.
	assignment = regexp.MustCompile(`(?i)([a-z0-9_.-]*` + secretWord + `["']?\s*[=:]\s*)("(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s&;,"']+)`)
	// A whole argument that is one assignment.
	wholeArgument = regexp.MustCompile(`(?i)^([a-z0-9_.-]*` + secretWord + `=)\S*$`)
	wholeFlag     = regexp.MustCompile(`(?is)^(-[a-z0-9_.-]*` + secretWord + `=).*$`)
	// A flag whose value is the next argument, or the next word of a command
	// line that is one argument.
	secretFlag = regexp.MustCompile(`(?i)^--?[a-z0-9_.-]*` + secretWord + `$`)
	inlineFlag = regexp.MustCompile(`(?i)((?:^|\s)--?[a-z0-9_.-]*` + secretWord + `\s+)("(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s"']+)`)
	// The value of an Authorization header, and a scheme in front of a token.
	authorization = regexp.MustCompile(`(?i)((?:proxy-)?authorization["']?\s*[=:]\s*)[^"']+`)
	bearer        = regexp.MustCompile(`(?i)(\b(?:bearer|basic)\s+)[a-z0-9._~+/=-]{6,}`)
	userinfo      = regexp.MustCompile(`(?i)([a-z][a-z0-9+.-]*://)[^/?#\s"']*@`)
	// Tokens that say themselves what they are.
	wellKnown = regexp.MustCompile(`\b(?:gh[opsur]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[A-Za-z0-9_-]{16,}|xox[abprs]-[A-Za-z0-9-]{10,}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*)`)
)

// shortFlags are flags that hold a secret in programs which many agents run.
// The value is the next argument, or what follows in the same one.
var shortFlags = map[string]string{
	"curl":      "-u",
	"mariadb":   "-p",
	"mysql":     "-p",
	"mysqldump": "-p",
	"redis-cli": "-a",
	"sshpass":   "-p",
}

// RedactArgv takes what looks like a secret out of an argument vector: the
// values of flags and assignments that are named like one, authorization
// headers, bearer tokens, the userinfo of URLs, and tokens in well-known forms.
// It writes into argv and returns it. It works in linear time and cannot know
// every way in which a program takes a secret.
func RedactArgv(argv []string) []string {
	short := ""
	if len(argv) > 0 {
		short = shortFlags[path.Base(argv[0])]
	}
	next := false
	for i, arg := range argv {
		switch {
		case next:
			argv[i], next = redacted, false
		case i > 0 && (secretFlag.MatchString(arg) || arg == "--user" && short == "-u"):
			next = true
		case i > 0 && short != "" && arg == short:
			// Of these, only sshpass, curl and redis-cli take the next argument;
			// for the others losing one argument is the lesser harm.
			next = true
		case i > 0 && short != "" && strings.HasPrefix(arg, short):
			argv[i] = short + redacted
		default:
			argv[i] = redactText(arg)
		}
	}
	return argv
}

func redactText(s string) string {
	for _, whole := range []*regexp.Regexp{wholeArgument, wholeFlag} {
		if m := whole.FindStringSubmatch(s); m != nil {
			return m[1] + redacted
		}
	}
	s = userinfo.ReplaceAllString(s, "${1}"+redacted+"@")
	s = authorization.ReplaceAllString(s, "${1}"+redacted)
	s = bearer.ReplaceAllString(s, "${1}"+redacted)
	s = assignment.ReplaceAllString(s, "${1}"+redacted)
	s = inlineFlag.ReplaceAllString(s, "${1}"+redacted)
	return wellKnown.ReplaceAllString(s, redacted)
}
