package strict

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type upper string

func (u *upper) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New("is empty")
	}
	*u = upper(strings.ToUpper(string(text)))
	return nil
}

type sample struct {
	Word   string            `yaml:"word"`
	Flag   bool              `yaml:"flag"`
	Port   uint16            `yaml:"port"`
	Count  int               `yaml:"count"`
	Loud   upper             `yaml:"loud"`
	IDs    []string          `yaml:"ids,text"`
	ID     string            `yaml:"id,text"`
	Map    map[string]string `yaml:"map"`
	List   []sample          `yaml:"list"`
	Hidden string
}

func TestEveryKindOfValueIsDecodedWithItsPlace(t *testing.T) {
	got := sample{Word: "kept", IDs: []string{"replaced"}, Map: map[string]string{"a": "replaced", "b": "kept"}}
	at := Positions{}
	errs := Decode("f.yaml", []byte(`# comment
flag: true
port: 65535
count: -3
loud: 0x1f
ids: [7, "8", nine, 1.50]
id: 0123
map: {a: x}
list:
  - word: |
      two
      lines
    flag: false
  - {word: 'q'}
`), &got, at)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	want := sample{
		Word: "kept", Flag: true, Port: 65535, Count: -3, Loud: "0X1F", IDs: []string{"7", "8", "nine", "1.50"}, ID: "0123",
		Map: map[string]string{"a": "x", "b": "kept"}, List: []sample{{Word: "two\nlines\n"}, {Word: "q"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
	for path, want := range map[string]string{
		"": "f.yaml:2:1", "flag": "f.yaml:2:7", "ids[2]": "f.yaml:6:15", "list[1].word": "f.yaml:14:12", "list[1].flag": "f.yaml:14:5", "word": "f.yaml:2:1",
	} {
		if got := at.At(path).String(); got != want {
			t.Errorf("%q is at %s, want %s", path, got, want)
		}
	}
}

func TestAValueOfAnotherTypeIsAnError(t *testing.T) {
	tests := map[string]string{
		"word: 1":       "f:1:7: word: want a string, found a number; put it in quotes",
		"word: true":    "f:1:7: word: want a string, found true or false",
		"flag: yes":     "f:1:7: flag: want true or false, found a string",
		"port: 65536":   "f:1:7: port: want a decimal integer from 0 to 65535, found a number",
		"port: -1":      "f:1:7: port: want a decimal integer from 0 to 65535, found a number",
		"port: 0x10":    "f:1:7: port: want a decimal integer from 0 to 65535, found a number",
		"count: 1.5":    "f:1:8: count: want an integer, found a number",
		"loud: ''":      "f:1:7: loud: is empty",
		"loud: [a]":     "f:1:7: loud: want a string, found a list",
		"ids: 7":        "f:1:6: ids: want a list, found a number",
		"ids: [true]":   "f:1:7: ids[0]: want a string, found true or false",
		"map: [a]":      "f:1:6: map: want a mapping, found a list",
		"map: {a: 1}":   "f:1:10: map.a: want a string, found a number; put it in quotes",
		"list: [a]":     "f:1:8: list[0]: want a mapping, found a string",
		"Hidden: x":     `f:1:1: unknown key "Hidden", want one of word, flag, port, count, loud, ids, id, map, list`,
		"word: .inf":    "f:1:7: word: want a string, found a number",
		"list: [{},{}]": "",
	}
	for text, want := range tests {
		var got sample
		if err := Decode("f", []byte(text), &got, Positions{}).Error(); err != want {
			t.Errorf("%s:\n got %s\nwant %s", text, err, want)
		}
	}
}

func TestAStructMayBeWrittenAsItsShortField(t *testing.T) {
	type step struct {
		Exe string `yaml:"exe,short"`
		UID int    `yaml:"uid"`
	}
	var got struct {
		Steps []step `yaml:"steps"`
	}
	at := Positions{}
	if errs := Decode("f", []byte("steps: [/bin/sh, {exe: /bin/env, uid: 7}]"), &got, at); len(errs) > 0 {
		t.Fatal(errs)
	}
	if diff := cmp.Diff([]step{{Exe: "/bin/sh"}, {Exe: "/bin/env", UID: 7}}, got.Steps); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
	if place := at.At("steps[0].exe").String(); place != "f:1:9" {
		t.Errorf("the short form is at %s", place)
	}
	errs := Decode("f", []byte("steps: [7, [a]]"), &got, Positions{})
	if want := "f:1:9: steps[0]: want a mapping, found a number\nf:1:12: steps[1]: want a mapping, found a list"; errs.Error() != want {
		t.Errorf("got %s", errs)
	}
}

func TestAHundredFindingsAreEnough(t *testing.T) {
	var errs Errors
	if errs.Err() != nil {
		t.Error("no findings are an error")
	}
	for range 103 {
		errs.Add(Position{}, "x")
	}
	if got := strings.Count(errs.Error(), "\n"); got != 100 || !strings.HasSuffix(errs.Error(), "\nand 3 more") {
		t.Errorf("%d lines: …%s", got, errs.Error()[190:])
	}
	var one *Error
	if !errors.As(errs.Err(), &one) || one.Message != "x" {
		t.Error("a single finding can't be reached")
	}
}
