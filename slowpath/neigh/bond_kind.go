//go:build !bridgebond

package neigh

// bondKind is the kind of links, as in ip -d link, that carry a bond's frames.
const bondKind = "bond"
