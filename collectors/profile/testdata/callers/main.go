// Stacks that are known: each way to spend time ends in a function of one kind, below callers that are always the same.
//
//	callers WAY    spends time that way until it is ended
package main

import (
	"os"
	"time"
)

var sink int

// ways are by the kind of function at the end of the stack. Each is "main.way_", which calls the leaf in a loop.
var ways = map[string]func(){
	"assembly":  assembly,
	"pushing":   pushing,
	"trashing":  trashing,
	"leaf":      leaf,
	"edges":     edges,
	"growing":   growing,
	"clock":     clock,
	"interface": through,
}

func main() {
	way, ok := ways[os.Args[1]]
	if !ok {
		os.Exit(64)
	}
	os.Stdout.WriteString("\n")
	for {
		way()
	}
}

// Written in assembly, without any frame.
func frameless(n int) int

// Written in assembly: pushes and pops what nobody but the assembler keeps account of.
func pushes(n int) int

// Written in assembly: uses the frame pointer for something else.
func trashes(n int) int

//go:noinline
func assembly() { sink += frameless(1000) }

//go:noinline
func pushing() {
	for i := 0; i < 100; i++ {
		sink += pushes(10)
	}
}

//go:noinline
func trashing() { sink += trashes(1000) }

// So small that the compiler gives it no frame.
//
//go:noinline
func small(n int) int {
	for i := n; i > 0; i-- {
		n ^= i * n
	}
	return n
}

//go:noinline
func leaf() { sink += small(1000) }

// A frame, and little else: most of its time it is being set up or taken down.
//
//go:noinline
func edge(n int) int {
	var room [8]int
	room[n&7] = n
	return room[(n+1)&7] + tiny(n)
}

//go:noinline
func tiny(n int) int { return n + 1 }

//go:noinline
func edges() {
	for i := 0; i < 1000; i++ {
		sink += edge(i)
	}
}

// Each goroutine begins with a small stack, so each has it grown.
//
//go:noinline
func growing() {
	done := make(chan int)
	go func() { done <- deep(100) }()
	sink += <-done
}

//go:noinline
func deep(n int) int {
	var room [64]int
	room[n&63] = n
	if n == 0 {
		return small(10)
	}
	return deep(n-1) + room[(n+1)&63]
}

//go:noinline
func clock() {
	for i := 0; i < 100; i++ {
		sink += time.Now().Nanosecond()
	}
}

type inner struct{ n int }

//go:noinline
func (i *inner) Spend(n int) int { return small(n) + i.n }

// outer has Spend from inner: the compiler makes a function that calls it, which no traceback shows.
type outer struct {
	name string
	*inner
}

type spender interface{ Spend(int) int }

var spenders = []spender{&outer{"a", &inner{1}}, &outer{"b", &inner{2}}}

//go:noinline
func through() {
	for _, one := range spenders {
		sink += one.Spend(1000)
	}
}
