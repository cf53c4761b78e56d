// A program whose callers are known, as spin.c beside it, but Go's and stripped as etcd is: it has frame pointers, and no
// symbols but those that Go needs itself.
//
// What computes calls nobody, so that Go gives it no frame: who only follows frame pointers skips its caller.
package main

import (
	"fmt"
	"os"
	"reflect"
	"runtime"
	"time"
)

const (
	steps = 100_000
	tell  = 100 * time.Millisecond
)

//go:noinline
func churn(state uint64) uint64 {
	for step := 0; step < steps; step++ {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
	}
	return state
}

//go:noinline
func price(state uint64) uint64 { return churn(state) + 1 }

//go:noinline
func count(state uint64) uint64 { return churn(state) + 2 }

//go:noinline
func orders(state uint64) uint64 { return price(state) + 3 }

//go:noinline
func stock(state uint64) uint64 { return count(state) + 4 }

//go:noinline
func work(turn, state uint64) uint64 {
	if turn%4 == 3 {
		return stock(state) | 1
	}
	return orders(state) | 1
}

func main() {
	// One of two CPUs; the other is the other program's.
	runtime.GOMAXPROCS(1)
	known := []struct {
		name     string
		function any
	}{{"churn", churn}, {"price", price}, {"count", count}, {"orders", orders}, {"stock", stock}, {"work", work}}
	for _, one := range known {
		fmt.Println("function", one.name, reflect.ValueOf(one.function).Pointer())
	}
	// Wall and monotonic clock at once; what is printed is the difference of monotonic readings.
	began, state := time.Now(), uint64(88172645463325252)
	due := began
	for turn := uint64(0); ; turn++ {
		if now := time.Now(); !now.Before(due) {
			if _, err := fmt.Println(turn, 0, now.Sub(began).Nanoseconds()); err != nil {
				// Nobody reads any more: nobody needs this.
				os.Exit(0)
			}
			due = now.Add(tell)
		}
		state = work(turn, state)
	}
}
