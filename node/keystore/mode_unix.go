//go:build !windows

package keystore

// checkMode: file modes say who may read a file.
const checkMode = true
