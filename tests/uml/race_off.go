//go:build !race

package uml

// raceDetector: the race detector's shadow memory does not fit the address space
// of user-mode Linux.
const raceDetector = false
