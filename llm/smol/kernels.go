package smol

// Kernels are the inner loops, of which there is a plain implementation and, on amd64 with GOEXPERIMENT=simd, one with AVX2.
// All give the same bits: sums of integers are exact, floats are added in the same order in eight lanes, and products are
// rounded before they are added (written float32(a*b) in plain code, so that the compiler may not fuse them on arm64 either).
// So greedy tokens depend neither on the build nor on the machine.
type kernels struct {
	name string

	// dotQ4 multiplies a group of eight rows of a q4Matrix with one row of activations.
	dotQ4 func(y *[8]float32, w q4Group, x actRow)

	// dotQ4Pair does it for two rows of activations, and unpacks the weights once.
	dotQ4Pair func(y0, y1 *[8]float32, w q4Group, x0, x1 actRow)

	// dotQ8 does the same for a q8Matrix.
	dotQ8 func(y *[8]float32, w q8Group, x actRow)

	// dot is the product of two vectors of the same length, a multiple of eight.
	dot func(a, b []float32) float32

	// axpy adds s*x to y, of the same length, a multiple of eight.
	axpy func(y []float32, s float32, x []float32)
}

var plain = kernels{name: "plain", dotQ4: dotQ4, dotQ4Pair: dotQ4Pair, dotQ8: dotQ8, dot: dot, axpy: axpy}

func dotQ4(y *[8]float32, w q4Group, x actRow) {
	var acc, offset [8]float32
	for b := range len(x.scale) / lanes {
		words := (*[q4Words]uint32)(w.q[b*q4Words:])
		acts := (*[actWords]uint32)(x.q[b*actWords:])
		var sum [8]int32
		for j := range 4 {
			a0, a1 := unpack(acts[(4*j)*lanes])
			b0, b1 := unpack(acts[(4*j+1)*lanes])
			c0, c1 := unpack(acts[(4*j+2)*lanes])
			d0, d1 := unpack(acts[(4*j+3)*lanes])
			for r, v := range (*[8]uint32)(words[j*lanes:]) {
				sum[r] += int32(v&15)*a0 + int32(v>>16&15)*a1 + int32(v>>4&15)*b0 + int32(v>>20&15)*b1 +
					int32(v>>8&15)*c0 + int32(v>>24&15)*c1 + int32(v>>12&15)*d0 + int32(v>>28)*d1
			}
		}
		scale, low := (*[8]float32)(w.scale[b*lanes:]), (*[8]float32)(w.low[b*lanes:])
		xs, xsum := x.scale[b*lanes], x.sum[b*lanes]
		for r := range 8 {
			acc[r] += float32(float32(sum[r]) * float32(scale[r]*xs))
			offset[r] += float32(low[r] * xsum)
		}
	}
	for r := range 8 {
		y[r] = acc[r] + offset[r]
	}
}

func dotQ4Pair(y0, y1 *[8]float32, w q4Group, x0, x1 actRow) {
	dotQ4(y0, w, x0)
	dotQ4(y1, w, x1)
}

func unpack(pair uint32) (int32, int32) { return int32(int16(pair)), int32(pair) >> 16 }

func dotQ8(y *[8]float32, w q8Group, x actRow) {
	var acc [8]float32
	for b := range len(x.scale) / lanes {
		weights := (*[q8Block]int8)(w.q[b*q8Block:])
		acts := (*[actWords]uint32)(x.q[b*actWords:])
		var sum [8]int32
		for j := range blockSize / 2 {
			x0, x1 := unpack(acts[j*lanes])
			pair := (*[2 * lanes]int8)(weights[j*2*lanes:])
			for r := range 8 {
				sum[r] += int32(pair[2*r])*x0 + int32(pair[2*r+1])*x1
			}
		}
		scale, xs := (*[8]float32)(w.scale[b*lanes:]), x.scale[b*lanes]
		for r := range 8 {
			acc[r] += float32(float32(sum[r]) * float32(scale[r]*xs))
		}
	}
	*y = acc
}

func dot(a, b []float32) float32 {
	var acc [8]float32
	for i := 0; i+8 <= len(a); i += 8 {
		x, y := (*[8]float32)(a[i:]), (*[8]float32)(b[i:])
		for r := range 8 {
			acc[r] += float32(x[r] * y[r])
		}
	}
	return sum8(&acc)
}

func sum8(t *[8]float32) float32 {
	return ((t[0] + t[4]) + (t[1] + t[5])) + ((t[2] + t[6]) + (t[3] + t[7]))
}

func axpy(y []float32, s float32, x []float32) {
	x = x[:len(y)]
	for i, v := range x {
		y[i] += float32(s * v)
	}
}
