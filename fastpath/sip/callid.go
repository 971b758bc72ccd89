// Package sip finds the Call-ID of a SIP message (RFC 3261), by which the
// persistence engine of that name tells calls apart.
//
// Its functions are pure, allocate nothing and read no byte beyond the
// message, whatever is in it.
package sip

// MaxCallID is the longest Call-ID that counts, in bytes (K-PE-1).
const MaxCallID = 255

// CallID returns the Call-ID of message, a UDP datagram's payload; nil if it
// has none, or one that is longer than MaxCallID or does not end at the end of
// a line. As in the kernel, the first line is not looked at, header lines go on
// behind an empty one, and behind a Call-ID that is none the search goes on
// farther than it need.
func CallID(message []byte) []byte {
	for from := 0; from < len(message); {
		at := header(message, from)
		if at < 0 {
			return nil
		}
		n := length(message[at:])
		if n == 0 {
			from += at
			continue
		}
		if n > MaxCallID || at+n == len(message) || !newline(message[at+n]) {
			return nil
		}
		return message[at : at+n]
	}
	return nil
}

// header returns where the value of the first Call-ID header behind from
// begins; below 0: there is none. A line that begins with the name but has no
// colon ends the search.
func header(m []byte, from int) int {
	for i := from; i < len(m); i++ {
		if !newline(m[i]) {
			continue
		}
		if i = afterNewline(m, i); i == len(m) || blank(m[i]) {
			continue // the end, or the last line goes on
		}
		switch {
		case len(m)-i >= len(name) && equal(m[i:i+len(name)]):
			i += len(name)
		case len(m)-i >= 2 && m[i]|0x20 == 'i' && !letter(m[i+1]): // the compact form
			i++
		default:
			continue
		}
		if i = skip(m, i); i < 0 || i == len(m) || m[i] != ':' {
			return -1
		}
		return skip(m, i+1)
	}
	return -1
}

const name = "call-id"

// equal says whether b is the header's name in whatever case.
func equal(b []byte) bool {
	for i := range name {
		if b[i] != name[i] && (b[i]|0x20 != name[i] || !letter(b[i])) {
			return false
		}
	}
	return true
}

// afterNewline returns where the line behind the newline at i begins: behind
// CR, LF or CRLF.
func afterNewline(m []byte, i int) int {
	if m[i] == '\r' && i+1 < len(m) && m[i+1] == '\n' {
		i++
	}
	return i + 1
}

// skip goes past blanks at i, once also to the next line if that goes on with
// this one; below 0: it doesn't.
func skip(m []byte, i int) int {
	for ; i < len(m) && blank(m[i]); i++ {
	}
	if i == len(m) || !newline(m[i]) {
		return i
	}
	if i = afterNewline(m, i); i == len(m) || !blank(m[i]) {
		return -1
	}
	for ; i < len(m) && blank(m[i]); i++ {
	}
	return i
}

// length returns how long the Call-ID is that m begins with: a word, or two
// with @ in between (RFC 3261 section 25.1); 0: there is none.
func length(m []byte) int {
	n := wordLength(m)
	if n == 0 || n == len(m) || m[n] != '@' {
		return n
	}
	domain := wordLength(m[n+1:])
	if domain == 0 {
		return 0
	}
	return n + 1 + domain
}

func wordLength(m []byte) (n int) {
	for n < len(m) && word[m[n]] {
		n++
	}
	return n
}

// word tells the bytes of a word: letters, digits and the marks that RFC 3261
// allows. Letters are Latin-1's, as the kernel has them.
var word = func() (t [256]bool) {
	for c := range t {
		t[c] = letter(byte(c)) || c >= '0' && c <= '9'
	}
	for _, c := range "!\"%'()*+-./:<>?[\\]_`{}~" {
		t[c] = true
	}
	return t
}()

func letter(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= 0xc0 && c != 0xd7 && c != 0xf7
}

func newline(c byte) bool { return c == '\r' || c == '\n' }
func blank(c byte) bool   { return c == ' ' || c == '\t' }
