//go:build !windows

package node

// checkMode: file modes say who may read a file.
const checkMode = true
