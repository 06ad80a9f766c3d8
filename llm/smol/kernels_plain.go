//go:build !goexperiment.simd || !amd64

package smol

func fastest() kernels { return plain }
