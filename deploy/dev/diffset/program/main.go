// A service whose costs are known: what each function does for a request is a number of rounds that a flag can scale.
//
// It works through requests at a steady rate and prints how many it has answered, ten times a second.
package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Rounds for each request. They add up to 1000, so that ten are one per cent of the work.
var rounds = map[string]int{
	"parse": 100, "lookup": 50, "compare": 20, "encode": 200, "checksum": 80, "copyOut": 10,
	"validate": 30, "route": 60, "apply": 300, "log": 150,
}

const unit = 300 // steps of one round

var answered atomic.Int64

func main() {
	rate := flag.Int("rate", 2000, "requests a second")
	workers := flag.Int("workers", 2, "at once")
	scale := flag.String("scale", "", "function=factor,...: its cost is changed")
	moved := flag.Bool("moved", false, "compare is called by validate, not by lookup")
	flag.Parse()
	for _, one := range strings.Split(*scale, ",") {
		if name, factor, ok := strings.Cut(one, "="); ok {
			by, err := strconv.ParseFloat(factor, 64)
			if _, known := rounds[name]; err != nil || !known {
				fmt.Fprintln(os.Stderr, "no such scale:", one)
				os.Exit(64)
			}
			rounds[name] = int(float64(rounds[name])*by + 0.5)
		}
	}
	var all sync.WaitGroup
	for worker := 0; worker < *workers; worker++ {
		all.Add(1)
		go serve(*rate / *workers, *moved)
	}
	for {
		time.Sleep(100 * time.Millisecond)
		fmt.Println(answered.Load())
	}
}

func serve(rate int, moved bool) {
	began, done := time.Now(), 0
	for {
		due := int(time.Since(began).Seconds() * float64(rate))
		if due-done > rate {
			// A second behind: the machine was taken away. What is late is not made up for.
			began, done = time.Now(), 0
			continue
		}
		for ; done < due; done++ {
			handle(uint64(done), moved)
			answered.Add(1)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

//go:noinline
func handle(request uint64, moved bool) {
	state := route(request)
	state = parse(state)
	state = validate(state, moved)
	state = lookup(state, moved)
	state = apply(state)
	state = encode(state)
	note(state)
}

//go:noinline
func route(state uint64) uint64 { return spin(state, rounds["route"]) }

//go:noinline
func parse(state uint64) uint64 { return spin(state, rounds["parse"]) }

//go:noinline
func validate(state uint64, moved bool) uint64 {
	if moved {
		state = compare(state)
	}
	return spin(state, rounds["validate"])
}

//go:noinline
func lookup(state uint64, moved bool) uint64 {
	if !moved {
		state = compare(state)
	}
	return spin(state, rounds["lookup"])
}

//go:noinline
func compare(state uint64) uint64 { return spin(state, rounds["compare"]) }

//go:noinline
func apply(state uint64) uint64 {
	buffer := make([]byte, 2048)
	for at := range buffer {
		buffer[at] = byte(state) + byte(at)
	}
	sink.Store(&buffer)
	return checksum(spin(state, rounds["apply"]))
}

//go:noinline
func checksum(state uint64) uint64 { return spin(state, rounds["checksum"]) }

//go:noinline
func encode(state uint64) uint64 { return copyOut(spin(state, rounds["encode"])) }

//go:noinline
func copyOut(state uint64) uint64 { return spin(state, rounds["copyOut"]) }

//go:noinline
func note(state uint64) { last.Store(spin(state, rounds["log"])) }

var (
	sink atomic.Pointer[[]byte]
	last atomic.Uint64
)

// Inlined where it is used, so that the rounds are the caller's own.
func spin(state uint64, rounds int) uint64 {
	for step := 0; step < rounds*unit; step++ {
		state = state*6364136223846793005 + 1442695040888963407
	}
	return state
}
