package ipvsadm

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/sluice-lb/sluice/lb"
)

// Services are the names of ports, as /etc/services has them. It is
// immutable once read; nil knows no names.
type Services struct {
	ports map[portName]uint16
	names map[protoPort]string
}

type portName struct{ name, proto string }

type protoPort struct {
	port  uint16
	proto string
}

// ReadServices reads a text in the format of services(5). Of several entries
// for one thing the first counts; what is no entry is passed over.
func ReadServices(r io.Reader) (*Services, error) {
	s := &Services{map[portName]uint16{}, map[protoPort]string{}}
	in := bufio.NewScanner(r)
	for in.Scan() {
		text, _, _ := strings.Cut(in.Text(), "#")
		words := strings.Fields(text)
		if len(words) < 2 {
			continue
		}
		number, proto, _ := strings.Cut(words[1], "/")
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil || proto == "" {
			continue
		}
		if key := (protoPort{uint16(port), proto}); s.names[key] == "" {
			s.names[key] = words[0]
		}
		for _, name := range append(words[:1:1], words[2:]...) {
			if _, ok := s.ports[portName{name, proto}]; !ok {
				s.ports[portName{name, proto}] = uint16(port)
			}
		}
	}
	return s, in.Err()
}

// systemServices reads /etc/services, once; without that file there are no
// names, as with ipvsadm.
var systemServices = sync.OnceValue(func() *Services {
	f, err := os.Open("/etc/services")
	if err != nil {
		return nil
	}
	defer f.Close()
	s, err := ReadServices(f)
	if err != nil {
		return nil
	}
	return s
})

// port returns the port of a service by name or alias. Without a protocol
// there are no names.
func (s *Services) port(name string, proto uint8) (uint16, bool) {
	if s == nil {
		return 0, false
	}
	port, ok := s.ports[portName{name, lb.ProtoName(proto)}]
	return port, ok
}

// name returns the name of a port, or its number.
func (s *Services) name(port uint16, proto uint8) string {
	if s != nil {
		if name := s.names[protoPort{port, lb.ProtoName(proto)}]; name != "" {
			return name
		}
	}
	return strconv.Itoa(int(port))
}
