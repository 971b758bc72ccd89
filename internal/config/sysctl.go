package config

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/sluice-lb/sluice/lb"
)

// Tunable is one of lb.Sysctl by its name, without net.ipv4.vs., and its value
// as the kernel writes it: a number, or two with a tab between them.
type Tunable struct{ Name, Value string }

// Tunables returns all of s, sorted by name.
func Tunables(s *lb.Sysctl) (all []Tunable) {
	v := reflect.ValueOf(*s)
	for i := range v.NumField() {
		value := strings.Trim(fmt.Sprint(v.Field(i)), "[]")
		all = append(all, Tunable{v.Type().Field(i).Tag.Get("json"), strings.ReplaceAll(value, " ", "\t")})
	}
	slices.SortFunc(all, func(a, b Tunable) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Tunable names as sysctl(8) has them.
const (
	sysctlPrefix     = "net.ipv4.vs."
	sysctlPathPrefix = "net/ipv4/vs/"
)

// TunableName returns the name of a tunable without net.ipv4.vs. or
// net/ipv4/vs/, which it may have.
func TunableName(name string) string {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "/proc/sys/"), sysctlPathPrefix)
	return strings.TrimPrefix(name, sysctlPrefix)
}

// word is what YAML takes for one plain scalar, a number or not.
var word = regexp.MustCompile(`^[-+0-9A-Za-z]+$`)

// SetSysctl sets one tunable of s, by its name as TunableName returns it, to a
// value as sysctl(8) takes it: a number, or two for sync_threshold, of which
// one alone keeps the other. Names and ranges are those of the file's sysctl
// section.
func SetSysctl(s *lb.Sysctl, name, value string) error {
	to := reflect.ValueOf(s).Elem()
	i := 0
	for ; i < to.NumField() && to.Type().Field(i).Tag.Get("json") != name; i++ {
	}
	if i == to.NumField() {
		return errors.New("no such tunable")
	}
	words := strings.Fields(value)
	for _, w := range words {
		if !word.MatchString(w) {
			return fmt.Errorf("%q is no number", w)
		}
	}
	if to.Field(i).Kind() == reflect.Array {
		if len(words) == 1 {
			words = append(words, fmt.Sprint(to.Field(i).Index(1)))
		}
		value = "[" + strings.Join(words, ", ") + "]"
	}
	c, err := Parse("sysctl", fmt.Appendf(nil, "sysctl: {%s: %s}\n", name, value))
	if faults := Errors(nil); errors.As(err, &faults) {
		return errors.New(faults[0].Message)
	}
	if err != nil {
		return err
	}
	to.Field(i).Set(reflect.ValueOf(c.Spec.Sysctl).Field(i))
	return nil
}
