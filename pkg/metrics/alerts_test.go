package metrics

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

const scripts = "../../scripts"

// alerts are the rules that we ship.
func alerts(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(scripts, "prometheus", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations struct{ Runbook string }
			}
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	exprs := map[string]string{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if want := "docs/alerts.md#" + strings.ToLower(r.Alert); r.Annotations.Runbook != want {
				t.Errorf("%s has the runbook %q, want %q", r.Alert, r.Annotations.Runbook, want)
			}
			exprs[r.Alert] = r.Expr
		}
	}
	return exprs
}

// panels are the queries of the dashboard that we ship.
func panels(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(scripts, "grafana", "direct.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	exprs := map[string]string{}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			exprs[p.Title+" "+target.RefID] = target.Expr
		}
	}
	return exprs
}

// A query for a metric that is not there is never wrong: it just says nothing.
func TestAlertsAndPanelsAskForMetricsThatThereAre(t *testing.T) {
	s := New("1.2.3")
	exercise(s)
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	there, asked := map[string]bool{}, map[string]bool{}
	for _, f := range families {
		there[f.GetName()] = true
	}
	metric := regexp.MustCompile(`headgate_[a-z0-9_]+`)
	for _, queries := range []map[string]string{alerts(t), panels(t)} {
		if len(queries) < 7 {
			t.Errorf("%d queries were found", len(queries))
		}
		for where, query := range queries {
			names := metric.FindAllString(query, -1)
			if len(names) == 0 {
				t.Errorf("%s asks for nothing: %s", where, query)
			}
			for _, name := range names {
				asked[name] = true
				if !there[name] {
					t.Errorf("%s asks for %s, which is no metric", where, name)
				}
			}
		}
	}
	for name := range there {
		if strings.HasPrefix(name, "headgate_direct_") && !asked[name] {
			t.Errorf("nothing asks for %s", name)
		}
	}
}

func TestEachAlertHasARunbook(t *testing.T) {
	page, err := os.ReadFile("../../docs/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	for alert := range alerts(t) {
		if !strings.Contains(string(page), "\n## "+alert+"\n") || !strings.Contains(string(page), "\n| "+alert+" |") {
			t.Errorf("docs/alerts.md has no section and no row for %s", alert)
		}
	}
}

func TestAlertsFireWhenTheyShouldAndPanelsCanBeAsked(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("needs promtool: Debian's package prometheus")
	}
	if out, err := exec.Command(promtool, "test", "rules", filepath.Join(scripts, "prometheus", "alerts_test.yaml")).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
	// promtool checks the syntax of rules alone. Grafana's variables stand for a
	// value and a time.
	variables := strings.NewReplacer("$instance", ".*", "$__rate_interval", "5m")
	var rules []map[string]string
	for _, query := range panels(t) {
		rules = append(rules, map[string]string{"record": fmt.Sprint("panel", len(rules)), "expr": variables.Replace(query)})
	}
	// JSON is YAML.
	text, err := json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "panels", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "panels.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
