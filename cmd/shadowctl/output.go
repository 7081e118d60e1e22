package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// table collects rows and prints them in aligned columns.
type table struct{ rows [][]string }

func newTable(heads ...string) *table { return &table{rows: [][]string{heads}} }

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// print leaves out trailing columns that are empty in every row.
func (t *table) print(w io.Writer) error {
	width := 0
	for _, r := range t.rows[1:] {
		for i, c := range r {
			if c != "" {
				width = max(width, i+1)
			}
		}
	}
	var b bytes.Buffer
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for i, r := range t.rows {
		if width > 0 {
			r = r[:min(len(r), width)]
		}
		cells := make([]string, len(r))
		for j, c := range r {
			if cells[j] = clean(c); c == "" && i > 0 {
				cells[j] = "-"
			}
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	return printTrimmed(w, &b)
}

// fields prints "name  value" lines and leaves out empty values.
func fields(w io.Writer, pairs ...string) error {
	var b bytes.Buffer
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(tw, "%s\t%s\n", pairs[i], clean(pairs[i+1]))
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	return printTrimmed(w, &b)
}

func printTrimmed(w io.Writer, b *bytes.Buffer) error {
	out := bufio.NewWriter(w)
	for line := range strings.Lines(b.String()) {
		out.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return out.Flush()
}

// clean keeps text that a client chose (an IKE identity) from steering the
// terminal or breaking the table.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// jsonBytes renders m with the field names of the .proto files, zero values
// included. protojson varies its white space on purpose; this does not.
func jsonBytes(m proto.Message) ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode JSON: %w", err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return nil, fmt.Errorf("encode JSON: %w", err)
	}
	return b.Bytes(), nil
}

// printJSON writes one indented document.
func (a *app) printJSON(m proto.Message) error {
	raw, err := jsonBytes(m)
	if err != nil {
		return err
	}
	return a.printIndented(raw)
}

func (a *app) printIndented(raw []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return fmt.Errorf("format JSON: %w", err)
	}
	b.WriteByte('\n')
	_, err := a.out.Write(b.Bytes())
	return err
}

// printLine writes one document on one line, for streams.
func (a *app) printLine(m proto.Message) error {
	raw, err := jsonBytes(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "%s\n", raw)
	return err
}

// printValue writes a plain Go value as an indented document.
func (a *app) printValue(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode JSON: %w", err)
	}
	return a.printIndented(raw)
}

// word turns an enum value such as SLOT_STATE_ACTIVE into "active"; the
// unspecified value is empty.
func word(prefix string, e fmt.Stringer) string {
	s := strings.TrimPrefix(e.String(), prefix+"_")
	if s == "UNSPECIFIED" {
		return ""
	}
	return strings.ToLower(strings.ReplaceAll(s, "_", " "))
}

// span renders a duration to three digits or so; missing is empty.
func span(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	return short(d.AsDuration())
}

func short(v time.Duration) string {
	switch abs := v.Abs(); {
	case abs >= 48*time.Hour:
		return fmt.Sprintf("%dd%dh", v/(24*time.Hour), v%(24*time.Hour)/time.Hour)
	case abs >= time.Hour:
		return fmt.Sprintf("%dh%dm", v/time.Hour, v%time.Hour/time.Minute)
	case abs >= time.Minute:
		return fmt.Sprintf("%dm%ds", v/time.Minute, v%time.Minute/time.Second)
	case abs >= time.Second:
		return v.Round(10 * time.Millisecond).String()
	case abs >= time.Millisecond:
		return v.Round(10 * time.Microsecond).String()
	default:
		return v.Round(time.Microsecond / 10).String()
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func number[N int32 | uint32 | uint64](n N) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}
