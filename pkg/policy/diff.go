package policy

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Difference is one thing in which two policies differ as they are written.
type Difference struct {
	// Kind is agents, resources, rules, masks or defaults, and Name which of them;
	// empty for defaults.
	Kind string `json:"kind"`
	Name string `json:"name,omitempty"`
	// Change is "added", "removed" or "changed".
	Change string `json:"change"`
	// Key is what changed of it, From and To how it was and is written. They are
	// empty for what was added or removed as a whole.
	Key  string `json:"key,omitempty"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// The changes of a [Difference].
const (
	Added   = "added"
	Removed = "removed"
	Changed = "changed"
)

// Diff returns in what two policies differ, by kind and name. In which files things
// stand, and in which order, makes no difference, but for the mode that a file gives
// to its rules and masks.
func Diff(from, to []*File) []Difference {
	a, b := written(from), written(to)
	var list []Difference
	for thing, before := range a {
		if after, ok := b[thing]; ok {
			list = append(list, differences(thing, before, after)...)
		} else {
			list = append(list, Difference{Kind: thing[0], Name: thing[1], Change: Removed})
		}
	}
	for thing := range b {
		if _, ok := a[thing]; !ok {
			list = append(list, Difference{Kind: thing[0], Name: thing[1], Change: Added})
		}
	}
	slices.SortFunc(list, func(x, y Difference) int {
		return cmp.Or(strings.Compare(x.Kind, y.Kind), strings.Compare(x.Name, y.Name), strings.Compare(x.Key, y.Key))
	})
	return list
}

// written returns the keys of everything in a policy with their values, by kind and
// name. A file's mode is that of its rules and masks.
func written(files []*File) map[[2]string]map[string]string {
	things := map[[2]string]map[string]string{}
	defaults := map[string]string{}
	for _, f := range files {
		for _, a := range f.syntax.Agents {
			things[[2]string{"agents", a.Name}] = keysOf(a)
		}
		for _, r := range f.syntax.Resources {
			things[[2]string{"resources", r.Name}] = keysOf(r)
		}
		for _, r := range f.syntax.Rules {
			r.Mode = cmp.Or(r.Mode, f.syntax.Mode)
			things[[2]string{"rules", r.Name}] = keysOf(r)
		}
		for _, m := range f.syntax.Masks {
			keys := keysOf(m)
			if f.syntax.Mode != "" {
				keys["mode"] = f.syntax.Mode
			}
			things[[2]string{"masks", m.Name}] = keys
		}
		maps.Copy(defaults, keysOf(f.syntax.Defaults))
	}
	if len(defaults) > 0 {
		things[[2]string{"defaults", ""}] = defaults
	}
	return things
}

// keysOf returns the keys of a struct that are given, by their names in YAML.
func keysOf(thing any) map[string]string {
	keys := map[string]string{}
	v := reflect.ValueOf(thing)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			continue
		}
		name := yamlName(v.Type().Field(i))
		if v.Field(i).Kind() == reflect.Struct {
			for inner, value := range keysOf(v.Field(i).Interface()) {
				keys[name+"."+inner] = value
			}
			continue
		}
		keys[name] = fmt.Sprint(v.Field(i).Interface())
		if list, ok := v.Field(i).Interface().([]string); ok {
			keys[name] = "[" + strings.Join(list, ", ") + "]"
		}
	}
	return keys
}

func yamlName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}

func differences(thing [2]string, before, after map[string]string) []Difference {
	var list []Difference
	for key := range mergedKeys(before, after) {
		if before[key] != after[key] {
			list = append(list, Difference{Kind: thing[0], Name: thing[1], Change: Changed, Key: key, From: before[key], To: after[key]})
		}
	}
	return list
}

func mergedKeys(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}
