//go:build go1.18
// +build go1.18

package main

type number interface{ ~int | ~float64 }

type pair[T number] struct{ a, b T }

func (p *pair[T]) sum() T { return p.a + p.b }

func fold[T number](all []T, by func(T, T) T) (sum T) {
	for _, one := range all {
		sum = by(sum, one)
	}
	return sum
}

func generic() int {
	p, q := pair[int]{1, 2}, pair[float64]{1, 2}
	add := func(a, b int) int { return a + b }
	return fold([]int{p.sum(), 3}, add) + int(fold([]float64{q.sum()}, func(a, b float64) float64 { return a * b }))
}
