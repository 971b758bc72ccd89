package wire

import (
	"strings"
	"testing"
)

// Names and scenarios say the same.
func TestParse(t *testing.T) {
	for name, want := range map[string]Scenario{
		"wire/full/v4/10k/60B":        {Kind: Full, Shape: Shape{10_000, 60}},
		"wire/rate/v4/1/1514B":        {Kind: Rate, Shape: Shape{1, 1514}},
		"wire/fixed/v4/50k/60B/250k":  {Kind: Fixed, Shape: Shape{50_000, 60}, Load: 250_000},
		"wire/latency/v4/1500/60B/90": {Kind: Latency, Shape: Shape{1500, 60}, Load: 90},
	} {
		if got, err := Parse(name); err != nil || got != want || got.String() != name {
			t.Errorf("%s is %+v (%v), want %+v", name, got, err, want)
		}
	}
	for name, says := range map[string]string{
		"engine/full/v4/10k/60B":      "want wire/",
		"wire/full/v4/10k":            "want wire/",
		"wire/full/v6/10k/60B":        "want wire/",
		"wire/half/v4/10k/60B":        "KIND",
		"wire/full/v4/10k/60B/90":     "KIND",
		"wire/latency/v4/10k/60B":     "KIND",
		"wire/full/v4/0/60B":          "FLOWS",
		"wire/full/v4/51k/60B":        "FLOWS",
		"wire/full/v4/x/60B":          "FLOWS",
		"wire/full/v4/10k/59B":        "SIZE",
		"wire/full/v4/10k/1515B":      "SIZE",
		"wire/full/v4/10000/60B":      "write wire/full/v4/10k/60B",
		"wire/full/v4/10k/60":         "write wire/full/v4/10k/60B",
		"wire/latency/v4/10k/60B/0":   "LOAD",
		"wire/latency/v4/10k/60B/101": "LOAD",
		"wire/fixed/v4/10k/60B/1G":    "LOAD",
	} {
		if got, err := Parse(name); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s is %+v (%v), want an error that says %q", name, got, err, says)
		}
	}
}

// Each name has cases: of every subject, or of those that a scenario has.
func TestCases(t *testing.T) {
	cases, err := Cases(Config{}, []string{"wire/rate/v4/10k/60B", FloodScenario + floods[0].name, "wire/latency/v4/10k/60B/50", "wire/full/v4/10k/512B"})
	if want := 2*len(subjects()) + 1; err != nil || len(cases) != want {
		t.Errorf("%d cases (%v), want %d", len(cases), err, want)
	}
	if _, err := Cases(Config{}, []string{"wire/flood/tea"}); err == nil {
		t.Error("there are cases of wire/flood/tea")
	}
}
