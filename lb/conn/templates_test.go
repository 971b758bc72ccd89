package conn

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb/flow"
)

func newTemplates(t *testing.T, room int) *Templates {
	t.Helper()
	templates, err := NewTemplates(room, flow.Seed{5, 6})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := templates.Close(); err != nil {
			t.Error(err)
		}
	})
	return templates
}

// template is a client's, of a service at port 5060, and its key for a call.
func (t *Templates) example(client byte, call []byte) (Conn, flow.Key) {
	c := Conn{
		Client: flow.From4([4]byte{10, 0, 0, client}), Virtual: flow.From4([4]byte{10, 0, 1, 1}), VirtualPort: 5060, Proto: protoUDP,
		ClientPort: t.Tag(call), Flags: Template, Timeout: 100,
	}
	return c, c.ClientKey()
}

// Many calls of few clients each have a template of their own, whatever tags
// they share, until it is deleted; one without a call beside them (K-PE-1).
func TestCalls(t *testing.T) {
	templates := newTemplates(t, 40_000)
	wants := map[string]ID{}
	name := func(client byte, i int) []byte {
		if i == 0 {
			return nil
		}
		return fmt.Appendf(nil, "%d-%d@%s", client, i, strings.Repeat("x", i%200))
	}
	const clients, calls = 2, 15_000 // of 65,535 tags: some are shared
	for client := range byte(clients) {
		for i := range calls {
			call := name(client, i)
			c, key := templates.example(client, call)
			s := templates.Lock(&key)
			if id := s.Template(&key, call); id != 0 {
				t.Fatalf("call %s is there before it was added", call)
			}
			id, ok := s.Add(&c, call)
			if !ok {
				t.Fatal("full")
			}
			wants[fmt.Sprint(client, i)] = s.Control(id)
			s.Unlock()
		}
	}
	check := func(stake string) {
		for client := range byte(clients) {
			for i := range calls {
				call := name(client, i)
				_, key := templates.example(client, call)
				s := templates.Lock(&key)
				id := s.Template(&key, call)
				if want := wants[fmt.Sprint(client, i)]; id != 0 && s.Control(id) != want || id == 0 && want != 0 {
					t.Errorf("%s: call %s of client %d is template %x, want %x", stake, call, client, id, want)
				}
				if id != 0 && !bytes.Equal(s.Call(id), call) {
					t.Errorf("%s: template %d keeps %q, want %q", stake, id, s.Call(id), call)
				}
				s.Unlock()
			}
		}
	}
	check("all")
	for n, key := range slices.Sorted(maps.Keys(wants)) {
		if n%3 != 0 {
			continue
		}
		s, id := templates.Find(wants[key])
		if n%2 == 0 {
			s.Invalidate(id) // found by its key no more
		} else {
			s.Delete(id)
		}
		s.Unlock()
		wants[key] = 0
	}
	check("a third gone")
}

// A Call-ID fits if it has MaxCall bytes, and does not stay behind when its
// template is another's.
func TestCallMemory(t *testing.T) {
	templates := newTemplates(t, 16)
	long := bytes.Repeat([]byte("c"), MaxCall)
	for _, call := range [][]byte{long, []byte("short"), nil, long} {
		c, key := templates.example(1, call)
		s := templates.Lock(&key)
		id, ok := s.Add(&c, call)
		if !ok || !bytes.Equal(s.Call(id), call) {
			t.Errorf("template keeps %q (%v), want %q", s.Call(id), ok, call)
		}
		s.Delete(id)
		s.Unlock()
	}
	if a, b := templates.Tag(long), templates.Tag(long[1:]); a == b || a == 0 || b == 0 || templates.Tag(nil) != 0 {
		t.Errorf("tags are %d and %d, want two, and 0 for no call only", a, b)
	}
}

// Sample names places all over the templates, each within its stripe.
func TestSample(t *testing.T) {
	templates := newTemplates(t, 1600)
	stripes := map[int]bool{}
	for i := range uint64(1000) {
		stripe, from, n := templates.Sample(i*0x9e3779b97f4a7c15, 32)
		if stripe < 0 || stripe >= Stripes || from < 1 || from > 100 || n != 50 {
			t.Fatalf("%d entries from %d of stripe %d, want 50 of 100, and 16 stripes", n, from, stripe)
		}
		stripes[stripe] = true
	}
	if len(stripes) != Stripes {
		t.Errorf("%d stripes are sampled, want all", len(stripes))
	}
}

// A reminder is due like a timer, until it has passed.
func TestRemind(t *testing.T) {
	table := newTable(t, Config{Max: 10})
	never := func(ID) clock.Ticks { t.Fatal("something expired"); return 0 }
	table.Remind(50)
	for now := clock.Ticks(10); now <= 50; now += 40 {
		if due, ok := table.NextDue(); !ok || due != 50 {
			t.Errorf("before %d: due at %d (%v), want 50", now, due, ok)
		}
		table.Advance(now, 0, never)
	}
	if due, ok := table.NextDue(); ok {
		t.Errorf("afterwards: due at %d, want nothing", due)
	}
	c := drConn6(1)
	c.Stamp, c.Timeout = 60, 1000
	if _, ok := table.Insert(&c, nil); !ok {
		t.Fatal("full")
	}
	table.Remind(70)
	if due, _ := table.NextDue(); due != 70 {
		t.Errorf("with a connection: due at %d, want the reminder's 70", due)
	}
}
