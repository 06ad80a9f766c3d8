//go:build race

package smol

const raceDetector = true
