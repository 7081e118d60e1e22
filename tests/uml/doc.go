// Package uml runs a Linux binary inside user-mode Linux (a real kernel as a
// process, Debian package user-mode-linux), so that tests which need ESP, IPIP
// or netem run on machines whose own kernel lacks them.
//
// It owns the boot: the host side (Run, Main) writes a job file, starts
// /usr/bin/linux.uml with the calling binary as its init and ends every process
// of it; the guest side (Init) is PID 1: mounts, modules, entropy, then the
// payload, then power-off. It never configures networks beyond `lo` up and never
// decides what is tested. Callers are TestMain functions and cmd/shadowlab.
//
// Data flow: host process -> job file (argv, environment, directory, entropy) on
// the host's file system, which the guest sees as its root -> PID 1 -> payload;
// output comes back over the console, the exit status through a file beside the
// job.
//
// The guest sees the host's whole root file system, writable, with its own /proc,
// /sys, /dev, /run and /dev/shm; /tmp is the host's, because `go test` builds its
// binaries there. TMPDIR in the guest is /run/tmp, so that sockets and scratch
// files live in guest memory. Default memory is 768 MiB (a file in /dev/shm,
// allocated as it is touched). The race detector cannot run in there: its shadow
// memory does not fit user-mode Linux's address space.
package uml
