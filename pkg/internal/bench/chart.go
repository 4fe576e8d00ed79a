package bench

import (
	"fmt"
	"html"
	"path/filepath"
	"strings"
)

// chart is a picture of bars: one figure of several measures, on several paths.
type chart struct {
	file, title, unit string
	// less says whether less is better.
	less   bool
	value  string
	groups []string // measures
	paths  []string
}

func chartsOf() []chart {
	var small []string
	for _, m := range modes {
		small = append(small, "pgbench "+m)
	}
	proxies := []string{haproxy, pgbouncer, inKernel, gateRelay, gatePlain, gate}
	all := append([]string{direct}, proxies...)
	return append([]chart{
		{"cpu-per-query", "Processor of the proxy per query, pgbench -S", "µs", true, "cpu_us", small, proxies},
		{"queries", "Queries per second, pgbench -S", "/s", false, "tps", small, all},
		{"bulk-per-core", "Results of a million rows, per processor of the proxy", "MB/s", false, "mb_per_core_s", []string{"bulk plain", "bulk people"}, proxies},
		{"bulk", "Results of a million rows", "MB/s", false, "mb_per_s", []string{"bulk plain", "bulk people"}, all},
		{"connect", "New connections, one after the other: median", "µs", true, "p50_us", []string{measureEcho, measureLogin}, all},
		{"connect-cpu", "Processor of the proxy per new connection", "µs", true, "cpu_us", []string{measureEcho, measureLogin}, proxies},
		{"idle", "Memory of an idle session", "KiB", true, "kib_per_session", []string{measureIdle}, proxies},
	}, growthCharts()...)
}

// charts writes those for which there are figures.
func (r *Report) charts(dir string) error {
	for _, c := range chartsOf() {
		if svg := c.draw(r.Runs); svg != "" {
			if err := writeFile(filepath.Join(dir, c.file+".svg"), []byte(svg)); err != nil {
				return err
			}
		}
	}
	return nil
}

// The sizes of a chart, in pixels.
const (
	chartWidth  = 760
	labelWidth  = 190
	valueWidth  = 170
	barHeight   = 18
	groupHeight = 26
	headHeight  = 52
)

type bar struct {
	name string
	s    Series
}

// draw returns the picture as SVG, or nothing where there are no figures. Each
// bar is a median; the line on it goes from the least to the most.
func (c chart) draw(rs Runs) string {
	var body strings.Builder
	most := c.most(rs)
	if most == 0 {
		return ""
	}
	y := headHeight
	for _, group := range c.groups {
		bars := c.bars(rs, group)
		if len(bars) == 0 {
			continue
		}
		fmt.Fprintf(&body, `<text class="g" x="8" y="%d">%s</text>`+"\n", y+14, html.EscapeString(group))
		y += groupHeight
		for _, b := range bars {
			c.drawBar(&body, b, y, float64(chartWidth-labelWidth-valueWidth)/most)
			y += barHeight + 4
		}
		y += 8
	}
	better := "more is better"
	if c.less {
		better = "less is better"
	}
	return fmt.Sprintf(chartHead, chartWidth, y, chartWidth, y, html.EscapeString(c.title), chartWidth, y,
		html.EscapeString(c.title), html.EscapeString(c.unit), better) + body.String() + "</svg>\n"
}

const chartHead = `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="%s">
<style>text{font:12px sans-serif;fill:#222}.t{font-size:15px;font-weight:bold}.g{font-weight:bold;fill:#555}.o{fill:#b8c0cc}.h{fill:#2f6fb3}.r{stroke:#222;stroke-width:1.5}</style>
<rect width="%d" height="%d" fill="#fff"/>
<text class="t" x="8" y="20">%s</text>
<text x="8" y="38">%s, %s; bars are medians, lines go from the least to the most</text>
`

func (c chart) drawBar(out *strings.Builder, b bar, y int, scale float64) {
	class := "o"
	if strings.HasPrefix(b.name, gate) {
		class = "h"
	}
	x, middle := float64(labelWidth), y+barHeight/2
	fmt.Fprintf(out, `<text x="%d" y="%d" text-anchor="end">%s</text>`, labelWidth-8, y+13, html.EscapeString(b.name))
	fmt.Fprintf(out, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d"/>`, class, labelWidth, y, max(1, b.s.Median*scale), barHeight)
	fmt.Fprintf(out, `<line class="r" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`, x+b.s.Min*scale, middle, x+b.s.Max*scale, middle)
	fmt.Fprintf(out, `<text x="%.1f" y="%d">%s</text>`+"\n", x+b.s.Max*scale+6, y+13, html.EscapeString(b.s.String()))
}

// bars returns what a group has figures for.
func (c chart) bars(rs Runs, group string) []bar {
	var list []bar
	for _, name := range c.paths {
		if s := rs.Series(group, name, c.value); s.N > 0 {
			list = append(list, bar{name, s})
		}
	}
	return list
}

func (c chart) most(rs Runs) float64 {
	most := 0.0
	for _, group := range c.groups {
		for _, b := range c.bars(rs, group) {
			most = max(most, b.s.Max)
		}
	}
	return most
}
