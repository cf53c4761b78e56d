// Package native has code that is not Go's.
package native

/*
#cgo CFLAGS: -O2 -fomit-frame-pointer
static int spend_in_c(int n) {
	volatile int sum = 0;
	for (int i = 0; i < n; i++) sum += i;
	return sum;
}
*/
import "C"

func Spend(n int) int { return int(C.spend_in_c(C.int(n))) }
