package smol

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestKernelsAgreeToTheBit(t *testing.T) {
	fast := fastest()
	t.Logf("%s against %s", fast.name, plain.name)
	r := rand.New(rand.NewPCG(1, 2))
	random := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(r.NormFloat64())
		}
		return v
	}
	for _, cols := range []int{32, 64, 576, 1536} {
		n := cols / blockSize
		acts := newActivations(2, cols)
		x := random(2 * cols)
		clear(x[:blockSize]) // a block of zeros
		acts.set(x, cols)
		q4 := q4Group{make([]uint32, n*q4Words), random(n * lanes), random(n * lanes)}
		for i := range q4.q {
			q4.q[i] = r.Uint32()
		}
		q8 := q8Group{make([]int8, n*q8Block), random(n * lanes)}
		for i := range q8.q {
			q8.q[i] = int8(r.IntN(256) - 128)
		}
		var got, want [2][8]float32
		for i := range 2 {
			fast.dotQ4(&got[i], q4, acts.row(i))
			plain.dotQ4(&want[i], q4, acts.row(i))
		}
		if got != want {
			t.Errorf("dotQ4, %d columns: %v, want %v", cols, got, want)
		}
		got = [2][8]float32{}
		if fast.dotQ4Pair(&got[0], &got[1], q4, acts.row(0), acts.row(1)); got != want {
			t.Errorf("dotQ4Pair, %d columns: %v, want %v", cols, got, want)
		}
		fast.dotQ8(&got[0], q8, acts.row(0))
		if plain.dotQ8(&want[0], q8, acts.row(0)); got[0] != want[0] {
			t.Errorf("dotQ8, %d columns: %v, want %v", cols, got[0], want[0])
		}
		if a, b := fast.dot(x[:cols], x[cols:]), plain.dot(x[:cols], x[cols:]); a != b {
			t.Errorf("dot, %d columns: %v, want %v", cols, a, b)
		}
		y := random(cols)
		z := append([]float32(nil), y...)
		fast.axpy(y, 0.3, x[:cols])
		plain.axpy(z, 0.3, x[:cols])
		for i := range y {
			if y[i] != z[i] {
				t.Fatalf("axpy, %d columns: %v at %d, want %v", cols, y[i], i, z[i])
			}
		}
	}
}

func TestMatricesMultiplyAsTheirFormatsSay(t *testing.T) {
	const rows, cols, tolerance = 16, 64, 2e-4 // of 15-bit activations
	r := rand.New(rand.NewPCG(3, 4))
	x := make([]float32, 3*cols)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	acts := newActivations(3, cols)
	acts.set(x, cols)
	k := fastest()

	b4, w4 := randomQ4(r, rows, cols)
	m4, y := newQ4Matrix(cols, b4), make([]float32, 3*rows)
	mulQ4(&k, 1, y, &m4, acts)
	for i := range y {
		var want float64
		for j := range cols {
			want += float64(w4[i%rows*cols+j]) * float64(x[i/rows*cols+j])
		}
		if math.Abs(float64(y[i])-want) > tolerance*math.Sqrt(cols) {
			t.Errorf("Q4_1, element %d: %v, want %v", i, y[i], want)
		}
	}

	b8, w8 := randomQ8(r, rows, cols)
	m8 := newQ8Matrix(cols, b8)
	mulQ8(&k, 1, y[:rows], &m8, acts)
	row := make([]float32, cols)
	for i := range rows {
		var want float64
		m8.row(row, i)
		for j := range cols {
			want += float64(w8[i*cols+j]) * float64(x[j])
			if row[j] != w8[i*cols+j] {
				t.Fatalf("row %d, column %d: %v, want %v", i, j, row[j], w8[i*cols+j])
			}
		}
		if math.Abs(float64(y[i])-want) > tolerance*math.Sqrt(cols) {
			t.Errorf("Q8_0, element %d: %v, want %v", i, y[i], want)
		}
	}
}

// randomQ4 makes a tensor of GGUF's type Q4_1, and what it stands for.
func randomQ4(r *rand.Rand, rows, cols int) (tensor []byte, values []float32) {
	for range rows * cols / blockSize {
		// scale 2^-5 to 2^-3 and minimum -2^-2 to -2^-1 as float16: small, as those of real weights
		block := []byte{byte(r.Uint32()), 0x28 + byte(r.IntN(8)), byte(r.Uint32()), 0xB4 + byte(r.IntN(4))}
		for range half {
			block = append(block, byte(r.Uint32()))
		}
		scale, low := half2float(block), half2float(block[2:])
		for _, c := range block[4:] {
			values = append(values, scale*float32(c&15)+low)
		}
		for _, c := range block[4:] {
			values = append(values, scale*float32(c>>4)+low)
		}
		tensor = append(tensor, block...)
	}
	return tensor, values
}

// randomQ8 does the same with Q8_0.
func randomQ8(r *rand.Rand, rows, cols int) (tensor []byte, values []float32) {
	for range rows * cols / blockSize {
		block := []byte{byte(r.Uint32()), 0x1C + byte(r.IntN(4))}
		scale := half2float(block)
		for range blockSize {
			c := byte(r.Uint32())
			block, values = append(block, c), append(values, scale*float32(int8(c)))
		}
		tensor = append(tensor, block...)
	}
	return tensor, values
}
