//go:build go1.22
// +build go1.22

package main

import _ "unsafe"

//go:linkname funcspdelta runtime.funcspdelta
func funcspdelta(known known, pc uintptr) int32

func spDelta(known known, pc uintptr) int32 { return funcspdelta(known, pc) }
