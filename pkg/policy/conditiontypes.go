package policy

import (
	"fmt"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/headgate/headgate/pkg/identity"
	"github.com/headgate/headgate/pkg/process"
)

// field is a fact, its type in CEL, and how it is found in what holds it.
type field struct {
	name string
	kind *types.Type
	doc  string
	get  func(holder any) (any, error)
}

// object is a type of things that have fields.
type object struct {
	kind   *types.Type
	fields []field
}

// of makes the getter of a field of things that are held by pointers. A thing that
// is not there has no facts.
func of[T any](get func(*T) (any, error)) func(any) (any, error) {
	return func(holder any) (any, error) {
		t, ok := holder.(*T)
		if !ok || t == nil {
			return nil, ErrUnknownFact
		}
		return get(t)
	}
}

// known makes the getter of a field that is always there.
func known[T any](get func(*T) any) func(any) (any, error) {
	return of(func(t *T) (any, error) { return get(t), nil })
}

// vouched makes the getter of a fact about a principal. The anonymous one has none,
// whatever its fields say.
func vouched(get func(*identity.Principal) any) func(any) (any, error) {
	return known(func(p *identity.Principal) any {
		if p.IsAnonymous() {
			p = &identity.Principal{}
		}
		return get(p)
	})
}

// whole makes the getter of a fact about a process that nothing may rest on where
// the process is not known for certain.
func whole(get func(*process.Process) (any, error)) func(any) (any, error) {
	return of(func(p *process.Process) (any, error) {
		if p.Partial || p.Image == nil {
			return nil, fmt.Errorf("process %s: %w for certain", p.ID, ErrUnknownFact)
		}
		return get(p)
	})
}

// The types of conditions: see [Conditions] for what they mean.
const (
	typePrincipal = "headgate.Principal"
	typeProcess   = "headgate.Process"
	typeResource  = "headgate.Resource"
	typeOperation = "headgate.Operation"
	typeObject    = "headgate.Object"
	typeTarget    = "headgate.Target"
	typeFacts     = "headgate.facts."
)

func principalFields() []field {
	return []field{
		{"anonymous", types.BoolType, "whether nobody vouched for the tree", known(func(p *identity.Principal) any { return p.IsAnonymous() })},
		{"issuer", types.StringType, "the identity provider, by its name in the configuration; empty if anonymous", vouched(func(p *identity.Principal) any { return p.Issuer })},
		{"subject", types.StringType, "the provider's stable id; empty if anonymous", vouched(func(p *identity.Principal) any { return p.Subject })},
		{"groups", types.NewListType(types.StringType), "the groups", vouched(func(p *identity.Principal) any { return p.Groups })},
		{"claims", types.NewMapType(types.StringType, types.StringType), "the verified claims that the configuration lets through", vouched(func(p *identity.Principal) any { return p.Claims })},
	}
}

func processFields() []field {
	return []field{
		{"exe", types.StringType, "the absolute path of the executable", whole(func(p *process.Process) (any, error) { return p.Image.Exe, nil })},
		{"argv", types.NewListType(types.StringType), "the arguments; not known where they were cut at 4 KiB", whole(func(p *process.Process) (any, error) {
			if p.Image.ArgvTruncated {
				return nil, fmt.Errorf("arguments of process %s: %w, they were cut", p.ID, ErrUnknownFact)
			}
			return p.Image.Argv, nil
		})},
		{"uid", types.IntType, "the number of the user", whole(func(p *process.Process) (any, error) { return int64(p.UID), nil })},
		{"pid", types.IntType, "the number of the process", known(func(p *process.Process) any { return int64(p.ID.PID) })},
	}
}

func resourceFields() []field {
	return []field{
		{"name", types.StringType, "the resource's name in the policy", known(func(r *Resource) any { return r.Name })},
		{"protocol", types.StringType, "its protocol", known(func(r *Resource) any { return r.Protocol })},
		{"credential", types.StringType, "the credential's name in the configuration; empty if there is none", known(func(r *Resource) any { return r.Credential })},
	}
}

func targetFields() []field {
	return []field{
		{"ip", types.StringType, "the address, as in 10.0.3.7", known(func(r *Request) any { return r.Target.Addr().Unmap().String() })},
		{"port", types.IntType, "the port", known(func(r *Request) any { return int64(r.Target.Port()) })},
		{"names", types.NewListType(types.StringType), "the names that a trusted server told the tree for the address", known(func(r *Request) any { return r.Names })},
	}
}

func operationFields() []field {
	return []field{
		{"protocol", types.StringType, "the protocol", known(func(o *Operation) any { return o.Protocol })},
		{"verb", types.StringType, "what the operation is, in the protocol's vocabulary", known(func(o *Operation) any { return o.Verb })},
		{"effects", types.NewListType(types.StringType), "everything that it does, in the same vocabulary", known(func(o *Operation) any { return o.Effects })},
		{"objects", types.NewListType(types.NewObjectType(typeObject)), "what it touches, by the names that the agent used", known(func(o *Operation) any { return o.Objects })},
		{"text", types.StringType, "the operation as the agent wrote it", known(func(o *Operation) any { return o.Text })},
		{"parameters", types.NewListType(types.StringType), "what accompanies the text; not known where it is not kept whole", of(func(o *Operation) (any, error) {
			if o.PartialParameters {
				return nil, fmt.Errorf("op.parameters: %w, there are more or longer ones than are kept, or several cursors may be meant", ErrUnknownFact)
			}
			return o.Parameters, nil
		})},
	}
}

func objectFields() []field {
	return []field{
		{"kind", types.StringType, "table, function, …", known(func(o *Object) any { return o.Kind })},
		{"name", types.StringType, "qualified as far as the agent qualified it", known(func(o *Object) any { return o.Name })},
		{"write", types.BoolType, "whether it is changed, not only read", known(func(o *Object) any { return o.Write })},
	}
}

// factFields are those of a protocol's variable.
func factFields(t FactType) []field {
	kinds := map[FactKind]*types.Type{
		FactBool: types.BoolType, FactInt: types.IntType, FactString: types.StringType, FactStrings: types.NewListType(types.StringType),
	}
	var fields []field
	for _, f := range t.Fields {
		fields = append(fields, field{f.Name, kinds[f.Kind], f.Doc, func(holder any) (any, error) {
			facts, ok := holder.(Facts)
			if !ok {
				return nil, fmt.Errorf("%s.%s: %w", t.Variable, f.Name, ErrUnknownFact)
			}
			value, err := facts.Fact(f.Name)
			if err != nil {
				return nil, fmt.Errorf("%s.%s: %w", t.Variable, f.Name, err)
			}
			return value, nil
		}})
	}
	return fields
}

// typeProvider tells CEL about the types of conditions, and turns their values into
// CEL's. It is immutable.
type typeProvider struct {
	*types.Registry
	objects map[string]*object
}

func newTypeProvider(variables map[string]FactType) (*typeProvider, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, fmt.Errorf("make registry of types: %w", err)
	}
	p := &typeProvider{Registry: registry, objects: map[string]*object{}}
	add := func(name string, fields []field) {
		p.objects[name] = &object{kind: types.NewObjectType(name), fields: fields}
	}
	add(typePrincipal, principalFields())
	add(typeProcess, processFields())
	add(typeResource, resourceFields())
	add(typeTarget, targetFields())
	add(typeOperation, operationFields())
	add(typeObject, objectFields())
	for name, t := range variables {
		add(typeFacts+name, factFields(t))
	}
	return p, nil
}

// FindStructType returns a type by its name.
func (p *typeProvider) FindStructType(name string) (*types.Type, bool) {
	if o := p.objects[name]; o != nil {
		return types.NewTypeTypeWithParam(o.kind), true
	}
	return nil, false
}

// FindStructFieldNames returns the names of a type's fields.
func (p *typeProvider) FindStructFieldNames(name string) ([]string, bool) {
	o := p.objects[name]
	if o == nil {
		return nil, false
	}
	var names []string
	for _, f := range o.fields {
		names = append(names, f.name)
	}
	return names, true
}

// FindStructFieldType returns a field. It is there where its value is known.
func (p *typeProvider) FindStructFieldType(name, fieldName string) (*types.FieldType, bool) {
	o := p.objects[name]
	if o == nil {
		return nil, false
	}
	for _, f := range o.fields {
		if f.name == fieldName {
			return &types.FieldType{
				Type:    f.kind,
				IsSet:   func(holder any) bool { _, err := f.get(holder); return err == nil },
				GetFrom: f.get,
			}, true
		}
	}
	return nil, false
}

// NewValue refuses to make objects: conditions only look at them.
func (p *typeProvider) NewValue(name string, _ map[string]ref.Val) ref.Val {
	return types.NewErr("a %s can't be made in a condition", name)
}

// NativeToValue wraps what is no value of CEL's own.
func (p *typeProvider) NativeToValue(value any) ref.Val {
	switch v := value.(type) {
	case *identity.Principal:
		return p.wrap(typePrincipal, v)
	case *process.Process:
		return p.wrap(typeProcess, v)
	case process.Lineage:
		return types.NewDynamicList(p, v)
	case *Resource:
		return p.wrap(typeResource, v)
	case *Request:
		return p.wrap(typeTarget, v)
	case *Operation:
		return p.wrap(typeOperation, v)
	case Object:
		return p.wrap(typeObject, &v)
	case []Object:
		return types.NewDynamicList(p, v)
	case map[string]string:
		return types.NewStringStringMap(p, v)
	case []string:
		return types.NewStringList(p, v)
	case time.Time:
		return types.Timestamp{Time: v}
	}
	return p.Registry.NativeToValue(value)
}

func (p *typeProvider) wrap(name string, of any) ref.Val {
	return &objectValue{kind: p.objects[name].kind, of: of}
}

// newEnv returns what conditions are compiled in.
func newEnv(variables map[string]FactType) (*cel.Env, error) {
	p, err := newTypeProvider(variables)
	if err != nil {
		return nil, err
	}
	options := []cel.EnvOption{
		cel.CustomTypeProvider(p), cel.CustomTypeAdapter(p),
		cel.ParserExpressionSizeLimit(maxCondition), cel.EnableMacroCallTracking(),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(),
			cel.ValidateHomogeneousAggregateLiterals(), cel.ValidateComprehensionNestingLimit(maxNesting),
			cel.ValidateRegexProgramSizeLimit(maxRegex)),
		cel.Variable(varPrincipal, types.NewObjectType(typePrincipal)),
		cel.Variable(varProcess, types.NewObjectType(typeProcess)),
		cel.Variable(varLineage, types.NewListType(types.NewObjectType(typeProcess))),
		cel.Variable(varAgent, types.StringType),
		cel.Variable(varResource, types.NewObjectType(typeResource)),
		cel.Variable(varTarget, types.NewObjectType(typeTarget)),
		cel.Variable(varOperation, types.NewObjectType(typeOperation)),
		cel.Variable(varTime, types.TimestampType),
	}
	for name := range variables {
		options = append(options, cel.Variable(name, types.NewObjectType(typeFacts+name)))
	}
	return cel.NewEnv(options...)
}
