package sip

import (
	"bytes"
	"strings"
	"testing"
)

// Each row is a payload and the Call-ID that Linux 6.1 keeps of it, as its
// /proc/net/ip_vs_conn showed; "": it dropped the datagram (K-PE-1, K-PE-2).
var recorded = []struct{ stake, message, want string }{
	{"an INVITE", "INVITE sip:a@b SIP/2.0\r\nVia: x\r\nCall-ID: one@a\r\nContent-Length: 0\r\n\r\n", "one@a"},
	{"not SIP", "nonsense", ""},
	{"empty", "", ""},
	{"the line has no end", "INVITE sip:a@b SIP/2.0\r\nVia: x\r\nCall-ID: three", ""},
	{"LF ends a line", "INVITE sip:a@b SIP/2.0\r\nVia: x\r\nCall-ID: four\n", "four"},
	{"CR ends a line", "INVITE sip:a@b SIP/2.0\r\nVia: x\r\nCall-ID: five\r", "five"},
	{"something behind it", "x\r\nCall-ID: six x\r\nContent-Length: 0\r\n\r\n", ""},
	{"@ and nothing", "x\r\nCall-ID: seven@\r\nContent-Length: 0\r\n\r\n", ""},
	{"nothing and @", "x\r\nCall-ID: @eight\r\nContent-Length: 0\r\n\r\n", ""},
	{"two @", "x\r\nCall-ID: nine@dom@x\r\nContent-Length: 0\r\n\r\n", ""},
	{"the first line does not count", "Call-ID: ten\r\n\r\n", ""},
	{"but the second, of an empty first", "\r\nCall-ID: eleven\r\n\r\n", "eleven"},
	{"lower case, no blank", "x\ncall-id:twelve\r\n", "twelve"},
	{"compact form", "x\r\ni: thirteen\r\n", "thirteen"},
	{"compact form, upper case", "x\r\nI:cap\r\n", "cap"},
	{"another header that begins with i", "x\r\nix: nope\r\n", ""},
	{"blanks around the colon", "x\r\nCall-ID \t: \t fourteen\r\n", "fourteen"},
	{"value on the next line", "x\r\nCall-ID:\r\n fifteen\r\n", "fifteen"},
	{"two blanks on the next line", "x\r\nCall-ID:\r\n  sixteen\r\n", "sixteen"},
	{"the next line does not go on", "x\r\nCall-ID:\r\nseventeen\r\n", ""},
	{"within another header's second line", "x\r\nfoo: 1\r\n Call-ID: eighteen\r\n", ""},
	{"a longer name", "x\r\nCall-IDx: nineteen\r\n", ""},
	{"no colon", "x\r\nCall-ID twenty\r\n", ""},
	{"255 bytes", "x\r\nCall-ID: " + strings.Repeat("a", 255) + "\r\n", strings.Repeat("a", 255)},
	{"256 bytes", "x\r\nCall-ID: " + strings.Repeat("b", 256) + "\r\n", ""},
	{"the search goes on behind one that is none", "x\r\nCall-ID: ;bad\r\nCall-ID: good\r\n", "good"},
	{"all the marks", "x\r\nCall-ID: !\"%()*+:<>?[\\]_`{}~-./'\r\n", "!\"%()*+:<>?[\\]_`{}~-./'"},
	{"far behind one that is none", "x\r\nCall-ID: ##\r\n" + strings.Repeat("x", 39) + "\r\nCall-ID: late\r\n", "late"},
	{"far behind a bad domain", "x\r\nCall-ID: bad@;\r\n" + strings.Repeat("x", 49) + "\r\ni: late2\r\n", "late2"},
	{"upper case", "x\r\nCALL-ID: shout\r\n", "shout"},
	{"in the body", "x\r\n\r\nCall-ID: afterblank\r\n", "afterblank"},
	{"behind CR LF LF", "x\r\n\nCall-ID: x2\r\n", ""},
	{"behind LF CR", "x\n\rCall-ID: x3\r\n", ""},
	{"LF and a tab", "x\r\nCall-ID:\n\tnl\r\n", "nl"},
	{"colon on the next line", "x\r\nCall-ID\r\n : cont\r\n", "cont"},
	{"blanks, then the next line", "x\r\nCall-ID:  \r\n\t  cont2\r\n", "cont2"},
	{"a blank before the end", "x\r\nCall-ID: y ", ""},
	{"two lines on", "x\r\nCall-ID:\r\n \r\n z\r\n", ""},
	{"blank next line", "x\r\nCall-ID:\r\n \t\r\n", ""},
	{"compact name without colon ends the search", "x\r\ni;\r\nCall-ID: aft\r\n", ""},
	{"and alone on its line", "x\r\ni\r\nCall-ID: aft2\r\n", ""},
	{"CR and the next line", "x\r\nCall-ID:\r qq\r\n", "qq"},
	{"Latin-1 letters", "x\r\nCall-ID: \xe9bad\r\n", "\xe9bad"},
}

func TestCallID(t *testing.T) {
	for _, row := range recorded {
		if got := CallID([]byte(row.message)); string(got) != row.want {
			t.Errorf("%s: CallID(%q) = %q, want %q", row.stake, row.message, got, row.want)
		}
	}
}

func TestCallIDAllocatesNothing(t *testing.T) {
	m := []byte(recorded[0].message)
	if n := testing.AllocsPerRun(100, func() { CallID(m) }); n != 0 {
		t.Errorf("CallID allocates %v times, want 0", n)
	}
}

// Whatever is found is a Call-ID: at most MaxCallID bytes of words, on a line
// that ends behind it, after a colon.
func FuzzCallID(f *testing.F) {
	for _, row := range recorded {
		f.Add([]byte(row.message))
	}
	f.Fuzz(func(t *testing.T, m []byte) {
		whole := bytes.Clone(m)
		id := CallID(m[:len(m):len(m)])
		if !bytes.Equal(m, whole) {
			t.Fatal("the message was changed")
		}
		if id == nil {
			return
		}
		if len(id) == 0 || len(id) > MaxCallID {
			t.Errorf("%d bytes", len(id))
		}
		if words := bytes.Split(id, []byte("@")); len(words) > 2 || wordLength(words[0]) != len(words[0]) {
			t.Errorf("%q is no Call-ID", id)
		}
		at := cap(m[:len(m):len(m)]) - cap(id) // id is a part of m
		if end := at + len(id); end == len(m) || !newline(m[end]) {
			t.Errorf("%q does not end its line in %q", id, m)
		}
		if before := bytes.TrimRight(m[:at], " \t\r\n"); !bytes.HasSuffix(before, []byte(":")) {
			t.Errorf("%q does not follow a colon in %q", id, m)
		}
	})
}
