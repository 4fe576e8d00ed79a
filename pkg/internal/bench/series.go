package bench

import (
	"fmt"
	"math"
	"slices"
)

// Series is what one thing measured in several rounds came to.
type Series struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"`
}

// NewSeries summarises values. Those that are not numbers are left out.
func NewSeries(values []float64) Series {
	values = slices.DeleteFunc(slices.Clone(values), func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
	if len(values) == 0 {
		return Series{}
	}
	slices.Sort(values)
	middle := values[len(values)/2]
	if len(values)%2 == 0 {
		middle = (middle + values[len(values)/2-1]) / 2
	}
	return Series{Median: middle, Min: values[0], Max: values[len(values)-1], N: len(values)}
}

// percentile returns the value below which a part p of the sorted values are.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

// String writes "median [min, max]".
func (s Series) String() string {
	if s.N == 0 {
		return "-"
	}
	if s.N == 1 {
		return number(s.Median)
	}
	return fmt.Sprintf("%s [%s, %s]", number(s.Median), number(s.Min), number(s.Max))
}

// number writes three digits that count.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.1:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.2g", v)
	}
}

// Run is one measurement: of one path, in one round.
type Run struct {
	Measure string             `json:"measure"`
	Path    string             `json:"path"`
	Round   int                `json:"round"`
	Values  map[string]float64 `json:"values"`
	// Others is how many processors' time everybody else used meanwhile. It is
	// negative where that is not known.
	Others float64 `json:"others"`
}

// Runs are all measurements of a run of the program.
type Runs []Run

// of returns a value of each round, by round.
func (rs Runs) of(measure, path, value string) map[int]float64 {
	found := map[int]float64{}
	for _, r := range rs {
		if v, ok := r.Values[value]; ok && r.Measure == measure && r.Path == path {
			found[r.Round] = v
		}
	}
	return found
}

// Series returns how a value of a path came out.
func (rs Runs) Series(measure, path, value string) Series {
	var values []float64
	for _, v := range rs.of(measure, path, value) {
		values = append(values, v)
	}
	return NewSeries(values)
}

// Combine returns how f of two paths' values in the same round came out.
func (rs Runs) Combine(measure, value string, paths [2]string, f func(a, b float64) float64) Series {
	first, second := rs.of(measure, paths[0], value), rs.of(measure, paths[1], value)
	var values []float64
	for round, a := range first {
		if b, ok := second[round]; ok {
			values = append(values, f(a, b))
		}
	}
	return NewSeries(values)
}

func ratio(a, b float64) float64      { return a / b }
func difference(a, b float64) float64 { return a - b }
