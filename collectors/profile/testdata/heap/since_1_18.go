//go:build go1.18
// +build go1.18

package main

type pair[K comparable, V any] struct {
	keys   []K
	values []V
}

func (p *pair[K, V]) add(key K, value V) {
	p.keys = append(p.keys, key)
	p.values = append(p.values, value)
}

func generic(round int) interface{} {
	made := &pair[int, string]{}
	for i := 0; i < round%200; i++ {
		made.add(i, "x")
	}
	return made
}
