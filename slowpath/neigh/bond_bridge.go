//go:build bridgebond

package neigh

// bondKind has a bridge stand for a bond, for tests on kernels without bonding. Its
// ports have to be isolated, so that it forwards nothing between them.
const bondKind = "bridge"
