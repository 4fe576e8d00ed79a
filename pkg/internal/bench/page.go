package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The figures of a page stand between these lines.
const (
	pageBegin = "<!-- figures: begin -->"
	pageEnd   = "<!-- figures: end -->"
)

// page replaces the figures of a Markdown file.
func (r *Report) page(o *Options) error {
	text, err := os.ReadFile(o.Page)
	if err != nil {
		return fmt.Errorf("read page: %w", err)
	}
	replaced, err := between(string(text), r.markdown(o))
	if err != nil {
		return fmt.Errorf("write figures into %s: %w", o.Page, err)
	}
	return writeFile(o.Page, []byte(replaced))
}

// between returns the page with other figures in it.
func between(page, figures string) (string, error) {
	head, rest, begins := strings.Cut(page, pageBegin)
	_, tail, ends := strings.Cut(rest, pageEnd)
	if !begins || !ends {
		return "", errors.New("it has no lines " + pageBegin + " and " + pageEnd)
	}
	return head + pageBegin + "\n" + figures + pageEnd + tail, nil
}

// markdown is the section of a page: where the figures are from, the table of
// the targets, and the charts.
func (r *Report) markdown(o *Options) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nMeasured %s, in %.0f minutes, on %s. %s.\n\n", r.Started.Format("2006-01-02 15:04 UTC"), r.Seconds/60, r.Machine, r.settings())
	b.WriteString("| target | what | wanted | median [min, max] | beside | ratio | others | verdict |\n|---|---|---|---|---|---|---|---|\n")
	for _, row := range r.Rows {
		cells := []string{row.Target, row.What, row.Want, row.value(), row.beside(), row.Ratio.String(), fmt.Sprintf("%.2f", row.Others), row.verdict()}
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
