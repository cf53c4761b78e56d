package main

import (
	"encoding/json"
	"errors"
	"regexp"
	"sort"
	"strings"
	"text/template"
)

type shape interface {
	area() int
}

type square struct{ side int }

func (s square) area() int { return product(s.side, s.side) }

type framed struct{ *square }

func product(a, b int) int { return clamp(a) * clamp(b) }

func clamp(a int) int {
	if a < 0 {
		return least()
	}
	return a
}

func least() int { return 0 }

// work refers to much of the library and to each way of calling, so that there is something to name.
func work() {
	defer func() {
		if err := recover(); err != nil && !errors.Is(err.(error), errWork) {
			panic(err)
		}
	}()
	shapes := []shape{square{3}, &square{4}, framed{&square{5}}}
	sort.Slice(shapes, func(i, j int) bool { return shapes[i].area() < shapes[j].area() })
	var decoded map[string]interface{}
	if err := json.Unmarshal([]byte(`{"a": [1, 2.5, "b"]}`), &decoded); err != nil {
		panic(err)
	}
	var text strings.Builder
	words := regexp.MustCompile(`(\w+)\s*=\s*(\w+)`).FindAllStringSubmatch("a = b, c = d", -1)
	if err := template.Must(template.New("").Parse(`{{range .}}{{.}}{{end}}`)).Execute(&text, words); err != nil {
		panic(err)
	}
	if generic() == text.Len() {
		panic(errWork)
	}
}

var errWork = errors.New("work")
