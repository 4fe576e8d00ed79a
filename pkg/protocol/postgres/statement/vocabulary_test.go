package statement

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestTablesOfNamesAreSorted(t *testing.T) {
	for name, list := range map[string][]string{
		"builtinFunctions":     builtinFunctions,
		"actingFunctions":      actingFunctions,
		"informationFunctions": informationFunctions,
		"builtinOperators":     builtinOperators,
		"rowFunctions":         rowFunctions,
		"quotingFunctions":     quotingFunctions,
		"statisticsRelations":  statisticsRelations,
		"unsafeSettings":       unsafeSettings,
		"builtinTypes":         builtinTypes,
	} {
		if !slices.IsSorted(list) {
			t.Errorf("%s is not sorted", name)
		}
	}
	if !slices.IsSortedFunc(operations, func(a, b Operation) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("operations are not sorted")
	}
	for _, name := range builtinFunctions {
		if functionEffects(name) != nil {
			t.Errorf("%s only computes and has effects", name)
		}
	}
	for _, name := range actingFunctions {
		if functionEffects(name) == nil {
			t.Errorf("%s acts and has no effects", name)
		}
	}
}

func TestEveryEffectIsInTheVocabularyAndInThePackageComment(t *testing.T) {
	known := map[string]bool{}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range Operations() {
		known[o.Name] = true
		if !bytes.Contains(doc, fmt.Appendf(nil, "//\t%-14s %s\n", o.Name, o.Doc)) {
			t.Errorf("doc.go lacks the line of %s", o.Name)
		}
	}
	var used []string
	for _, table := range []map[string]kind{runKinds, definitionKinds} {
		for _, k := range table {
			used = append(used, k.effects...)
		}
	}
	for _, effects := range effectsByFunction {
		used = append(used, effects...)
	}
	for _, f := range effectsByPrefix {
		used = append(used, f.effects...)
	}
	for _, e := range used {
		if !known[e] {
			t.Errorf("effect %q is not in the vocabulary", e)
		}
	}
}
