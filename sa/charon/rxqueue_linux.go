package charon

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
)

// rxQueue is the state of charon's receiving HA socket, from /proc/<pid>/net/udp.
type rxQueue struct {
	Bytes uint64 // receive queue, in bytes of kernel memory (sk_rmem_alloc)
	Drops uint64 // datagrams dropped since the socket was opened
}

// errNotListening means that no socket is bound to charon's HA address.
var errNotListening = errors.New("charon does not listen on 127.0.0.1:4510 (ha plugin not loaded?)")

// haListener is 127.0.0.1:4510 as /proc/net/udp prints it on this machine: the
// address as a native-endian word.
var haListener = func() []byte {
	if littleEndian {
		return []byte("0100007F:119E")
	}
	return []byte("7F000001:119E")
}()

// readRxQueue reads the queue of the HA socket in the network namespace of pid.
func readRxQueue(pid int) (rxQueue, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/net/udp")
	if err != nil {
		return rxQueue{}, fmt.Errorf("read receive queue of charon: %w", err)
	}
	defer f.Close()
	q, err := parseRxQueue(f)
	if err != nil {
		return rxQueue{}, fmt.Errorf("read receive queue of charon (pid %d): %w", pid, err)
	}
	return q, nil
}

// parseRxQueue reads /proc/net/udp: columns 1 local address, 4 tx:rx queue in
// hexadecimal, last drops.
func parseRxQueue(r io.Reader) (rxQueue, error) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		f := bytes.Fields(s.Bytes())
		if len(f) < 13 || !bytes.Equal(f[1], haListener) {
			continue
		}
		_, rx, ok := bytes.Cut(f[4], []byte(":"))
		if !ok {
			return rxQueue{}, fmt.Errorf("parse queue column %q", f[4])
		}
		n, err := strconv.ParseUint(string(rx), 16, 64)
		if err != nil {
			return rxQueue{}, fmt.Errorf("parse queue column: %w", err)
		}
		d, err := strconv.ParseUint(string(f[len(f)-1]), 10, 64)
		if err != nil {
			return rxQueue{}, fmt.Errorf("parse drops column: %w", err)
		}
		return rxQueue{Bytes: n, Drops: d}, nil
	}
	if err := s.Err(); err != nil {
		return rxQueue{}, err
	}
	return rxQueue{}, errNotListening
}
