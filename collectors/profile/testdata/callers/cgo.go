//go:build cgo
// +build cgo

package main

import "callers/native"

func init() {
	ways["foreign"] = foreign
}

//go:noinline
func foreign() { sink += native.Spend(10000) }
