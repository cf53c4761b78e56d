// What Go itself says about addresses: the runtime about this program, debug/gosym about another one.
//
//	oracle          reads addresses of this program, as they are in its file, from standard input, 8 bytes each, and
//	                writes a line for each: how far the stack pointer is, then each function, the innermost first
//	oracle FILE     the same of another program, of which only function, file and line can be had
package main

import (
	"bufio"
	"debug/elf"
	"debug/gosym"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	_ "unsafe"
)

type function struct{}

type known struct {
	*function
	module uintptr
}

//go:linkname findfunc runtime.findfunc
func findfunc(pc uintptr) known

//go:linkname expand runtime/pprof.runtime_expandFinalInlineFrame
func expand(stack []uintptr) []uintptr

var out = bufio.NewWriterSize(os.Stdout, 1<<20)

func main() {
	work()
	if len(os.Args) > 1 {
		other(os.Args[1])
	} else {
		self()
	}
	if err := out.Flush(); err != nil {
		os.Exit(1)
	}
}

// addresses calls say with each address of standard input.
func addresses(say func(uint64)) {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	var raw [8]byte
	for {
		if _, err := io.ReadFull(in, raw[:]); err != nil {
			return
		}
		say(binary.LittleEndian.Uint64(raw[:]))
	}
}

func self() {
	moved := moved()
	// Something must follow, or the runtime leaves out what the last function is inlined into.
	var after [1]uintptr
	runtime.Callers(0, after[:])
	addresses(func(address uint64) {
		pc := uintptr(address) + moved
		known := findfunc(pc)
		if known.function == nil {
			fmt.Fprintln(out, "-")
			return
		}
		fmt.Fprint(out, spDelta(known, pc))
		expanded := expand([]uintptr{pc + 1})
		frames := runtime.CallersFrames(append(expanded, after[0]))
		for range expanded {
			frame, _ := frames.Next()
			kind := "own"
			if frame.Func == nil {
				kind = "inlined"
			}
			fmt.Fprintf(out, "\t%s\t%s\t%s\t%d\t%d", kind, symbolName(&frame), frame.File, frame.Line, startLine(&frame))
		}
		fmt.Fprintln(out)
	})
}

// moved is by how much the loader moved this program.
func moved() uintptr {
	file, err := elf.Open("/proc/self/exe")
	if err != nil {
		panic(err)
	}
	defer file.Close()
	if file.Type != elf.ET_DYN {
		return 0
	}
	first := uint64(0)
	for i := len(file.Progs) - 1; i >= 0; i-- {
		if file.Progs[i].Type == elf.PT_LOAD {
			first = file.Progs[i].Vaddr
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	exe, _ := os.Readlink("/proc/self/exe")
	for _, line := range strings.Split(string(maps), "\n") {
		if strings.HasSuffix(line, exe) {
			start, err := strconv.ParseUint(line[:strings.IndexByte(line, '-')], 16, 64)
			if err != nil {
				panic(err)
			}
			return uintptr(start - first)
		}
	}
	panic("no mapping of this program")
}

func other(path string) {
	file, err := elf.Open(path)
	if err != nil {
		panic(err)
	}
	data, err := file.Section(".gopclntab").Data()
	if err != nil {
		panic(err)
	}
	// Up to Go 1.25 the table says where the code begins, and C may stand before it.
	text := binary.LittleEndian.Uint64(data[24:])
	if text == 0 {
		text = file.Section(".text").Addr
	}
	table, err := gosym.NewTable(nil, gosym.NewLineTable(data, text))
	if err != nil {
		panic(err)
	}
	addresses(func(address uint64) {
		path, line, function := table.PCToLine(address)
		if function == nil {
			fmt.Fprintln(out, "-")
			return
		}
		// -1 stands for a line that is not known.
		if line < 0 {
			line = 0
		}
		fmt.Fprintf(out, "-1\town\t%s\t%s\t%d\t0\n", function.Name, path, line)
	})
}
