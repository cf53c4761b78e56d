//go:build cgo
// +build cgo

package main

// int heap_is_linked(void) { return 1; }
import "C"

var linked = C.heap_is_linked()
