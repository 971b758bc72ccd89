// Package oracle holds what Linux IPVS does with some 370 cases, and its tests hold
// sluice against that.
//
// oracle.py plays a case to the kernel's own IPVS in a User-Mode Linux guest;
// testdata has the cases and the kernel's results; golden/golden.py has `sluice
// replay` play the same case and compares. differential.py does both with random
// cases, and keeps what differed in testdata/found. README.md tells how each works.
package oracle
