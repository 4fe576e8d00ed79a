package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"
)

// Report is what the JSON file has.
type Report struct {
	Started    time.Time `json:"started"`
	Seconds    float64   `json:"seconds"`
	Machine    Machine   `json:"machine"`
	Rounds     int       `json:"rounds"`
	Time       float64   `json:"seconds_each"`
	Clients    int       `json:"clients"`
	Durability string    `json:"durability"`
	Recording  string    `json:"recording"`
	Pinned     bool      `json:"pinned"`
	Rows       []Row     `json:"rows"`
	Runs       Runs      `json:"runs"`
}

// report prints the tables and writes the files.
func (b *bench) report(stdout io.Writer) error {
	r := &Report{
		Started: b.begun.UTC().Truncate(time.Second), Seconds: time.Since(b.begun).Round(time.Second).Seconds(), Machine: describe(b.o),
		Rounds: b.o.Rounds, Time: b.o.Time.Seconds(), Clients: b.o.Clients, Durability: b.o.Durability, Recording: b.o.Recording, Pinned: b.o.Pin,
		Rows: b.table(), Runs: b.runs,
	}
	if err := r.print(stdout); err != nil {
		return err
	}
	if b.o.JSON != "" {
		text, err := json.MarshalIndent(r, "", " ")
		if err != nil {
			return fmt.Errorf("write figures: %w", err)
		}
		if err := writeFile(b.o.JSON, append(text, '\n')); err != nil {
			return err
		}
	}
	if b.o.SVG != "" {
		if err := r.charts(b.o.SVG); err != nil {
			return err
		}
	}
	if b.o.Page != "" {
		return r.page(b.o)
	}
	return nil
}

func writeFile(name string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.WriteFile(name, text, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// print writes what was asked for, and below it every figure there is.
func (r *Report) print(out io.Writer) error {
	fmt.Fprintf(out, "%s\n%s\n\n", r.Machine, r.settings())
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "target\twhat\twanted\tvalue [min, max]\tbeside\tratio [min, max]\tothers\tverdict")
	for _, row := range r.Rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.Target, row.What, row.Want, row.value(), row.beside(), row.Ratio, used(row.Others), row.verdict())
	}
	fmt.Fprint(w, "\nmeasure\tpath\tfigure\tmedian [min, max]\tothers, most\n")
	for _, f := range r.Runs.figures() {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", f.measure, f.path, f.value, r.Runs.Series(f.measure, f.path, f.value), used(r.Runs.others(f.measure, f.path)))
	}
	return w.Flush()
}

func (r *Report) settings() string {
	where := ""
	if r.Pinned {
		where = "all on one processor; "
	}
	return fmt.Sprintf("%d rounds of %v s, %d clients, a policy of %d rules, audit %s, recording %s; %sothers: processors that everybody else used",
		r.Rounds, r.Time, r.Clients, policyRules, r.Durability, r.Recording, where)
}

// used writes what others used.
func used(others float64) string {
	if others < 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", others)
}

func (row Row) value() string {
	if row.Value.N == 0 {
		return "-"
	}
	return row.Value.String() + " " + row.Unit
}

func (row Row) beside() string {
	if row.Peer == "" || row.PeerValue.N == 0 {
		return "-"
	}
	return row.Peer + " " + row.PeerValue.String()
}

func (row Row) verdict() string {
	if row.Verdict == notMeasured && row.Reason != "" {
		return row.Verdict + ": " + row.Reason
	}
	return row.Verdict
}
