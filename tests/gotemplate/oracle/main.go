// Oracle executes templates with Go's own text/template, for the tests of the interpreter.
//
// It reads one JSON object a line: {"template": "...", "data": ..., "missingkey": "zero"}. It writes one a line:
// {"result": base64} or {"stage": "parse"|"execute", "error": "..."}. Numbers without a point are ints, as
// {"$type": "..."} objects are the types of `typed` below.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
)

type request struct {
	Template   string          `json:"template"`
	Data       json.RawMessage `json:"data"`
	MissingKey string          `json:"missingkey"`
}

type response struct {
	Result []byte `json:"result,omitempty"`
	Stage  string `json:"stage,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Point is a plain struct, Named one with a String method.
type Point struct {
	X     any
	Label string
}

type Named struct {
	Name  string
	Items []any
}

func (n Named) String() string { return "<" + n.Name + ">" }

// Shouts is a slice, Ages a map, each with a String method or a zero value of its own.
type Shouts []string

func (s Shouts) String() string { return strings.ToUpper(strings.Join(s, "!")) }

type Ages map[string]int

func typed(kind string, fields map[string]any) any {
	switch kind {
	case "Point":
		label, _ := fields["Label"].(string)
		return Point{X: fields["X"], Label: label}
	case "Named":
		name, _ := fields["Name"].(string)
		items, _ := fields["Items"].([]any)
		return Named{Name: name, Items: items}
	case "Shouts":
		items, _ := fields["Items"].([]any)
		shouts := Shouts{}
		for _, item := range items {
			shouts = append(shouts, fmt.Sprint(item))
		}
		return shouts[:len(shouts):len(shouts)]
	case "Ages":
		ages := Ages{}
		for key, value := range fields {
			if n, ok := value.(int); ok {
				ages[key] = n
			}
		}
		return ages
	}
	panic("unknown type " + kind)
}

func value(raw any) any {
	switch v := raw.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return int(n)
		}
		f, _ := v.Float64()
		return f
	case []any:
		list := make([]any, len(v))
		for i, item := range v {
			list[i] = value(item)
		}
		return list
	case map[string]any:
		result := make(map[string]any, len(v))
		for key, item := range v {
			result[key] = value(item)
		}
		if kind, ok := result["$type"].(string); ok {
			delete(result, "$type")
			return typed(kind, result)
		}
		return result
	}
	return raw
}

func run(line []byte) response {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return response{Stage: "request", Error: err.Error()}
	}
	decoder := json.NewDecoder(bytes.NewReader(r.Data))
	decoder.UseNumber()
	var raw any
	if err := decoder.Decode(&raw); err != nil {
		return response{Stage: "request", Error: err.Error()}
	}
	if r.MissingKey == "" {
		r.MissingKey = "zero"
	}
	functions := template.FuncMap{"twice": func(s string) string { return s + s }, "list": func(v ...any) []any { return v }}
	t, err := template.New("").Option("missingkey=" + r.MissingKey).Funcs(functions).Parse(r.Template)
	if err != nil {
		return response{Stage: "parse", Error: err.Error()}
	}
	var out bytes.Buffer
	if err := t.Execute(&out, value(raw)); err != nil {
		return response{Stage: "execute", Error: err.Error()}
	}
	return response{Result: out.Bytes()}
}

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := json.NewEncoder(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			out.Encode(run(line))
		}
		if err != nil {
			return
		}
	}
}
