// Package sluice is the root of the repository and holds no code, only the
// tests of its order (tidy_test.go). The program is cmd/sluice; docs/ARCHITECTURE.md
// is the map.
package sluice
