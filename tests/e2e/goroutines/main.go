// Starts goroutines as it is told and says on which port it can be asked about them.
//
//	kept   leaves goroutines behind that wait on channels somebody still knows: Go cannot tell that nobody will send
//	lost   leaves goroutines behind on channels that nobody knows any more: Go can tell
//	calm   has as many goroutines that wait, and others that come and go; none is left behind
package main

import (
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
	"runtime"
	"time"
)

// How many there are at the beginning, and how often another one is left behind.
const (
	crowd = 40
	pace  = 25 * time.Millisecond
)

var (
	known []chan int
	jobs  = make(chan int)
)

// takeKept waits for what nobody sends.
//
//go:noinline
func takeKept(from chan int) int { return <-from }

// takeLost does too.
//
//go:noinline
func takeLost(from chan int) int { return <-from }

//go:noinline
func leaveKept() {
	from := make(chan int)
	known = append(known, from)
	go takeKept(from)
}

//go:noinline
func leaveLost() { go takeLost(make(chan int)) }

// work is a pool's: it waits for as long as the program lives, and that is as it should be.
//
//go:noinline
func work() {
	for range jobs {
	}
}

// visit comes and goes.
//
//go:noinline
func visit() { time.Sleep(200 * time.Millisecond) }

func repeat(leave func()) {
	for i := 0; i < crowd; i++ {
		leave()
	}
	for range time.Tick(pace) {
		leave()
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	switch os.Args[1] {
	case "kept":
		go repeat(leaveKept)
	case "lost":
		go repeat(leaveLost)
	}
	for i := 0; i < crowd; i++ {
		go work()
	}
	go func() {
		for range time.Tick(pace) {
			go visit()
		}
	}()
	// Go counts how long a goroutine has waited from the first collection on that saw it wait.
	go func() {
		for range time.Tick(time.Second) {
			runtime.GC()
		}
	}()
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listener, nil))
}
