package lb

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-lb/sluice/lb/sched"
)

// TestBatch: when what a batch does is published, and that each of its
// operations stands for itself.
func TestBatch(t *testing.T) {
	d := NewDirector(1)
	apply(t, d, wwwSpec())
	was := d.Current()
	stop := errors.New("stop")
	err := d.Batch(func(o Operations) error {
		must(t, o.AddService(ServiceSpec{Key: tcp("10.0.0.2", 80), Scheduler: "rr"}))
		must(t, o.AddReal(tcp("10.0.0.2", 80), servers("10.1.0.9:80")[0]))
		if err := o.AddReal(tcp("10.0.0.2", 80), servers("10.1.0.9:80")[0]); !errors.Is(err, ErrRealExists) {
			t.Errorf("the same server twice: %v", err)
		}
		if d.Current() != was {
			t.Error("published before its end")
		}
		if n := len(d.Spec().Services); n != 2 {
			t.Errorf("the director's state has %d services, want 2", n)
		}

		s := o.Current()
		if s != d.Current() || s.Generation != was.Generation+1 || s.Find(ProtoTCP, addr("10.0.0.2"), 80, 0) == nil {
			t.Errorf("asked for, it must be published at once: generation %d after %d", s.Generation, was.Generation)
		}
		must(t, o.DeleteReal(www, RealKey{ip("10.1.0.1"), 8080}))
		must(t, d.AddService(ServiceSpec{Key: tcp("10.0.0.3", 80)})) // by somebody else
		if s := d.Current(); s.Generation != was.Generation+2 || len(s.Services[0].Dests) != 2 {
			t.Error("what somebody else does is published with what the batch has done")
		}
		must(t, o.EditReal(www, RealSpec{Key: RealKey{ip("10.1.0.2"), 8080}, Weight: 9}))
		must(t, o.SetTimeouts(Timeouts{UDP: time.Minute}))
		o.SetSysctl(Sysctl{SloppyTCP: 1})
		return stop
	})
	if !errors.Is(err, stop) {
		t.Errorf("error %v, want that of the batch", err)
	}
	s := d.Current()
	if s.Generation != was.Generation+3 || real(t, d, www, "10.1.0.2:8080").Weight != 9 || s.Sysctl.SloppyTCP != 1 ||
		s.Timeouts.Of(ProtoUDP, 0).Duration() != time.Minute {
		t.Errorf("what was done before an error must stay: %+v", s)
	}
	must(t, d.Batch(func(o Operations) error { return o.EditService(ServiceSpec{Key: www, Scheduler: "rr"}) }))
	if d.Current() != s {
		t.Error("a batch that changes nothing was published")
	}
}

// TestBatchPublishesOnce: or else its cost would grow with the square of the
// rules.
func TestBatchPublishesOnce(t *testing.T) {
	d := NewDirector(1)
	spec := big(1000, 3, 1)
	must(t, d.Batch(func(o Operations) error {
		for _, s := range spec.Services {
			reals := s.Servers
			s.Servers = nil
			must(t, o.AddService(s))
			for _, r := range reals {
				must(t, o.AddReal(s.Key, r))
			}
		}
		return nil
	}))
	if n := d.Current().Generation; n != 2 {
		t.Errorf("generation %d, want 2", n)
	}
	if c, err := d.Apply(spec); err != nil || !c.Empty() {
		t.Errorf("the same by Apply: %v, changes %.300s", err, &c)
	}
}

// drawOperation draws an operation on few services and servers, so that many
// are refused.
func drawOperation(t *rapid.T) func(Operations) error {
	key := rapid.SampledFrom([]ServiceKey{tcp("10.0.0.1", 1), tcp("10.0.0.1", 2), {Mark: 7}}).Draw(t, "service")
	spec := ServiceSpec{Key: key, Scheduler: rapid.SampledFrom([]string{"wrr", "wrr", "wrr", "rr", "mh", "sh"}).Draw(t, "scheduler")}
	real := RealSpec{
		Key: RealKey{
			netip.AddrFrom4([4]byte{10, 1, 0, rapid.SampledFrom([]byte{1, 2, 3}).Draw(t, "host")}),
			rapid.SampledFrom([]uint16{0, 1, 2}).Draw(t, "port"),
		},
		Weight: rapid.Int32Range(0, 6).Draw(t, "weight"), Forward: rapid.SampledFrom([]Forward{NAT, DR}).Draw(t, "forward"),
		Upper: 1, Lower: rapid.SampledFrom([]uint32{0, 0, 0, 2}).Draw(t, "lower"),
	}
	switch rapid.IntRange(0, 19).Draw(t, "what") {
	case 0:
		return func(o Operations) error { return o.DeleteService(key) }
	case 1:
		return func(o Operations) error { o.Flush(); return nil }
	case 2, 3, 4:
		return func(o Operations) error { return o.AddService(spec) }
	case 5, 6:
		spec.Scheduler = rapid.SampledFrom([]string{"rr", "wrr", "mh", "sh"}).Draw(t, "other scheduler")
		return func(o Operations) error { return o.EditService(spec) }
	case 7, 8, 9, 10:
		return func(o Operations) error { return o.DeleteReal(key, real.Key) }
	case 11, 12, 13:
		return func(o Operations) error { return o.EditReal(key, real) }
	}
	return func(o Operations) error { return o.AddReal(key, real) }
}

// picks are the first choices of workers that have not seen a service before,
// and its list.
func picks(d *Director) string {
	var b strings.Builder
	s := d.Current()
	for _, spec := range d.Spec().Services {
		i := slices.IndexFunc(s.Services, func(svc *Service) bool { return svc != nil && svc.Key == spec.Key })
		svc := s.Services[i]
		worker, _ := sched.New(svc.Scheduler, svc.Flags)
		worker.Adopt(svc.Dests, svc.Plan)
		fmt.Fprintf(&b, "%s %s:", svc.Key, svc.Scheduler)
		for _, dest := range svc.Dests {
			fmt.Fprintf(&b, " %s:%d", dest.Addr, dest.Port)
		}
		b.WriteString(" picks ")
		for port := range uint16(30) {
			fmt.Fprintf(&b, "%d ", worker.Pick(&sched.Query{ClientPort: port, Client: *addr("10.9.0.1")}, loadsOf(s)))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// following is a worker's schedulers, by service.
type following map[ServiceKey]sched.Scheduler

// adopt follows a snapshot as a pipeline does.
func (f following) adopt(s *Snapshot) {
	for _, svc := range s.Services {
		if svc == nil {
			continue
		}
		if name := fmt.Sprintf("%T", f[svc.Key]); name != "*sched."+svc.Scheduler {
			f[svc.Key], _ = sched.New(svc.Scheduler, svc.Flags)
		}
		f[svc.Key].Adopt(svc.Dests, svc.Plan)
	}
}

// choose lets each service of a director choose some times.
func (f following) choose(d *Director) string {
	var b strings.Builder
	for _, spec := range d.Spec().Services {
		fmt.Fprintf(&b, "%s:", spec.Key)
		for port := range uint16(3) {
			fmt.Fprintf(&b, " %d", f[spec.Key].Pick(&sched.Query{ClientPort: port, Client: *addr("10.9.0.1")}, loadsOf(d.Current())))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// TestBatchTwin: operations in a batch do what they do one by one, with the
// same errors, to the same lists, levels of wrr (K-SCH-WRR) and trash, and to
// workers that serve meanwhile.
func TestBatchTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		operations := rapid.SliceOfN(rapid.Custom(drawOperation), 0, 40).Draw(t, "operations")
		batches := rapid.SliceOfN(rapid.IntRange(1, 20), 1, 5).Draw(t, "batches")
		one, many := NewDirector(1), NewDirector(1)
		oneWorker, manyWorker := following{}, following{}
		for done, batch := 0, 0; done < len(operations); batch++ {
			now := operations[done:min(done+batches[batch%len(batches)], len(operations))]
			done += len(now)
			_ = many.Batch(func(o Operations) error {
				for _, do := range now {
					want, got := do(one.Operations), do(o)
					if fmt.Sprint(got) != fmt.Sprint(want) {
						t.Fatalf("error %v, want %v", got, want)
					}
					oneWorker.adopt(one.Current())
				}
				return nil
			})
			if got, want := many.Spec(), one.Spec(); !reflect.DeepEqual(got, want) {
				t.Fatalf("state %+v\nwant  %+v", got, want)
			}
			manyWorker.adopt(many.Current())
			if got, want := manyWorker.choose(many), oneWorker.choose(one); got != want {
				t.Fatalf("after a batch a worker goes on with\n%sone by one with\n%s", got, want)
			}
			if got, want := picks(many), picks(one); got != want {
				t.Fatalf("in a batch\n%sone by one\n%s", got, want)
			}
			if got, want := many.Removed(), one.Removed(); !slices.Equal(got, want) {
				t.Fatalf("trash %v, want %v", got, want)
			}
		}
	})
}

// wrrOf returns a director with a wrr service of servers of these weights.
func wrrOf(t *testing.T, weights ...int32) *Director {
	t.Helper()
	spec := ServiceSpec{Key: www, Scheduler: "wrr"}
	for i, w := range weights {
		spec.Servers = append(spec.Servers, wrrServer(byte(i+1), w))
	}
	d := NewDirector(1)
	apply(t, d, spec)
	return d
}

func wrrServer(host byte, weight int32) RealSpec {
	return RealSpec{Key: RealKey{netip.AddrFrom4([4]byte{10, 1, 0, host}), 80}, Weight: weight}
}

// choices lets a worker adopt the service www and choose n times: the last
// bytes of the servers' addresses.
func choices(d *Director, worker sched.Scheduler, n int) string {
	var b strings.Builder
	svc := d.Current().Find(ProtoTCP, addr("10.0.0.1"), 80, 0)
	worker.Adopt(svc.Dests, svc.Plan)
	for range n {
		fmt.Fprint(&b, svc.Dests[worker.Pick(&sched.Query{}, loadsOf(d.Current()))].Addr[15])
	}
	return b.String()
}

// TestWRRLevelsOfABatch: a worker that begins after many operations begins
// where they lead one by one; measured with Linux 6.1.
func TestWRRLevelsOfABatch(t *testing.T) {
	d := wrrOf(t)
	must(t, d.Batch(func(o Operations) error {
		return errors.Join(
			o.AddReal(www, wrrServer(1, 10)), o.AddReal(www, wrrServer(2, 4)), o.EditReal(www, wrrServer(1, 1)),
			o.DeleteReal(www, wrrServer(2, 0).Key), o.AddReal(www, wrrServer(2, 6)), o.AddReal(www, wrrServer(3, 3)),
			o.EditReal(www, wrrServer(1, 6)))
	}))
	worker, _ := sched.New("wrr", 0)
	if got, want := choices(d, worker, 20), "32121321213212132121"; got != want {
		t.Errorf("wrr chooses %s, want %s", got, want)
	}
}

// TestSwapInABatch: a scheduler is bound to the servers there are at that
// moment (K-SVC-7), published or not: wrr begins at the highest level of those.
func TestSwapInABatch(t *testing.T) {
	changes := []func(o Operations) error{
		func(o Operations) error { return o.EditService(ServiceSpec{Key: www, Scheduler: "rr"}) },
		func(o Operations) error { return o.AddReal(www, wrrServer(4, 4)) },
		func(o Operations) error { return o.EditService(ServiceSpec{Key: www, Scheduler: "wrr"}) },
		func(o Operations) error { return o.AddReal(www, wrrServer(5, 5)) },
	}
	one, many := wrrOf(t, 1, 2, 3), wrrOf(t, 1, 2, 3)
	must(t, many.Batch(func(o Operations) (err error) {
		for _, change := range changes {
			err = errors.Join(err, change(one.Operations), change(o))
		}
		return err
	}))
	if got, want := picks(many), picks(one); got != want {
		t.Errorf("in a batch\n%sone by one\n%s", got, want)
	}
}

// TestEditOfNothing: for wrr, an edit that changes nothing is one: its round
// begins anew. Measured with Linux 6.1.
func TestEditOfNothing(t *testing.T) {
	for _, tt := range []struct {
		scheduler, want string
		edit            func(*Director) error
	}{
		{"wrr", "3213 332321332", func(d *Director) error { return d.EditReal(www, wrrServer(2, 2)) }},
		{"wrr", "3213 323213323", func(*Director) error { return nil }},
		{"wrr", "3213 323213323", func(d *Director) error { return d.EditService(ServiceSpec{Key: www, Scheduler: "wrr"}) }},
		{"rr", "3213 213213213", func(d *Director) error { return d.EditReal(www, wrrServer(2, 2)) }},
	} {
		d := wrrOf(t, 1, 2, 3)
		must(t, d.EditService(ServiceSpec{Key: www, Scheduler: tt.scheduler}))
		worker, _ := sched.New(tt.scheduler, 0)
		got := choices(d, worker, 4)
		must(t, tt.edit(d))
		if got += " " + choices(d, worker, 9); got != tt.want {
			t.Errorf("%s chooses %s, want %s", tt.scheduler, got, tt.want)
		}
	}
}

// TestServiceAgainInABatch: a service that was removed and added again within
// a batch is another, whose scheduler begins anew: workers must not take it for
// the old one, which has its key.
func TestServiceAgainInABatch(t *testing.T) {
	d := NewDirector(1)
	apply(t, d, wwwSpec())
	first := d.Current()
	rows := first.Adopt(0, nil)
	rows.Service(0).InPackets = 5
	must(t, d.Batch(func(o Operations) error { return errors.Join(o.DeleteService(www), o.AddService(wwwSpec())) }))
	s := d.Current()
	if len(s.Services) != 2 || s.Services[0] != nil || s.Services[1].Key != www {
		t.Fatalf("services %v, want it in another slot", s.Services)
	}
	if n := s.Adopt(0, first).Service(1).InPackets; n != 0 {
		t.Errorf("it counts %d packets of the old one", n)
	}
	must(t, d.AddService(ServiceSpec{Key: tcp("10.0.0.2", 80)}))
	if s := d.Current(); s.Services[0] == nil || len(s.Services) != 2 {
		t.Error("the old slot goes to the next")
	}
}

// TestNamesAreTaken: a name goes with its service, and two may exchange theirs.
func TestNamesAreTaken(t *testing.T) {
	d := NewDirector(1)
	named := func(a, b string) []ServiceSpec {
		return []ServiceSpec{{Name: a, Key: tcp("10.0.0.1", 1)}, {Name: b, Key: tcp("10.0.0.1", 2)}}
	}
	apply(t, d, named("a", "b")...)
	apply(t, d, named("b", "a")...)
	for _, taken := range []string{"a", "b"} {
		if err := d.AddService(ServiceSpec{Name: taken, Key: www}); !errors.Is(err, ErrName) {
			t.Errorf("name %s: %v", taken, err)
		}
	}
	must(t, d.EditService(ServiceSpec{Name: "c", Key: tcp("10.0.0.1", 1)}))
	must(t, d.DeleteService(tcp("10.0.0.1", 2)))
	must(t, d.AddService(ServiceSpec{Name: "a", Key: www}))
	must(t, d.AddService(ServiceSpec{Name: "b", Key: tcp("10.0.0.1", 3)}))
	if err := d.EditService(ServiceSpec{Name: "c", Key: www}); !errors.Is(err, ErrName) {
		t.Errorf("the name of another: %v", err)
	}
}

// TestSetTimeouts: 0 keeps what is, what is out of range is refused, and the
// rest of the state stays.
func TestSetTimeouts(t *testing.T) {
	d := NewDirector(1)
	apply(t, d, wwwSpec())
	must(t, d.SetTimeouts(Timeouts{TCP: time.Hour}))
	must(t, d.SetTimeouts(Timeouts{UDP: time.Second, TCPFin: 2 * time.Second}))
	want := Timeouts{time.Hour, 2 * time.Second, time.Second}
	was := d.Current()
	for _, bad := range []Timeouts{{UDP: -1}, {TCP: 1 << 62}} {
		if err := d.SetTimeouts(bad); !errors.Is(err, ErrRange) {
			t.Errorf("%v: error %v", bad, err)
		}
	}
	must(t, d.SetTimeouts(Timeouts{}))
	must(t, d.SetTimeouts(want))
	if s := d.Spec(); s.Timeouts != want || len(s.Services) != 1 || d.Current() != was {
		t.Errorf("timeouts %v, want %v; published %v", s.Timeouts, want, d.Current() != was)
	}
	if got := was.Timeouts.Of(ProtoUDP, 0).Duration(); got != time.Second {
		t.Errorf("the snapshot has %v, want 1s", got)
	}
}

// TestSetSysctl: all of them, and what is the same is not published.
func TestSetSysctl(t *testing.T) {
	d := NewDirector(1)
	want := DefaultSysctl()
	want.SloppyTCP = 1
	d.SetSysctl(want)
	was := d.Current()
	d.SetSysctl(want)
	if was.Sysctl != want || d.Current() != was || d.Spec().Sysctl != want {
		t.Errorf("sysctl %+v", was.Sysctl)
	}
}

// TestSettersAndReloads: setters do not bring back services that a reload took
// away meanwhile.
func TestSettersAndReloads(t *testing.T) {
	d := NewDirector(1)
	var wait sync.WaitGroup
	stop := make(chan struct{})
	for _, set := range []func(i int){
		func(i int) { _ = d.SetTimeouts(Timeouts{TCP: time.Duration(1+i%9) * time.Hour}) }, // in range
		func(i int) { d.SetSysctl(Sysctl{DropEntry: i}) },
	} {
		wait.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					set(i)
				}
			}
		})
	}
	for i := range 300 {
		key := tcp("10.0.0.1", uint16(i+1))
		apply(t, d, ServiceSpec{Key: key})
		if got := slices.Collect(keys(d.Spec())); !slices.Equal(got, []ServiceKey{key}) {
			t.Errorf("after reload %d there are %v", i, got)
		}
	}
	close(stop)
	wait.Wait()
}

// BenchmarkBatch is what ipvsadm -R costs with so many services.
func BenchmarkBatch(b *testing.B) {
	for _, services := range []int{500, 2000, 4000} {
		spec := big(services, 10, 1)
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			for b.Loop() {
				err := NewDirector(4).Batch(func(o Operations) (err error) {
					for i := range spec.Services {
						s := spec.Services[i]
						s.Servers = nil
						err = errors.Join(err, o.AddService(s))
						for _, r := range spec.Services[i].Servers {
							err = errors.Join(err, o.AddReal(s.Key, r))
						}
					}
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkHousekeeping is what is asked of a director of 10,000 servers every
// few seconds, with all of them there and with all in the trash.
func BenchmarkHousekeeping(b *testing.B) {
	for _, shape := range []struct{ services, perService int }{{1000, 10}, {1, 10000}} {
		spec := big(shape.services, min(shape.perService, 100), 1)
		if shape.services == 1 {
			spec.Services[0].Servers = thousands(shape.perService)
		}
		for _, state := range []string{"there", "in the trash"} {
			d := NewDirector(4)
			if _, err := d.Apply(spec); err != nil {
				b.Fatal(err)
			}
			if state != "there" {
				d.Flush()
			}
			name := fmt.Sprintf("services=%d/servers=%s/", shape.services, state)
			b.Run(name+"Spec", func(b *testing.B) {
				for b.Loop() {
					d.Spec()
				}
			})
			b.Run(name+"Removed", func(b *testing.B) {
				for b.Loop() {
					d.Removed()
				}
			})
			b.Run(name+"Collect", func(b *testing.B) {
				for b.Loop() {
					d.Collect(0, nil)
				}
			})
			b.Run(name+"AddReal", func(b *testing.B) {
				key := spec.Services[0].Key
				if state != "there" {
					b.Skip("there is no service")
				}
				r := RealSpec{Key: RealKey{ip("10.250.0.1"), 1}}
				for b.Loop() {
					if err := errors.Join(d.AddReal(key, r), d.DeleteReal(key, r.Key)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// What ipvsadm cannot say its commands do not change.
func TestEditKeepsMSS(t *testing.T) {
	d := NewDirector(1)
	apply(t, d, ServiceSpec{Key: www, MSS: 1400})
	must(t, d.EditService(ServiceSpec{Key: www, Scheduler: "sh"}))
	if s := d.Current().Services[0]; s.MSS != 1400 || s.Scheduler != "sh" {
		t.Errorf("edited: MSS %v and scheduler %s, want 1400 and sh", s.MSS, s.Scheduler)
	}
	c := apply(t, d, ServiceSpec{Key: www, Scheduler: "sh", MSS: AutoMSS})
	if want := []Field{{"mss", "1400", "auto"}}; len(c.Edited) != 1 || !slices.Equal(c.Edited[0].Fields, want) {
		t.Errorf("a reload changes %+v, want %+v", c.Edited, want)
	}
	if s := d.Current().Services[0]; s.MSS != AutoMSS {
		t.Errorf("reloaded: MSS %v, want auto", s.MSS)
	}
	apply(t, d, ServiceSpec{Key: www, Scheduler: "sh"})
	if s := d.Current().Services[0]; s.MSS != 0 || s.MSS.String() != "off" {
		t.Errorf("left out: MSS %v, want off", s.MSS)
	}
}
