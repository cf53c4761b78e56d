// Allocates on several goroutines and says on which port it can be asked about it.
//
// Each way in which a stack can look different is here: inlined calls, wrappers, closures, recursion deeper than Go keeps,
// types with arguments where there are any, allocations by the runtime itself.
package main

import (
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
	"runtime"
	"sort"
	"strconv"
	"time"
)

type node struct {
	next *node
	fill [200]byte
}

type maker interface{ make(size int) []byte }

type inner struct{ made int }

func (i *inner) make(size int) []byte { i.made++; return grow(size) }

// outer has the method by promotion: a wrapper that the compiler writes.
type outer struct{ *inner }

var ways = []func(round int) interface{}{
	func(round int) interface{} { return inlined(round%4096 + 1) },
	func(round int) interface{} { return recursive(round%200, round%3000+1) },
	func(round int) interface{} { var m maker = outer{&inner{}}; return m.make(round%900 + 1) },
	func(round int) interface{} { return list(round % 50) },
	func(round int) interface{} { return counted(round % 300) },
	func(round int) interface{} { return strconv.Itoa(round) + fmt.Sprint("round ", round) },
	func(round int) interface{} { return large(round) },
	func(round int) interface{} { return sorted(round % 100) },
	func(round int) interface{} { return spawned(round) },
	generic,
}

func inlined(size int) []byte { return also(size) }
func also(size int) []byte    { return make([]byte, size) }

//go:noinline
func grow(size int) []byte {
	var grown []byte
	for len(grown) < size {
		grown = append(grown, 1, 2, 3, 4, 5, 6, 7, 8)
	}
	return grown
}

//go:noinline
func recursive(depth, size int) []byte {
	if depth == 0 {
		return inlined(size)
	}
	return recursive(depth-1, size)
}

func list(length int) *node {
	var head *node
	for i := 0; i < length; i++ {
		head = &node{next: head}
	}
	return head
}

func counted(count int) map[int]string {
	counts := map[int]string{}
	for i := 0; i < count; i++ {
		counts[i] = "x"
	}
	return counts
}

func large(round int) []byte {
	if round%64 != 0 {
		return nil
	}
	return make([]byte, 600000+round%7*100000)
}

func sorted(length int) []string {
	names := make([]string, length)
	for i := range names {
		names[i] = strconv.Itoa(i * 7919 % 1000)
	}
	sort.Slice(names, func(i, j int) bool { return names[i] < names[j] })
	return names
}

func spawned(round int) interface{} {
	made := make(chan []byte, 1)
	go func() { made <- inlined(round%2000 + 1) }()
	return <-made
}

func work(worker int) {
	kept := make([]interface{}, 20000)
	for round := worker; ; round++ {
		made := ways[round%len(ways)](round)
		if round%3 == 0 {
			kept[round/3%len(kept)] = made
		}
		if round%50 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

func main() {
	if rate := os.Getenv("HEAP_RATE"); rate != "" {
		runtime.MemProfileRate, _ = strconv.Atoi(rate)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	workers, _ := strconv.Atoi(os.Getenv("HEAP_WORKERS"))
	for worker := 0; worker < workers; worker++ {
		go work(worker * 7)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listener, nil))
}
