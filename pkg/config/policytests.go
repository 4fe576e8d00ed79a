package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/policy/policytest"
)

// LoadPolicyTests reads tests of policies and the policies that they are about. Each
// path is a directory, of which all tests are read; a policy file, of which those in
// the NAME_test.yaml beside it are; or a file of tests.
//
// Tests are about the policy files that they list. Those that list none are about
// the policy files among the paths, all together, or, where there are none, about
// the whole directory that the tests are in. What the error says is everything that
// was found in all files.
func LoadPolicyTests(paths ...string) ([]policytest.Suite, error) {
	l := &testLoader{policies: map[string]*policy.File{}}
	for _, path := range paths {
		l.add(path)
	}
	slices.Sort(l.tests)
	var suites []policytest.Suite
	for _, name := range slices.Compact(l.tests) {
		if suite, ok := l.suite(name); ok {
			suites = append(suites, suite)
		}
	}
	if err := errors.Join(l.errs...); err != nil {
		return nil, err
	}
	if len(suites) == 0 {
		return nil, fmt.Errorf("find tests: none in %s: want NAME%s beside NAME.yaml", strings.Join(paths, ", "), policytest.Suffix)
	}
	return suites, nil
}

// testLoader reads every file once.
type testLoader struct {
	tests    []string // names of files of tests
	chosen   []string // names of policy files among the paths
	policies map[string]*policy.File
	errs     []error
}

func (l *testLoader) fail(err error) { l.errs = append(l.errs, err) }

// add finds the tests that a path stands for.
func (l *testLoader) add(path string) {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	switch {
	case err != nil:
		l.fail(fmt.Errorf("find tests: %w", err))
	case info.IsDir():
		names, err := yamlFiles(path)
		if err != nil {
			l.fail(err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, policytest.Suffix) {
				l.tests = append(l.tests, name)
			}
		}
	case strings.HasSuffix(path, policytest.Suffix):
		l.tests = append(l.tests, path)
	default:
		l.chosen = append(l.chosen, path)
		beside := strings.TrimSuffix(path, filepath.Ext(path)) + policytest.Suffix
		if _, err := os.Stat(beside); err == nil {
			l.tests = append(l.tests, beside)
		}
	}
}

// suite reads a file of tests and the policies that it is about. If it is wrong, the
// policies are read all the same, so that what is wrong with them is reported too.
func (l *testLoader) suite(name string) (s policytest.Suite, ok bool) {
	data, err := readFile(name)
	var tests *policytest.File
	if err == nil {
		tests, err = policytest.Parse(name, data)
	}
	ok = err == nil
	if !ok {
		l.fail(err)
	}
	s.Tests = tests
	for _, file := range l.about(name, tests) {
		p := l.policy(file)
		ok = ok && p != nil
		s.Policies = append(s.Policies, p)
	}
	return s, ok
}

// about returns the names of the policy files that a file of tests is about. The
// tests are nil if it is wrong.
func (l *testLoader) about(name string, tests *policytest.File) []string {
	dir := filepath.Dir(name)
	if tests != nil && len(tests.Files()) > 0 {
		return l.listed(dir, tests)
	}
	names := slices.Clone(l.chosen)
	if len(names) == 0 {
		var err error
		if names, err = yamlFiles(dir); err != nil {
			l.fail(err)
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, policytest.Suffix) })
	slices.Sort(names)
	return slices.Compact(names)
}

// listed returns the names of the policy files that tests list.
func (l *testLoader) listed(dir string, tests *policytest.File) []string {
	var names []string
	for i, file := range tests.Files() {
		name := filepath.Join(dir, file)
		if _, err := os.Stat(name); err != nil {
			l.fail(fmt.Errorf("%s: file %q: %w", tests.FilesAt(i), file, err))
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// policy reads a policy file, and returns nil if it is wrong.
func (l *testLoader) policy(name string) *policy.File {
	if f, known := l.policies[name]; known {
		return f
	}
	data, err := readFile(name)
	var f *policy.File
	if err == nil {
		f, err = policy.Parse(name, data)
	}
	if err != nil {
		l.fail(err)
		f = nil
	}
	l.policies[name] = f
	return f
}
