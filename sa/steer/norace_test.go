//go:build !race

package steer

const raceDetector = false
