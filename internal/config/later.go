package config

// later are the keys whose features are still to come, [] standing for any
// index. Such a key is validated like any other and then refused unless it
// has its default, so that nobody believes in a setting that does nothing.
var later = map[string]bool{
	"helpers.ftp": true,
}
