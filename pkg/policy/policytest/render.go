package policytest

import (
	"bufio"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// WriteTable writes the report for people: every test, why it failed, and which
// rules and masks no test has to do with.
func (r *Report) WriteTable(w io.Writer) error {
	b := bufio.NewWriter(w)
	p := &printer{w: b}
	file := ""
	for i := range r.Results {
		one := &r.Results[i]
		if one.File != file {
			file = one.File
			p.printf("%s\n", file)
		}
		word := "ok"
		if !one.Passed() {
			word = "FAIL"
		}
		p.printf("  %-5s %s\n", word, one.Name)
		for _, failure := range one.Failures {
			p.printf("        %s: %s\n", one.At, failure)
		}
	}
	for _, c := range r.Coverage {
		if c.Tests == 0 {
			p.printf("%s: %s %s is in no test\n", c.At, c.Kind, c.Name)
		}
	}
	p.printf("%d tests, %d passed, %d failed; %d of %d rules and masks covered (%.1f%%)\n",
		len(r.Results), len(r.Results)-r.Failed(), r.Failed(), r.CoveredParts(), len(r.Coverage), r.Percent())
	if p.err == nil {
		p.err = b.Flush()
	}
	return p.err
}

// printer keeps the first error, so that its user checks once.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// The JSON form. Its keys are stable.
type (
	reportJSON struct {
		Tests    int          `json:"tests"`
		Passed   int          `json:"passed"`
		Failed   int          `json:"failed"`
		Results  []resultJSON `json:"results"`
		Coverage coverageJSON `json:"coverage"`
	}
	resultJSON struct {
		File     string   `json:"file"`
		Line     int      `json:"line"`
		Column   int      `json:"column"`
		Name     string   `json:"name"`
		Passed   bool     `json:"passed"`
		Decision string   `json:"decision,omitempty"`
		Rule     string   `json:"rule,omitempty"`
		Failures []string `json:"failures,omitempty"`
	}
	coverageJSON struct {
		Percent float64    `json:"percent"`
		Covered int        `json:"covered"`
		Total   int        `json:"total"`
		Parts   []partJSON `json:"parts"`
	}
	partJSON struct {
		Kind   string `json:"kind"`
		Name   string `json:"name"`
		File   string `json:"file"`
		Line   int    `json:"line"`
		Column int    `json:"column"`
		Tests  int    `json:"tests"`
	}
)

// WriteJSON writes the report as one object with stable keys.
func (r *Report) WriteJSON(w io.Writer) error {
	out := reportJSON{
		Tests: len(r.Results), Passed: len(r.Results) - r.Failed(), Failed: r.Failed(), Results: []resultJSON{},
		Coverage: coverageJSON{Percent: r.Percent(), Covered: r.CoveredParts(), Total: len(r.Coverage), Parts: []partJSON{}},
	}
	for i := range r.Results {
		one := &r.Results[i]
		out.Results = append(out.Results, resultJSON{one.File, one.At.Line, one.At.Column, one.Name, one.Passed(), one.Decision, one.Rule, one.Failures})
	}
	for _, c := range r.Coverage {
		out.Coverage.Parts = append(out.Coverage.Parts, partJSON{c.Kind, c.Name, c.At.File, c.At.Line, c.At.Column, c.Tests})
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(out)
}

// The JUnit form, as far as CI systems read it: the attributes that GitLab lists
// (https://docs.gitlab.com/ci/testing/unit_test_reports/) and those of the schema of
// Ant's JUnit task. There are no times: nothing here takes any.
type (
	suitesXML struct {
		XMLName  xml.Name   `xml:"testsuites"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Errors   int        `xml:"errors,attr"`
		Suites   []suiteXML `xml:"testsuite"`
	}
	suiteXML struct {
		Name     string    `xml:"name,attr"`
		Tests    int       `xml:"tests,attr"`
		Failures int       `xml:"failures,attr"`
		Errors   int       `xml:"errors,attr"`
		Skipped  int       `xml:"skipped,attr"`
		Cases    []caseXML `xml:"testcase"`
	}
	caseXML struct {
		Name    string      `xml:"name,attr"`
		Class   string      `xml:"classname,attr"`
		File    string      `xml:"file,attr"`
		Line    int         `xml:"line,attr"`
		Time    string      `xml:"time,attr"`
		Failure *failureXML `xml:"failure"`
	}
	failureXML struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the results, without the coverage, as JUnit XML.
func (r *Report) WriteJUnit(w io.Writer) error {
	out := suitesXML{Name: "headgate policy test", Tests: len(r.Results), Failures: r.Failed()}
	for i := range r.Results {
		one := &r.Results[i]
		if n := len(out.Suites); n == 0 || out.Suites[n-1].Name != one.File {
			out.Suites = append(out.Suites, suiteXML{Name: one.File})
		}
		suite := &out.Suites[len(out.Suites)-1]
		suite.Tests++
		test := caseXML{Name: one.Name, Class: one.File, File: one.File, Line: one.At.Line, Time: "0"}
		if !one.Passed() {
			suite.Failures++
			test.Failure = &failureXML{
				Message: one.Failures[0], Type: "policy",
				Text: one.At.String() + ": " + strings.Join(one.Failures, "\n"+one.At.String()+": "),
			}
		}
		suite.Cases = append(suite.Cases, test)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(out); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}
