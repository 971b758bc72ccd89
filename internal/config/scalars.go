package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-lb/sluice/lb"
)

// integer is a number of least to most, decimal or hexadecimal (0x1f).
// A leading zero is refused: to some readers of YAML it means octal.
func integer(least, most int64) shape {
	bounds := fmt.Sprintf("%d..%d", least, most)
	return shape{want: "a number " + bounds, scalar: func(tag, text string) (any, error) {
		digits, base := strings.TrimLeft(text, "+-"), 10
		if len(digits) > 1 && strings.Trim(digits, "0123456789") == "" && digits[0] == '0' && tag != tagText {
			return nil, fmt.Errorf("%s is not decimal, want %s without leading zeros", text, bounds)
		}
		if tag != tagInt {
			return nil, errOther
		}
		if strings.HasPrefix(digits, "0x") {
			base = 16
		}
		v, err := strconv.ParseInt(strings.Replace(text, "0x", "", 1), base, 64)
		if errors.Is(err, strconv.ErrSyntax) {
			return nil, errOther
		}
		if err != nil || v < least || v > most {
			return nil, fmt.Errorf("%s is out of range, want %s", text, bounds)
		}
		return int(v), nil
	}}
}

// powerOfTwo is an integer that is one.
func powerOfTwo(least, most int64) shape {
	n := integer(least, most)
	return shape{want: fmt.Sprintf("a power of two %d..%d", least, most), scalar: func(tag, text string) (any, error) {
		v, err := n.scalar(tag, text)
		if err != nil {
			return nil, err
		}
		if i := v.(int); i&(i-1) != 0 {
			return nil, fmt.Errorf("%d is not a power of two %d..%d", i, least, most)
		}
		return v, nil
	}}
}

// segmentSize is a bound of TCP's maximum segment size.
func segmentSize() shape {
	n := integer(int64(lb.MinMSS), int64(lb.MaxMSS))
	return shape{want: "auto | " + n.want, scalar: func(tag, text string) (any, error) {
		if tag == tagText && text == lb.AutoMSS.String() {
			return lb.AutoMSS, nil
		}
		v, err := n.scalar(tag, text)
		if err != nil {
			return nil, err
		}
		return lb.MSS(v.(int)), nil
	}}
}

// flag is true or false.
func flag() shape {
	return shape{want: "true | false", scalar: func(tag, text string) (any, error) {
		if is := strings.EqualFold(text, "true"); tag == tagBool && (is || strings.EqualFold(text, "false")) {
			return is, nil
		}
		return nil, errOther
	}}
}

// name is a word for people: printable, without blanks.
func name() shape {
	return textual("1 to 64 printable characters without blanks (a number in quotes)", func(s string) (any, error) {
		if s == "" || len(s) > 64 || strings.Contains(s, " ") || !printable(s) {
			return nil, errOther
		}
		return s, nil
	})
}

// device is the name of a network interface as the kernel takes it.
func device() shape {
	return textual("an interface name of 1 to 15 characters", func(s string) (any, error) {
		if s == "" || len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/: ") || !printable(s) {
			return nil, errOther
		}
		return s, nil
	})
}

// duration is a Go duration, or a bare 0. unit is what it must be a
// multiple of, like an example.
func duration(least, most, unit, like time.Duration) shape {
	bounds := short(least) + ".." + short(most)
	want := "a duration like " + short(like) + " within " + bounds
	return shape{want: want, scalar: func(tag, text string) (any, error) {
		if tag == tagInt && text != "0" {
			return nil, fmt.Errorf("%s has no unit, want %s", plain(text), want)
		}
		if tag != tagText && tag != tagInt {
			return nil, errOther
		}
		d, err := time.ParseDuration(text)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%q, want %s", text, want)
		case d < least || d > most:
			return nil, fmt.Errorf("%s is out of range, want %s", text, bounds)
		case d%unit != 0:
			return nil, fmt.Errorf("%s is not a multiple of %s", text, short(unit))
		}
		return d, nil
	}}
}

// short prints a duration without the zeros that Go appends: 1m, not 1m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// portRange is a port or two with a hyphen between them.
type portRange struct{ Low, High uint16 }

func ports() shape {
	want := "a port or a range like 80-443 within 1..65535"
	return shape{want: want, scalar: func(tag, text string) (any, error) {
		if tag != tagText && tag != tagInt {
			return nil, errOther
		}
		low, high, both := strings.Cut(text, "-")
		if !both {
			high = low
		}
		l, err1 := strconv.ParseUint(low, 10, 16)
		h, err2 := strconv.ParseUint(high, 10, 16)
		if err1 != nil || err2 != nil || l == 0 || l > h {
			return nil, fmt.Errorf("%q, want %s", text, want)
		}
		return portRange{uint16(l), uint16(h)}, nil
	}}
}

// socketPath is where a unix socket may be: 107 bytes fit sockaddr_un.
func socketPath() shape {
	return textual("an absolute path of at most 107 bytes", func(s string) (any, error) {
		if !path.IsAbs(s) || len(s) > 107 || strings.ContainsRune(s, 0) {
			return nil, errOther
		}
		return s, nil
	})
}

// listen is a TCP address to listen on, or nothing.
func listen() shape {
	return textual(`ADDRESS:PORT like 127.0.0.1:9110, [::1]:9110 or :9110, or ""`, func(s string) (any, error) {
		if s == "" {
			return s, nil
		}
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			return nil, errOther
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return nil, errOther
		}
		if _, err := netip.ParseAddr(host); err != nil && host != "" {
			return nil, errOther
		}
		return s, nil
	})
}
