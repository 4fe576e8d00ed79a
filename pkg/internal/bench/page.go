package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// markers are the lines between which a page has the figures of such a run.
func (o *Options) markers() (begin, end string) {
	what := "figures"
	if o.Durability != "write" || o.Recording != "statements" {
		what = fmt.Sprintf("figures, audit %s, recording %s", o.Durability, o.Recording)
	}
	return "<!-- " + what + ": begin -->", "<!-- " + what + ": end -->"
}

// checkPage finds out early whether the page has a place for the figures.
func (o *Options) checkPage() error {
	if o.Page == "" {
		return nil
	}
	text, err := os.ReadFile(o.Page)
	if err != nil {
		return fmt.Errorf("read page: %w", err)
	}
	_, err = o.between(string(text), "")
	return err
}

// page replaces the figures of a Markdown file.
func (r *Report) page(o *Options) error {
	text, err := os.ReadFile(o.Page)
	if err != nil {
		return fmt.Errorf("read page: %w", err)
	}
	replaced, err := o.between(string(text), r.markdown(o))
	if err != nil {
		return err
	}
	return writeFile(o.Page, []byte(replaced))
}

// between returns the page with other figures in it.
func (o *Options) between(page, figures string) (string, error) {
	begin, end := o.markers()
	head, rest, begins := strings.Cut(page, begin)
	_, tail, ends := strings.Cut(rest, end)
	if !begins || !ends {
		return "", fmt.Errorf("write figures: %s has no lines %s and %s", o.Page, begin, end)
	}
	return head + begin + "\n" + figures + end + tail, nil
}

// markdown is the section of a page: where the figures are from, the table of
// the targets, and the charts.
func (r *Report) markdown(o *Options) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nMeasured %s, in %.0f minutes, on %s. %s.\n\n", r.Started.Format("2006-01-02 15:04 UTC"), r.Seconds/60, r.Machine, r.settings())
	b.WriteString("| target | what | wanted | median [min, max] | beside | ratio | others | verdict |\n|---|---|---|---|---|---|---|---|\n")
	for _, row := range r.Rows {
		cells := []string{row.Target, row.What, row.Want, row.value(), row.beside(), row.Ratio.String(), used(row.Others), row.verdict()}
		for i, c := range cells {
			cells[i] = strings.ReplaceAll(c, "|", `\|`)
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	b.WriteByte('\n')
	for _, c := range chartsOf() {
		if o.SVG == "" || c.draw(r.Runs) == "" {
			continue
		}
		file := filepath.Join(o.SVG, c.file+".svg")
		if relative, err := filepath.Rel(filepath.Dir(o.Page), file); err == nil {
			file = relative
		}
		fmt.Fprintf(&b, "![%s](%s)\n\n", c.title, filepath.ToSlash(file))
	}
	return b.String()
}
