package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/sluice-lb/sluice/lb"
)

// SetSysctl sets one tunable of s by its name, without net.ipv4.vs., to a value
// as sysctl(8) takes it: a number, or two for sync_threshold. Names, ranges and
// what is not supported yet are those of the file's sysctl section.
func SetSysctl(s *lb.Sysctl, name, value string) error {
	if fields := strings.Fields(value); len(fields) > 1 {
		value = "[" + strings.Join(fields, ", ") + "]"
	}
	c, err := Parse("sysctl", fmt.Appendf(nil, "sysctl: {%q: %s}\n", name, value))
	if faults := Errors(nil); errors.As(err, &faults) {
		return errors.New(faults[0].Message)
	}
	if err != nil {
		return err
	}
	from, to := reflect.ValueOf(c.Spec.Sysctl), reflect.ValueOf(s).Elem()
	for i := range to.NumField() {
		if to.Type().Field(i).Tag.Get("json") == name {
			to.Field(i).Set(from.Field(i))
		}
	}
	return nil
}
