package ftp

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// What Linux 6.1 made of a client's segment, as its connections showed
// (internal/oracle, cases ftp-odd-*): "" nothing, else the passive mode that it is
// in then, or the data connection that it expects.
var commands = []struct {
	stake, text string
	v6          bool
	want        string
}{
	{"passive", "PASV\r\n", false, "passive"},
	{"lower case", "pasv\r\n", false, "passive"},
	{"in the middle", "NOOP\r\nPASV\r\nTYPE I\r\n", false, "passive"},
	{"behind anything", "XPASV\r\n", false, "passive"},
	{"cut", "PASV\r", false, ""},
	{"LF alone", "PASV\n", false, ""},
	{"a blank", "PASV \r\n", false, ""},
	{"of IPv4 only", "PASV\r\n", true, ""},
	{"extended", "EPSV\r\n", false, "extended"},
	{"extended, lower case, IPv6", "epsv\r\n", true, "extended"},
	{"extended, the family's number", "EPSV 1\r\n", false, "extended"},
	{"extended, the other's", "EPSV 2\r\n", false, "settled"},
	{"extended, the other's in IPv6", "EPSV 1\r\n", true, "settled"},
	{"extended, IPv6's", "EPSV 2\r\n", true, "extended"},
	{"for all time", "EPSV ALL\r\n", false, "settled"},
	{"extended, LF alone", "EPSV\n", false, ""},
	{"extended, cut", "EPSV 1", false, "settled"},
	{"the first of two", "EPSV\r\nPASV\r\n", false, "extended"},
	{"and the other way", "PASV\r\nEPSV\r\n", false, "passive"},

	{"active", "PORT 10,0,1,10,4,1\r\n", false, "10.0.1.10:1025"},
	{"active, lower case", "port 10,0,1,10,4,2\r\n", false, "10.0.1.10:1026"},
	{"two blanks", "PORT  10,0,1,10,4,3\r\n", false, "10.0.1.10:1027"},
	{"no blank", "PORT10,0,1,10,4,4\r\n", false, "10.0.1.10:1028"},
	{"five numbers", "PORT 10,0,1,10,4\r\n", false, ""},
	{"nothing behind", "PORT 10,0,1,10,4,5", false, ""},
	{"not at the beginning", "NOOP\r\nPORT 10,0,1,10,4,6\r\n", false, ""},
	{"anything behind", "PORT 10,0,1,10,4,7x\r\n", false, "10.0.1.10:1031"},
	{"a longer word", "PORTX 10,0,1,10,4,8\r\n", false, "10.0.1.10:1032"},
	{"no number", "PORT x,0,1,10,4,1\r\n", false, ""},
	{"zeros in front", "PORT 0010,000,001,010,0004,0011\r\n", false, "10.0.1.10:1035"},
	{"an empty number", "PORT 10,0,1,10,,12\r\n", false, "10.0.1.10:12"},
	{"modulo 256", "PORT 266,0,1,10,260,1\r\n", false, "10.0.1.10:1025"},
	{"port 0 is nobody's; the kernel expects it", "PORT 10,0,1,10,0,0\r\n", false, ""},
	{"a word alone", "PORT", false, ""},
	{"PORT knows no IPv6", "PORT 10,0,1,10,4,1\r\n", true, ""},

	{"extended active", "EPRT |1|10.0.1.10|2001|\r\n", false, "10.0.1.10:2001"},
	{"extended active, lower case", "eprt |1|10.0.1.10|2002|\r\n", false, "10.0.1.10:2002"},
	{"another delimiter", "EPRT !1!10.0.1.10!2003!\r\n", false, "10.0.1.10:2003"},
	{"the other family", "EPRT |2|fd00:1::10|2004|\r\n", false, ""},
	{"three numbers", "EPRT |1|10.0.1|2005|\r\n", false, ""},
	{"no end", "EPRT |1|10.0.1.10|2006\r\n", false, ""},
	{"nothing behind the end", "EPRT |1|10.0.1.10|2007|", false, "10.0.1.10:2007"},
	{"zeros in front of an address", "EPRT |1|010.0.1.10|2008|\r\n", false, "10.0.1.10:2008"},
	{"an empty number in an address", "EPRT |1|10..1.10|2009|\r\n", false, ""},
	{"a number above 255", "EPRT |1|10.0.1.266|2010|\r\n", false, ""},
	{"modulo 65536", "EPRT |1|10.0.1.10|67547|\r\n", false, "10.0.1.10:2011"},
	{"extended port 0", "EPRT |1|10.0.1.10|0|\r\n", false, ""},
	{"a digit as delimiter", "EPRT 11110.0.1.101201211\r\n", false, ""},
	{"nothing", "EPRT\r\n", false, ""},
	{"no family", "EPRT ||10.0.1.10|2013|\r\n", false, ""},
	{"a family of two digits", "EPRT |11|10.0.1.10|2017|\r\n", false, ""},
	{"no port", "EPRT |1|10.0.1.10||\r\n", false, ""},
	{"no blank to skip", "EPRT|1|10.0.1.10|2014|\r\n", false, ""},
	{"two words", "EPRT x |1|10.0.1.10|2015|\r\n", false, ""},
	{"a letter in the port", "EPRT |1|10.0.1.10|20x16|\r\n", false, ""},
	{"IPv6", "EPRT |2|fd00:1::10|1025|\r\n", true, "[fd00:1::10]:1025"},
	{"IPv4 in IPv6", "EPRT |1|10.0.1.10|1026|\r\n", true, ""},
	{"zeros written out", "EPRT |2|fd00:1:0:0:0::10|1027|\r\n", true, "[fd00:1::10]:1027"},
	{"three colons", "EPRT |2|fd00:1:::10|1028|\r\n", true, ""},
	{"nine groups", "EPRT |2|fd00:1:0:0:0:0:0:1:10|1029|\r\n", true, ""},
	{"eight groups", "EPRT |2|fd00:1:0:0:0:0:0:10|1030|\r\n", true, "[fd00:1::10]:1030"},
	{"an IPv4 address cut by a colon", "EPRT |2|FD00:1::A.0.1.10|1031|\r\n", true, ""},
	{"an IPv4 address at the end", "EPRT |2|fd00:1::10.0.1.10|1032|\r\n", true, "[fd00:1::a00:10a]:1032"},
	{"an IPv4 address in disguise", "EPRT |2|::ffff:10.0.1.10|1033|\r\n", true, ""},
	{"everybody", "EPRT |2|::|1034|\r\n", true, "[::]:1034"},
}

// The same of a server's answers.
var answers = []struct {
	stake string
	mode  mode
	text  string
	v6    bool
	want  string
}{
	{"passive", passive, "227 Entering Passive Mode (10,0,2,11,200,10).\r\n", false, "10.0.2.11:51210 at 27 to 43"},
	{"without parentheses", passive, "227 Passive 10,0,2,11,200,3 here\r\n", false, "10.0.2.11:51203 at 12 to 27"},
	{"two of them", passive, "227 ((10,0,2,11,200,8)\r\n", false, "10.0.2.11:51208 at 6 to 21"},
	{"not at the beginning", passive, "200 first\r\n227 (10,0,2,11,200,4)\r\n", false, ""},
	{"cut", passive, "227 Entering Passive Mode (10,0,2", false, ""},
	{"nothing behind", passive, "227 (10,0,2,11,200,7", false, ""},
	{"a number too many", passive, "227 (10,0,2,11,200,10,5)\r\n", false, "10.0.2.11:51210 at 5 to 21"},
	{"a number too few", passive, "227 (10,0,2,11,200)\r\n", false, ""},
	{"modulo 256", passive, "227 (266,0,2,267,456,265)\r\n", false, "10.0.2.11:51209 at 5 to 24"},
	{"another number", passive, "226 (10,0,2,11,200,10)\r\n", false, ""},
	{"a digit before", passive, "227 Mode 2 (10,0,2,11,200,10)\r\n", false, ""},
	{"port 0", passive, "227 (10,0,2,11,0,0)\r\n", false, ""},
	{"what was not asked for", passive, "229 (|||50014|)\r\n", false, ""},
	{"nor this", extended, "227 (10,0,2,11,200,10)\r\n", false, ""},
	{"nothing asked for", active, "227 (10,0,2,11,200,10)\r\n", false, ""},

	{"extended", extended, "229 Entering Extended Passive Mode (|||51210|)\r\n", false, "the server:51210 at 36 to 45"},
	{"another delimiter", extended, "229 (!!!50007!)\r\n", false, "the server:50007 at 5 to 14"},
	{"no end", extended, "229 (|||50005)\r\n", false, ""},
	{"no parenthesis", extended, "229 |||50006|\r\n", false, ""},
	{"nothing behind", extended, "229 (|||50012|\r\n", false, "the server:50012 at 5 to 14"},
	{"a family without address", extended, "229 (|1||50008|)\r\n", false, ""},
	{"an address without family", extended, "229 (||10.0.2.11|50008|)\r\n", false, ""},
	{"with address", extended, "229 (|1|10.0.2.11|51211|)\r\n", false, "10.0.2.11:51211 at 5 to 24"},
	{"of the other family", extended, "229 (|2|fd00:2::11|50009|)\r\n", false, ""},
	{"IPv6", extended, "229 (|2|fd00:2::11|51211|)\r\n", true, "[fd00:2::11]:51211 at 5 to 25"},
	{"digits as delimiters", extended, "229 (1115000111)\r\n", false, ""},
	{"only the beginning", extended, "22", false, ""},
}

// name is an endpoint in words.
func (e endpoint) name() string {
	if e.addr.IsZero() && e.start > 0 {
		return fmt.Sprintf("the server:%d", e.port)
	}
	return netip.AddrPortFrom(e.addr.Netip(), e.port).String()
}

// read is what a client's segment says, in words.
func read(text []byte, v6 bool) string {
	m, settled := asked(text, v6)
	if settled {
		return [...]string{active: "settled", passive: "passive", extended: "extended"}[m]
	}
	if e, ok := port(text); ok && !v6 {
		return e.words(v6)
	}
	if e, ok := eprt(text, v6); ok {
		return e.words(v6)
	}
	return ""
}

// words is name of an endpoint that has an address.
func (e endpoint) words(v6 bool) string {
	if v6 {
		return netip.AddrPortFrom(netip.AddrFrom16(e.addr), e.port).String()
	}
	return e.name()
}

func TestCommands(t *testing.T) {
	for _, row := range commands {
		if got := read([]byte(row.text), row.v6); got != row.want {
			t.Errorf("%s: %q is %q, want %q", row.stake, row.text, got, row.want)
		}
		if got := plainRead(row.text, row.v6); got != row.want {
			t.Errorf("%s: to the plain twin %q is %q, want %q", row.stake, row.text, got, row.want)
		}
	}
}

func TestReplies(t *testing.T) {
	for _, row := range answers {
		if got := readReply(row.mode, []byte(row.text), row.v6); got != row.want {
			t.Errorf("%s: %q is %q, want %q", row.stake, row.text, got, row.want)
		}
		if got := plainReply(row.mode, row.text, row.v6); got != row.want {
			t.Errorf("%s: to the plain twin %q is %q, want %q", row.stake, row.text, got, row.want)
		}
	}
}

// readReply is what a server's segment says, in words.
func readReply(m mode, text []byte, v6 bool) string {
	e, ok := m.reply(text, v6)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s at %d to %d", e.name(), e.start, e.end)
}

// The plain twins: regular expressions and net/netip.
var (
	plainPassive = regexp.MustCompile(`(?i)^PASV\r\n`)
	plainEPSV    = regexp.MustCompile(`(?i)^EPSV[ \r]`)
	skipBlanks   = regexp.MustCompile(`(?is)^PORT[^ 0-9]* *`)
	skipParens   = regexp.MustCompile(`(?is)^227 [^(0-9]*\(*`)
	skipEPRT     = regexp.MustCompile(`(?is)^EPRT[^ ]* +`)
	skipEPSV     = regexp.MustCompile(`(?is)^229 [^(]*\(+`)
	sixNumbers   = regexp.MustCompile(`(?s)^(\d*),(\d*),(\d*),(\d*),(\d*),(\d*)[^\d]`)
	dotted       = regexp.MustCompile(`^(\d+)\.(\d+)\.(\d+)\.(\d+)$`)
)

func plainRead(text string, v6 bool) string {
	for i := 0; i+6 <= len(text); i++ {
		rest := text[i:]
		switch {
		case !v6 && plainPassive.MatchString(rest):
			return "passive"
		case !plainEPSV.MatchString(rest):
		case rest[4] == '\r', len(rest) > 6 && rest[5:7] == map[bool]string{false: "1\r", true: "2\r"}[v6]:
			return "extended"
		default:
			return "settled"
		}
	}
	if at := skipBlanks.FindStringIndex(text); at != nil && !v6 {
		if addr, port, _, ok := plainNumbers(text[at[1]:]); ok {
			return fmt.Sprintf("%s:%d", addr, port)
		}
	}
	if at := skipEPRT.FindStringIndex(text); at != nil {
		if addr, port, _, ok := plainDelimited(text[at[1]:], v6, false); ok {
			return netip.AddrPortFrom(addr, port).String()
		}
	}
	return ""
}

func plainReply(m mode, text string, v6 bool) string {
	if at := skipParens.FindStringIndex(text); at != nil && m == passive {
		if addr, port, n, ok := plainNumbers(text[at[1]:]); ok {
			return fmt.Sprintf("%s:%d at %d to %d", addr, port, at[1], at[1]+n)
		}
	}
	if at := skipEPSV.FindStringIndex(text); at != nil && m == extended {
		if addr, port, n, ok := plainDelimited(text[at[1]:], v6, true); ok {
			name := "the server:" + strconv.Itoa(int(port))
			if addr.IsValid() && addr != netip.IPv6Unspecified() {
				name = netip.AddrPortFrom(addr, port).String()
			}
			return fmt.Sprintf("%s at %d to %d", name, at[1], at[1]+n)
		}
	}
	return ""
}

func plainNumbers(text string) (addr netip.Addr, port uint16, n int, ok bool) {
	m := sixNumbers.FindStringSubmatch(text)
	if m == nil {
		return addr, 0, 0, false
	}
	var v [6]byte
	for i := range v {
		v[i] = byte(modulo(m[i+1]))
	}
	port = uint16(v[4])<<8 | uint16(v[5])
	return netip.AddrFrom4([4]byte(v[:])), port, len(m[0]) - 1, port != 0
}

// modulo is a decimal number of any length, modulo 65536; 0 if it is empty.
func modulo(digits string) (n uint16) {
	for _, c := range digits {
		n = n*10 + uint16(c-'0')
	}
	return n
}

func plainDelimited(text string, v6, isReply bool) (addr netip.Addr, port uint16, n int, ok bool) {
	if text == "" || text[0] <= ' ' || text[0] > '~' || strings.ContainsAny(text[:1], "0123456789") {
		return addr, 0, 0, false
	}
	parts := strings.SplitN(text, text[:1], 5)
	if len(parts) < 5 || strings.Trim(parts[3], "0123456789") != "" {
		return addr, 0, 0, false
	}
	port, n = modulo(parts[3]), len(parts[1])+len(parts[2])+len(parts[3])+4
	if parts[1] == "" && parts[2] == "" && isReply {
		return addr, port, n, port != 0
	}
	addr, ok = plainAddr(parts[2], v6)
	return addr, port, n, ok && port != 0 && parts[1] == map[bool]string{false: "1", true: "2"}[v6]
}

func plainAddr(text string, v6 bool) (netip.Addr, bool) {
	head := ""
	if i := strings.LastIndexByte(text, ':'); i >= 0 && v6 && strings.Contains(text, ".") {
		head, text = text[:i+1], text[i+1:]
	}
	if m := dotted.FindStringSubmatch(text); m != nil && (!v6 || head != "") {
		text = ""
		for _, digits := range m[1:] {
			text += "." + strings.TrimLeft(digits[:len(digits)-1], "0") + digits[len(digits)-1:]
		}
		text = text[1:]
	}
	addr, err := netip.ParseAddr(head + text)
	return addr, err == nil && addr.Is6() == v6 && addr.Zone() == "" && !addr.Is4In6()
}

// FuzzParse holds the parser to its plain twin, whatever the two ends say.
func FuzzParse(f *testing.F) {
	for _, row := range commands {
		f.Add([]byte(row.text), row.v6)
	}
	for _, row := range answers {
		f.Add([]byte(row.text), row.v6)
	}
	f.Fuzz(func(t *testing.T, text []byte, v6 bool) {
		text = text[:min(len(text), 1500)] // the twins are slow
		if got, want := read(text, v6), plainRead(string(text), v6); got != want {
			t.Errorf("a client's %q (IPv6 %t) is %q, to the plain twin %q", text, v6, got, want)
		}
		for _, m := range []mode{active, passive, extended} {
			got, want := readReply(m, text, v6), plainReply(m, string(text), v6)
			if got != want {
				t.Errorf("a server's %q in mode %d (IPv6 %t) is %q, to the plain twin %q", text, m, v6, got, want)
			}
		}
	})
}
