// Command shadowctl is the operator's tool for a shadowcast appliance.
//
// It owns no state: it asks the daemon on its local socket (package operator),
// or reads and writes files (packages config and pki). Nobody calls it but
// people, scripts and the tests.
//
// Rules of its output: data goes to stdout and talk to stderr, so that a pipe
// holds data only; -o json works everywhere, one document for an answer and one
// line each for a stream; long work reports progress; the exit code is 0 for
// done, 1 for failed, 2 for a command line that makes no sense; whatever could
// lose traffic or overwrite keys asks first or needs a flag.
package main
