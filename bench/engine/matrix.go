package engine

import "fmt"

// Matrix is scenarios in few words, as a file of bench/scenarios has them: each
// method with each family, number of connections, mix, number of workers and
// scale.
type Matrix struct {
	Methods     []Method `yaml:"methods"`
	Families    []Family `yaml:"families"`
	Connections []string `yaml:"connections"` // as Connections reads them
	Mixes       []Mix    `yaml:"mixes"`
	Workers     []int    `yaml:"workers"`
	Scales      []string `yaml:"scales,omitempty"` // as ParseScale reads them; none: the zero Scale
}

// Scenarios returns the matrix's, or what is wrong with it.
func (m *Matrix) Scenarios() (all []Scenario, err error) {
	scales, err := m.scales()
	if err != nil {
		return nil, err
	}
	for _, method := range m.Methods {
		for _, family := range m.Families {
			for _, connections := range m.Connections {
				n, err := Connections(connections)
				if err != nil {
					return nil, err
				}
				for _, mix := range m.Mixes {
					for _, workers := range m.Workers {
						for _, scale := range scales {
							all = append(all, Scenario{method, family, n, mix, workers, scale})
						}
					}
				}
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: a list of the matrix is empty", ErrScenario)
	}
	for _, s := range all {
		if err := s.Check(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// scales returns those of the matrix, the zero one if there are none.
func (m *Matrix) scales() ([]Scale, error) {
	all := make([]Scale, max(1, len(m.Scales)))
	for i, text := range m.Scales {
		var err error
		if all[i], err = ParseScale(text); err != nil {
			return nil, err
		}
	}
	return all, nil
}
