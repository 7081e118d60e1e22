package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// mayAsk refuses to ask where nobody can answer; why says what the command asks for.
func (a *app) mayAsk(why string) error {
	if _, err := unix.IoctlGetTermios(int(a.stdin.Fd()), unix.TCGETS); err != nil {
		return usagef("%s, and stdin is no terminal; add --yes", why)
	}
	return nil
}

// confirm asks the question and waits for a yes; anything else is the error not.
func (a *app) confirm(ctx context.Context, question, not string) error {
	fmt.Fprintf(a.talk, "%s\n[y/N] ", question)
	answer, err := readAnswer(ctx, a.stdin)
	if err != nil {
		return fmt.Errorf("%w, %s", err, not)
	}
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return errors.New(not)
	}
	return nil
}

// readAnswer reads one line, or ends with ctx. The reader it leaves behind then
// ends with the process.
func readAnswer(ctx context.Context, r io.Reader) (string, error) {
	line := make(chan string, 1)
	go func() {
		s, _ := bufio.NewReader(r).ReadString('\n')
		line <- s
	}()
	select {
	case s := <-line:
		return s, nil
	case <-ctx.Done():
		return "", errors.New("interrupted")
	}
}
