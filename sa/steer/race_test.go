//go:build race

package steer

const raceDetector = true
