// Package report shows records: as charts in SVG, as tables in Markdown, and
// beside the targets that they are to reach.
//
// Everything here is text made of records alone: the same records give the
// same bytes. It belongs to nobody.
package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Sizes of a chart in pixels.
const (
	width      = 760
	margin     = 16
	titleSpace = 44
	lineHeight = 30
	fontSize   = 13
)

// colors tell series apart, for readers of whom some see no red or no green
// (Okabe and Ito).
var colors = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#000000"}

func color(i int) string { return colors[i%len(colors)] }

// svg is a chart that is being drawn.
type svg struct{ strings.Builder }

// newSVG begins a chart of that height with a title and what its values are.
func newSVG(height int, title, unit string) *svg {
	s := &svg{}
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="%d">`+"\n", width, height, fontSize)
	fmt.Fprintf(s, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	s.text(margin, 20, "start", "#000000", title)
	s.text(margin, 37, "start", "#555555", unit)
	return s
}

func (s *svg) text(x, y float64, anchor, fill, text string) {
	fmt.Fprintf(s, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s">%s</text>`+"\n", x, y, anchor, fill, html.EscapeString(text))
}

func (s *svg) line(x1, y1, x2, y2 float64, stroke string, thickness float64) {
	fmt.Fprintf(s, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%.1f"/>`+"\n", x1, y1, x2, y2, stroke, thickness)
}

// end returns the whole chart.
func (s *svg) end() string { return s.String() + "</svg>\n" }

// Point is a median with the least and the greatest.
type Point struct{ X, Y, Min, Max float64 }

// Bar is one subject's.
type Bar struct {
	Name string
	Point
}

// Bars draws a bar for each subject, from 0 to its median, and a line over it
// from the least to the greatest.
func Bars(title, unit string, bars []Bar) string {
	const names, numbers = 250, 90
	height := titleSpace + lineHeight*len(bars) + margin
	s, most := newSVG(height, title, unit), 0.0
	for i := range bars {
		most = max(most, bars[i].Max)
	}
	at := func(v float64) float64 {
		return names + v/math.Max(most, math.SmallestNonzeroFloat64)*(width-names-numbers-margin)
	}
	for i, b := range bars {
		y := float64(titleSpace + lineHeight*i)
		fmt.Fprintf(s, `<rect x="%d" y="%.1f" width="%.1f" height="%d" fill="%s"/>`+"\n", names, y+4, at(b.Y)-names, lineHeight-8, color(i))
		s.line(at(b.Min), y+lineHeight/2, at(b.Max), y+lineHeight/2, "#000000", 1.5)
		s.text(names-8, y+lineHeight/2+4, "end", "#000000", b.Name)
		s.text(at(b.Max)+6, y+lineHeight/2+4, "start", "#000000", short(b.Y))
	}
	return s.end()
}

// Axis is one of a chart's two. Its values are numbers or, if it has names,
// places from 0 on.
type Axis struct {
	Label string
	Log   bool // by powers of ten; else from 0 on
	Names []string
}

// Line is one subject's.
type Line struct {
	Name   string
	Points []Point // in the order of X
}

// plot is where values are on a chart of lines.
type plot struct{ x, y scale }

// scale takes values to pixels.
type scale struct {
	from, to float64 // values; logarithms of them, if log
	at, end  float64 // pixels
	log      bool
}

func (c *scale) pixel(v float64) float64 {
	if c.log {
		v = math.Log10(v)
	}
	return c.at + (v-c.from)/(c.to-c.from)*(c.end-c.at)
}

// newScale makes one for values up to the greatest. What is not positive has
// no place on a logarithmic one.
func newScale(a *Axis, values []float64, at, end float64) scale {
	low, high := math.Inf(1), 0.0
	for _, v := range values {
		low, high = min(low, v), max(high, v)
	}
	c := scale{from: 0, to: high * 1.05, at: at, end: end, log: a.Log}
	switch {
	case a.Names != nil:
		c.from, c.to = -0.3, float64(len(a.Names))-0.7
	case a.Log:
		c.from, c.to = math.Floor(math.Log10(low)), math.Ceil(math.Log10(high))
	}
	if c.to <= c.from {
		c.to = c.from + 1
	}
	return c
}

// ticks returns the values that get a name, and the names.
func (c *scale) ticks(a *Axis) (values []float64, names []string) {
	switch {
	case a.Names != nil:
		for i := range a.Names {
			values = append(values, float64(i))
		}
		return values, a.Names
	case a.Log:
		for e := c.from; e <= c.to; e++ {
			values = append(values, math.Pow(10, e))
		}
	default:
		step := math.Pow(10, math.Floor(math.Log10(c.to)))
		for _, part := range []float64{1, 2, 5} { // at least five of them
			if c.to/(step/part) >= 4 {
				step /= part
				break
			}
		}
		for v := 0.0; v <= c.to; v += step {
			values = append(values, v)
		}
	}
	for _, v := range values {
		names = append(names, short(v))
	}
	return values, names
}

// Lines draws a line through each subject's medians, and a thin one from the
// least to the greatest at each.
func Lines(title string, x, y Axis, lines []Line) string {
	const left, plotHeight, below = 64, 300, 44
	height := titleSpace + plotHeight + below + 20*len(lines) + margin
	s := newSVG(height, title, y.Label)
	var xs, ys []float64
	for i := range lines {
		for _, p := range lines[i].Points {
			xs, ys = append(xs, p.X), append(ys, p.Min, p.Max)
		}
	}
	bottom := float64(titleSpace + plotHeight)
	p := plot{newScale(&x, xs, left, width-margin), newScale(&y, ys, bottom, titleSpace+6)}
	values, names := p.x.ticks(&x)
	for i, v := range values {
		s.line(p.x.pixel(v), bottom, p.x.pixel(v), titleSpace+6, "#e0e0e0", 1)
		s.text(p.x.pixel(v), bottom+17, "middle", "#000000", names[i])
	}
	values, names = p.y.ticks(&y)
	for i, v := range values {
		s.line(left, p.y.pixel(v), width-margin, p.y.pixel(v), "#e0e0e0", 1)
		s.text(left-6, p.y.pixel(v)+4, "end", "#000000", names[i])
	}
	s.text((left+width-margin)/2, bottom+36, "middle", "#555555", x.Label)
	for i := range lines {
		p.draw(s, &lines[i], color(i))
		y := bottom + below + 20*float64(i) + 10
		s.line(left, y-4, left+24, y-4, color(i), 2.5)
		s.text(left+32, y, "start", "#000000", lines[i].Name)
	}
	return s.end()
}

func (p *plot) draw(s *svg, l *Line, stroke string) {
	var points []string
	for _, at := range l.Points {
		x, y := p.x.pixel(at.X), p.y.pixel(at.Y)
		points = append(points, fmt.Sprintf("%.1f,%.1f", x, y))
		s.line(x, p.y.pixel(at.Min), x, p.y.pixel(at.Max), stroke, 1)
		fmt.Fprintf(s, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x, y, stroke)
	}
	fmt.Fprintf(s, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2.5"/>`+"\n", strings.Join(points, " "), stroke)
}

// short writes a value with two or three digits and k, M or G.
func short(v float64) string {
	units := []string{"", " k", " M", " G"}
	i := 0
	for ; i < len(units)-1 && math.Abs(v) >= 999.5; i++ {
		v /= 1000
	}
	text := fmt.Sprintf("%.3g", v)
	return text + units[i]
}
