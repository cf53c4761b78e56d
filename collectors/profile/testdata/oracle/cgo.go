//go:build cgo
// +build cgo

package main

import "oracle/native"

var _ = native.Twice(1)
