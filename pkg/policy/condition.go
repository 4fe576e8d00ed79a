package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
)

// The bounds of a condition. Its cost is counted as the CEL specification
// suggests, about one for each step and each ten bytes of text looked at.
const (
	maxCondition     = 4096 // code points
	maxConditionCost = 200_000
	maxNesting       = 2    // of comprehensions
	maxRegex         = 1000 // instructions of a regular expression
)

// Condition is a compiled `when`. It must be pure and safe for concurrent use.
type Condition interface {
	// Eval reports whether the condition holds for a request at one of the
	// resources that its target belongs to. An error denies the request, with the
	// reason "error".
	Eval(req *Request, at *Resource) (bool, error)
}

// Errors that compiling excludes.
var (
	errNotBool      = errors.New("condition is neither true nor false")
	errNoConversion = errors.New("there is no such conversion")
)

// celCondition is a condition in CEL (github.com/google/cel-spec).
type celCondition struct {
	expression string
	env        *cel.Env
	ast        *cel.Ast
	program    cel.Program
	// asksFacts says that it uses the variable of a protocol.
	asksFacts bool
	facts     map[string]bool // those that it looks at; nil for all
	spare     *sync.Pool      // of *activation
}

// Eval evaluates the condition within its cost.
func (c *celCondition) Eval(req *Request, at *Resource) (bool, error) {
	a, _ := c.spare.Get().(*activation)
	if a == nil {
		a = &activation{}
	}
	a.req, a.at = req, at
	value, _, err := c.program.Eval(a)
	a.req, a.at = nil, nil
	c.spare.Put(a)
	if err != nil {
		return false, fmt.Errorf("evaluate condition: %w", err)
	}
	holds, ok := value.Value().(bool)
	if !ok {
		return false, errNotBool
	}
	return holds, nil
}

// conditionCompiler compiles the conditions of one policy.
type conditionCompiler struct {
	facts map[string]FactType // by protocol
	envs  map[string]*cel.Env // by the protocols that they are for
	spare *sync.Pool
}

func newConditionCompiler(facts map[string]FactType) *conditionCompiler {
	return &conditionCompiler{facts: facts, envs: map[string]*cel.Env{}, spare: &sync.Pool{}}
}

// compile compiles an expression for operations of the protocols, in which only
// the facts may be used that all of them have. Without protocols, because no
// resource is there yet, all facts may be.
func (c *conditionCompiler) compile(expression string, protocols []string) (*celCondition, error) {
	variables := c.common(protocols)
	env, err := c.env(variables)
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(expression)
	if err := issues.Err(); err != nil {
		return nil, c.compileError(issues, protocols)
	}
	if ast.OutputType() != cel.BoolType {
		return nil, fmt.Errorf("condition is of type %s, want bool", ast.OutputType())
	}
	program, err := env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxConditionCost))
	if err != nil {
		return nil, fmt.Errorf("condition: %w", err)
	}
	return &celCondition{
		expression: expression, env: env, ast: ast, program: program, spare: c.spare,
		asksFacts: asksFacts(ast, variables), facts: factsIn(ast, variables),
	}, nil
}

// common returns the variables that all of the protocols have, by their names.
func (c *conditionCompiler) common(protocols []string) map[string]FactType {
	variables := map[string]FactType{}
	for _, t := range c.facts {
		variables[t.Variable] = t
	}
	for _, p := range protocols {
		maps.DeleteFunc(variables, func(name string, _ FactType) bool { return c.facts[p].Variable != name })
	}
	return variables
}

func (c *conditionCompiler) env(variables map[string]FactType) (*cel.Env, error) {
	names := slices.Sorted(maps.Keys(variables))
	key := strings.Join(names, " ")
	if env := c.envs[key]; env != nil {
		return env, nil
	}
	env, err := newEnv(variables)
	if err != nil {
		return nil, fmt.Errorf("set up conditions: %w", err)
	}
	c.envs[key] = env
	return env, nil
}

// compileError tells what is wrong and where in the expression. A variable that
// some protocol has is missing because another of the rule's lacks it.
func (c *conditionCompiler) compileError(issues *cel.Issues, protocols []string) error {
	var list []error
	for _, e := range issues.Errors() {
		message := e.Message
		for owner, t := range c.facts {
			if strings.HasPrefix(message, fmt.Sprintf("undeclared reference to '%s'", t.Variable)) {
				others := slices.DeleteFunc(slices.Clone(protocols), func(p string) bool { return c.facts[p].Variable == t.Variable })
				message = fmt.Sprintf("%s is known of protocol %s only, and the rule is for %s, too; give it resources of that protocol",
					t.Variable, owner, strings.Join(others, " and "))
			}
		}
		list = append(list, fmt.Errorf("condition, line %d, column %d: %s", e.Location.Line(), e.Location.Column()+1, message))
	}
	return errors.Join(list...)
}

// asksFacts reports whether an expression refers to one of the variables.
func asksFacts(ast *cel.Ast, variables map[string]FactType) bool {
	for _, r := range ast.NativeRep().ReferenceMap() {
		if _, ok := variables[r.Name]; ok {
			return true
		}
	}
	return false
}
