package smol

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/gomlx/compute/dtypes/float16"
)

// Matrices are stored for the kernels. Rows stand in groups of eight, one per lane of a vector, and columns in blocks of 32, as the
// quantisation has them: a kernel walks the blocks of a group and ends with eight results, without ever adding across lanes.
// Columns are taken in pairs, because one instruction multiplies and adds two neighbouring 16-bit integers.
const (
	blockSize = 32                    // columns that share a scale
	lanes     = 8                     // rows in a group
	actWords  = blockSize / 2 * lanes // activations of a block, a pair in a word, each repeated for the rows of a group
	q8Block   = blockSize * lanes     // weights of a block in a group, a byte each
	q4Words   = blockSize * lanes / 8 // the same, eight nibbles a word
	q4Bytes   = 2 + 2 + blockSize/2   // a Q4_1 block in GGUF: scale and minimum as float16, then nibbles
	q8Bytes   = 2 + blockSize         // a Q8_0 block in GGUF: scale as float16, then bytes
	actLevels = 1<<14 - 1             // 15 bits with sign; 8 bits flip near-ties between tokens, measured
	actFloor  = 1e-20                 // keeps the scale of an all-zero block finite
	half      = blockSize / 2         // Q4_1 keeps column i and i+16 in one byte
	mulGrain  = 8                     // groups of rows a goroutine takes at a time
)

// q4Matrix has weights of four bits: w = scale*q + low, with a scale and a low for each block of a row.
type q4Matrix struct {
	rows, cols int
	// q holds for each group and block four words for each of eight rows. Word j of a row has columns 8j to 8j+7 of the block:
	// pair p of them in bits 4p and 16+4p, so that one mask picks a pair as two 16-bit integers after a shift by 4p.
	q          []uint32
	scale, low []float32 // eight for each group and block
}

// q8Matrix has weights of eight bits: w = scale*q.
type q8Matrix struct {
	rows, cols int
	q          []int8 // for each group and block 16 pairs of columns, each for eight rows
	scale      []float32
}

type q4Group struct {
	q          []uint32
	scale, low []float32
}

type q8Group struct {
	q     []int8
	scale []float32
}

// newQ4Matrix stacks tensors in GGUF's Q4_1 format, all of cols columns, into one matrix.
// The caller has checked that each has a multiple of eight rows and cols is a multiple of 32.
func newQ4Matrix(cols int, tensors ...[]byte) q4Matrix {
	total := 0
	for _, t := range tensors {
		total += len(t) / q4Bytes
	}
	w := q4Matrix{
		rows: total * blockSize / cols, cols: cols,
		q: make([]uint32, total*blockSize/8), scale: make([]float32, total), low: make([]float32, total),
	}
	perRow, row := cols/blockSize, 0
	for _, t := range tensors {
		for ; len(t) > 0; row++ {
			for col := range perRow {
				var block []byte
				block, t = t[:q4Bytes], t[q4Bytes:]
				at, lane := row/lanes*perRow+col, row%lanes
				w.scale[at*lanes+lane] = half2float(block)
				w.low[at*lanes+lane] = half2float(block[2:])
				var q [blockSize]uint32
				for i, c := range block[4:] {
					q[i], q[i+half] = uint32(c&15), uint32(c>>4)
				}
				for j := range 4 {
					var word uint32
					for p := range 4 {
						word |= q[8*j+2*p]<<(4*p) | q[8*j+2*p+1]<<(16+4*p)
					}
					w.q[at*q4Words+j*lanes+lane] = word
				}
			}
		}
	}
	return w
}

// newQ8Matrix does the same for one tensor in Q8_0 format.
func newQ8Matrix(cols int, t []byte) q8Matrix {
	total := len(t) / q8Bytes
	w := q8Matrix{rows: total * blockSize / cols, cols: cols, q: make([]int8, total*blockSize), scale: make([]float32, total)}
	perRow := cols / blockSize
	for i := range total {
		block := t[i*q8Bytes : (i+1)*q8Bytes]
		at, lane := i/perRow/lanes*perRow+i%perRow, i/perRow%lanes
		w.scale[at*lanes+lane] = half2float(block)
		for j, c := range block[2:] {
			w.q[(at*blockSize/2+j/2)*2*lanes+lane*2+j%2] = int8(c)
		}
	}
	return w
}

func half2float(b []byte) float32 { return float16.FromBits(binary.LittleEndian.Uint16(b)).Float32() }

func (w *q4Matrix) group(g int) q4Group {
	n := w.cols / blockSize
	return q4Group{w.q[g*n*q4Words : (g+1)*n*q4Words], w.scale[g*n*lanes : (g+1)*n*lanes], w.low[g*n*lanes : (g+1)*n*lanes]}
}

func (w *q8Matrix) group(g int) q8Group {
	n := w.cols / blockSize
	return q8Group{w.q[g*n*q8Block : (g+1)*n*q8Block], w.scale[g*n*lanes : (g+1)*n*lanes]}
}

// row writes one row as floats: an embedding.
func (w *q8Matrix) row(y []float32, row int) {
	g, lane := w.group(row/lanes), row%lanes
	for i := range y {
		b, j := i/blockSize, i%blockSize
		y[i] = float32(g.q[(b*blockSize/2+j/2)*2*lanes+lane*2+j%2]) * g.scale[b*lanes+lane]
	}
}

// activations are rows of floats as 15-bit integers with a scale for each block of 32, all repeated for eight lanes.
type activations struct {
	rows, cols int
	q          []uint32  // two neighbouring columns in a word, the first one in its lower half
	scale, sum []float32 // sum is that of the block's floats as quantised, which a q4Matrix multiplies with low
}

type actRow struct {
	q          []uint32
	scale, sum []float32
}

// newActivations makes room for rows times cols.
func newActivations(rows, cols int) *activations {
	n := rows * cols / blockSize
	return &activations{q: make([]uint32, n*actWords), scale: make([]float32, n*lanes), sum: make([]float32, n*lanes)}
}

func (a *activations) row(i int) actRow {
	n := a.cols / blockSize
	return actRow{a.q[i*n*actWords : (i+1)*n*actWords], a.scale[i*n*lanes : (i+1)*n*lanes], a.sum[i*n*lanes : (i+1)*n*lanes]}
}

// set quantises x, which has rows of cols floats.
func (a *activations) set(x []float32, cols int) {
	a.rows, a.cols = len(x)/cols, cols
	for b := range len(x) / blockSize {
		block := (*[blockSize]float32)(x[b*blockSize:])
		peak := float32(actFloor)
		for _, v := range block {
			peak = max(peak, v, -v)
		}
		scale, sum := peak/actLevels, int32(0)
		inverse := 1 / scale
		q := (*[actWords]uint32)(a.q[b*actWords:])
		for j := range blockSize / 2 {
			first, second := round(block[2*j]*inverse), round(block[2*j+1]*inverse)
			sum += first + second
			word := uint32(uint16(first)) | uint32(second)<<16
			for r := range lanes {
				q[j*lanes+r] = word
			}
		}
		for r := range lanes {
			a.scale[b*lanes+r], a.sum[b*lanes+r] = scale, scale*float32(sum)
		}
	}
}

// round gives the nearest integer, and of two the one further from zero.
func round(v float32) int32 {
	if v < 0 {
		return int32(v - 0.5)
	}
	return int32(v + 0.5)
}

// mulQ4 sets y to the product of each row of x with w, transposed.
func mulQ4(k *kernels, threads int, y []float32, w *q4Matrix, x *activations) {
	parallel(threads, w.rows/lanes, mulGrain, func(from, to int) {
		for g := from; g < to; g++ {
			group, y := w.group(g), y[g*lanes:]
			i := 0
			for ; i+1 < x.rows; i += 2 {
				k.dotQ4Pair((*[8]float32)(y[i*w.rows:]), (*[8]float32)(y[(i+1)*w.rows:]), group, x.row(i), x.row(i+1))
			}
			if i < x.rows {
				k.dotQ4((*[8]float32)(y[i*w.rows:]), group, x.row(i))
			}
		}
	})
}

// mulQ8 sets y to the product of the first row of x with w, transposed.
func mulQ8(k *kernels, threads int, y []float32, w *q8Matrix, x *activations) {
	parallel(threads, w.rows/lanes, 8*mulGrain, func(from, to int) {
		for g := from; g < to; g++ {
			k.dotQ8((*[8]float32)(y[g*lanes:]), w.group(g), x.row(0))
		}
	})
}

// parallel splits [0,n) into ranges of grain and runs f on them in up to the given number of goroutines.
// Each result is computed whole by one of them, so it does not depend on their number.
func parallel(threads, n, grain int, f func(from, to int)) {
	if threads <= 1 || n <= grain {
		f(0, n)
		return
	}
	var next atomic.Int64
	work := func() {
		for {
			from := int(next.Add(int64(grain))) - grain
			if from >= n {
				return
			}
			f(from, min(n, from+grain))
		}
	}
	var wg sync.WaitGroup
	for range min(threads, (n+grain-1)/grain) - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
}
