package engine

import "fmt"

// Matrix is scenarios in few words, as a file of bench/scenarios has them: each
// method with each family, number of connections, mix and number of workers.
type Matrix struct {
	Methods     []Method `yaml:"methods"`
	Families    []Family `yaml:"families"`
	Connections []string `yaml:"connections"` // as Connections reads them
	Mixes       []Mix    `yaml:"mixes"`
	Workers     []int    `yaml:"workers"`
}

// Scenarios returns the matrix's, or what is wrong with it.
func (m *Matrix) Scenarios() (all []Scenario, err error) {
	for _, method := range m.Methods {
		for _, family := range m.Families {
			for _, connections := range m.Connections {
				n, err := Connections(connections)
				if err != nil {
					return nil, err
				}
				for _, mix := range m.Mixes {
					for _, workers := range m.Workers {
						s := Scenario{method, family, n, mix, workers}
						if err := s.Check(); err != nil {
							return nil, err
						}
						all = append(all, s)
					}
				}
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: a list of the matrix is empty", ErrScenario)
	}
	return all, nil
}
