//go:build race

package crossencoder

func init() { raceDetector = true }
