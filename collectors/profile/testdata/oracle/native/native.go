// Package native has code that is not Go's.
package native

// static int twice(int a) { return 2 * a; }
import "C"

func Twice(a int) int { return int(C.twice(C.int(a))) }
