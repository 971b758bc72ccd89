package ftp

import (
	"bytes"
	"encoding/binary"

	"github.com/sluice-lb/sluice/lb/flow"
)

// mode is which passive mode a client asked for last: how its server's next
// announcement is to be read.
type mode uint8

const (
	active   mode = iota // none
	passive              // PASV: 227 (h,h,h,h,p,p)
	extended             // EPSV: 229 (|||p|)
)

// endpoint is what an announcement names.
type endpoint struct {
	addr  flow.Addr // zero: the server's own, as EPSV's answer has it
	port  uint16    // host order
	start int       // where the text begins that names it, and ends
	end   int
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// begins says whether text begins with word, in either case.
func begins(text []byte, word string) bool {
	return len(text) >= len(word) && bytes.EqualFold(text[:len(word)], []byte(word))
}

// asked finds the first PASV or EPSV of a client's segment, which may stand
// anywhere in it (K-FTP-4). settled: there is one, so that nothing else is looked
// for; active: it wants what does not go with the connection's family.
func asked(text []byte, v6 bool) (m mode, settled bool) {
	for i := 0; i+6 <= len(text); i++ {
		switch c := text[i:]; c[0] {
		case 'P', 'p':
			if !v6 && begins(c, "PASV\r\n") {
				return passive, true
			}
		case 'E', 'e':
			if !begins(c, "EPSV") {
				continue
			}
			switch c[4] {
			case '\r':
				return extended, true
			case ' ': // and the family's number
				if len(c) >= 7 && c[5] == family(v6) && c[6] == '\r' {
					return extended, true
				}
				return active, true
			}
		}
	}
	return active, false
}

// family is the number that EPRT and EPSV have for a family (RFC 2428).
func family(v6 bool) byte {
	if v6 {
		return '2'
	}
	return '1'
}

// port reads a client's PORT h,h,h,h,p,p, which begins its segment.
func port(text []byte) (e endpoint, ok bool) {
	if !begins(text, "PORT") {
		return e, false
	}
	return numbers(text, skip(text, ' ', true))
}

// eprt reads a client's EPRT |f|address|port|, which begins its segment.
func eprt(text []byte, v6 bool) (e endpoint, ok bool) {
	if !begins(text, "EPRT") {
		return e, false
	}
	return delimited(text, skip(text, ' ', false), v6, false)
}

// reply reads what a server answers to what was asked for, at the beginning of
// its segment: 227 and six numbers, 229 and (|||port|).
func (m mode) reply(text []byte, v6 bool) (e endpoint, ok bool) {
	switch {
	case m == passive && begins(text, "227 "):
		return numbers(text, skip(text, '(', true))
	case m == extended && begins(text, "229 "):
		return delimited(text, skip(text, '(', false), v6, true)
	}
	return e, false
}

// skip returns where the text goes on behind its first word of four bytes and
// the first run of c after that, or at the first digit before it if that may
// stand without: the end if there is neither.
func skip(text []byte, c byte, bare bool) int {
	at := 4
	for ; at < len(text) && text[at] != c; at++ {
		if bare && isDigit(text[at]) {
			return at
		}
	}
	for at < len(text) && text[at] == c {
		at++
	}
	return at
}

// numbers reads six numbers with commas between and something behind: an
// address and a port. A number is taken modulo 256, as the kernel takes it.
func numbers(text []byte, at int) (e endpoint, ok bool) {
	var v [6]byte
	i := 0
	e.start = at
	for ; at < len(text); at++ {
		switch c := text[at]; {
		case isDigit(c):
			v[i] = v[i]*10 + c - '0'
		case c == ',' && i < 5:
			i++
		default:
			e.addr, e.port, e.end = flow.From4([4]byte(v[:])), binary.BigEndian.Uint16(v[4:]), at
			return e, i == 5 && e.port != 0
		}
	}
	return e, false
}

// delimited reads |f|address|port|, the delimiter being any printable character
// but a digit; of a reply also |||port|. The port is taken modulo 65536.
func delimited(text []byte, at int, v6, isReply bool) (e endpoint, ok bool) {
	if at >= len(text) || text[at] < 33 || text[at] > 126 || isDigit(text[at]) {
		return e, false
	}
	delimiter := text[at]
	// field returns the text up to the next delimiter, and goes on behind it.
	field := func() (f []byte, ok bool) {
		n := bytes.IndexByte(text[at:], delimiter)
		if n < 0 {
			return nil, false
		}
		f = text[at : at+n]
		at += n + 1
		return f, true
	}
	e.start = at
	at++
	number, ok1 := field()
	address, ok2 := field()
	digits, ok3 := field()
	if !ok1 || !ok2 || !ok3 {
		return e, false
	}
	switch {
	case len(number) == 0 && len(address) == 0 && isReply:
	case len(number) != 1 || number[0] != family(v6):
		return e, false
	default:
		if e.addr, ok = parseAddr(address, v6); !ok {
			return e, false
		}
	}
	for _, c := range digits {
		if !isDigit(c) {
			return e, false
		}
		e.port = e.port*10 + uint16(c-'0')
	}
	e.end = at
	return e, e.port != 0
}

// parseAddr reads an address of a family.
func parseAddr(text []byte, v6 bool) (a flow.Addr, ok bool) {
	if v6 {
		return parse6(text)
	}
	b, ok := parse4(text)
	return flow.From4(b), ok
}

// parse4 reads an IPv4 address. Zeros may lead its numbers, which are decimal all
// the same.
func parse4(text []byte) (b [4]byte, ok bool) {
	for i := range b {
		n, digits := 0, 0
		for len(text) > 0 && isDigit(text[0]) {
			if n = n*10 + int(text[0]-'0'); n > 255 {
				return b, false
			}
			text = text[1:]
			digits++
		}
		if digits == 0 {
			return b, false
		}
		b[i] = byte(n)
		if i == 3 {
			break
		}
		if len(text) == 0 || text[0] != '.' {
			return b, false
		}
		text = text[1:]
	}
	return b, len(text) == 0
}

// parse6 reads an IPv6 address, but none that stands for an IPv4 one.
func parse6(text []byte) (a flow.Addr, ok bool) {
	n, gap := 0, -1 // bytes so far, and where "::" was
	if len(text) >= 2 && text[0] == ':' && text[1] == ':' {
		gap, text = 0, text[2:]
	}
	for len(text) > 0 {
		group := text[:hexDigits(text)]
		rest := text[len(group):]
		if len(rest) > 0 && rest[0] == '.' { // its last four bytes, as an IPv4 address
			b, ok := parse4(text)
			if !ok || n > 12 {
				return a, false
			}
			n += copy(a[n:], b[:])
			break
		}
		if len(group) == 0 || len(group) > 4 || n == len(a) {
			return a, false
		}
		binary.BigEndian.PutUint16(a[n:], hexValue(group))
		n += 2
		if text = rest; len(text) == 0 {
			break
		}
		if text[0] != ':' || len(text) == 1 {
			return a, false
		}
		if text = text[1:]; text[0] == ':' {
			if gap >= 0 {
				return a, false
			}
			gap, text = n, text[1:]
		}
	}
	switch {
	case gap < 0 && n != len(a), gap >= 0 && n == len(a):
		return a, false
	case gap >= 0:
		behind := n - gap
		copy(a[len(a)-behind:], a[gap:n])
		clear(a[gap : len(a)-behind])
	}
	return a, !a.Is4()
}

// hexDigits counts the hexadecimal digits that text begins with.
func hexDigits(text []byte) int {
	for i, c := range text {
		if !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
			return i
		}
	}
	return len(text)
}

// hexValue is the value of at most four hexadecimal digits.
func hexValue(digits []byte) (v uint16) {
	for _, c := range digits {
		if v <<= 4; isDigit(c) {
			v |= uint16(c - '0')
		} else {
			v |= uint16(c|0x20-'a') + 10
		}
	}
	return v
}
