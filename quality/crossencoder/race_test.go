//go:build race

package crossencoder

func init() { slow = true }
